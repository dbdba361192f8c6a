// Kernels that apply one primitive of kernels/device.cuh each, for the conformance test. Pointers are device memory; each runs
// one warp unless its comment says otherwise.
#pragma once
#include <cstdint>

#include "kernels/core/bf16.h"
#include "kernels/core/philox.h"

namespace electra::test {

// d (16x8) = a (16x16) b (16x8) + c, row-major.
void run_mma(float* d, const bf16* a, const bf16* b, const float* c);
// The same through shared memory: b is stored as b^T (8x16) and loaded by ldmatrix_x2, or as b (16x8) and transposed on the way.
void run_mma_from_shared(float* d, const bf16* a, const bf16* b, bool b_is_transposed);
// Registers that ldmatrix gives lane l for matrices whose row i (8 elements) stands at row_of[i] of `rows`: out[l][matrices].
void run_ldmatrix(uint32_t* out, const uint16_t* rows, const int* row_of, int matrices, bool transposed);
// out[i] = in[i] in 16-byte pieces through shared memory in four groups, zeros where valid[piece] is 0; 128 threads, 4 pieces each.
void run_copy_async(uint32_t* out, const uint32_t* in, const uint8_t* valid);

struct WarpResults {  // arrays of 32, one element for each lane
  float* shfl;        // of the lane source[l]
  double* shfl_xor;   // 8 bytes, by 5
  float* shfl_up;     // by 3
  float* sum[6];      // warp_sum<1 << i>
  float* max[6];
  int* int_sum;
  int* int_max;
  float* arg_value;
  int* arg_index;     // warp_arg_max of (value, index[l])
  uint32_t* ballot;   // of value > 0
};
void run_warp(const WarpResults& out, const float* value, const int* source, const int* index);

// sum[i], max[i] as thread i of 128 got them; twice, to see the scratch memory used again.
void run_block_reduce(float* sum, float* max, float* second_sum, const float* value);
// Two groups of 64 threads each reverse their half of `in` (128) by themselves, `rounds` times.
void run_groups(float* out, const float* in, int rounds);

void run_philox(Bits128* bits, float* uniform, uint32_t* draws, uint64_t key, const RandomCoordinates* at, int count);
void run_to_float(float* out, const bf16* in, int count);
void run_to_bf16(bf16* out, uint32_t* packed, const float* in, int count);  // packed[i]: in[i] with in[count - 1 - i]

// Copies `bytes` in vectors of `vec_bytes`, by one of the three ways to use the caches.
void run_copy_vectors(uint8_t* out, const uint8_t* in, int bytes, int vec_bytes, int cache);
void run_load_store_floats(bf16* out_bf16, float* out_float, const bf16* in, int count);

struct Counts { uint32_t add_u32; int32_t add_i32; uint64_t add_u64; uint32_t max_u32; int32_t max_i32; uint32_t bits; uint32_t shared_add; };
void run_atomics(Counts* counts, int blocks);  // 128 threads a block

struct MathResults { float *exp2, *exp, *log2, *log, *rsqrt, *erf, *fma; };
void run_math(const MathResults& out, const float* in, int count);  // in > 0
void run_indices(int* out);  // grid (2,3,2), block (8,4,2): for each thread, in order, its 12 indices and extents

}  // namespace electra::test
