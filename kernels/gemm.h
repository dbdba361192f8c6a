// Matrix products, row-major: C = op(A) op(B) (+ C). The one entry to oneDNN on the CPU.
#pragma once
#include "kernels/core/backend.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

namespace electra {

// c (m, n) = op(a) (m, k) op(b) (k, n), plus c when accumulate. a is stored (k, m) when transpose_a, b is stored (n, k)
// when transpose_b. All of one dtype (f64: plain loops; f32: oneDNN, single-threaded inside work items of fixed size).
struct Gemm {
  Tensor a, b, c;
  bool transpose_a = false, transpose_b = false, accumulate = false;
};
template <Backend B> void gemm(const Gemm& args, Stream& stream);

}  // namespace electra
