// Matrix products inside one work item: single-threaded, any leading dimensions.
#pragma once
#include <cstdint>

namespace electra::cpu {

struct GemmBlock {
  int64_t m = 0, n = 0, k = 0;
  bool transpose_a = false, transpose_b = false, accumulate = false;
  int64_t lda = 0, ldb = 0, ldc = 0;  // elements between rows as stored
};

// c (m, n) = op(a) op(b), plus c when accumulate. float: oneDNN; double: plain loops, the definition.
void gemm_block(const GemmBlock& shape, const float* a, const float* b, float* c);
void gemm_block(const GemmBlock& shape, const double* a, const double* b, double* c);

}  // namespace electra::cpu
