// As primitives.h, for what Hopper adds.
#pragma once
#include "kernels/core/bf16.h"

namespace electra::test {

// c (rows x columns) = a (rows x depth) b^T (columns x depth), in blocks of 64 x n, n = 64 or 128; columns is a multiple of 2, depth of 64.
void run_gemm_sm90(float* c, const bf16* a, const bf16* b, int rows, int columns, int depth, int n);
// d (64 x n) = d0 + p (64 x depth, through registers) v (depth x n, transposed by wgmma), depth a multiple of 16 up to 64.
void run_wgmma_from_registers(float* d, const float* d0, const bf16* p, const bf16* v, int depth, int n);
// out = in, `bytes` of them in pieces of 512 through shared memory by bulk copies.
void run_bulk_load(uint8_t* out, const uint8_t* in, int bytes);

}  // namespace electra::test
