// What kernels/device_sm90.cuh calls on the host.
#pragma once
#include "kernels/simt/simt.h"

namespace electra::simt {

void mbarrier_init(void* barrier, int arrivals, Site at);
void mbarrier_arrive(void* barrier, int expected_bytes, Site at);
void mbarrier_wait(void* barrier, int parity, Site at);

void tma_load(void* to, const void* map, int column, int row, void* barrier, Site at);
void bulk_load(void* to, const void* from, int bytes, void* barrier, Site at);

uint32_t shared_offset(const void* p);
void wgmma_fence(Site at);
void wgmma_commit(Site at);
void wgmma_wait(int groups, Site at);
// a_registers: four words of the calling thread, or null for the descriptor a.
void wgmma(float* d, int columns, const uint32_t* a_registers, uint64_t a, uint64_t b, bool transposed_b, bool accumulate, Site at);

}  // namespace electra::simt
