// Our own matrix products for the CUDA backend: the second implementation of kernels/gemm.h (GemmKind::own).
#pragma once
#include "kernels/core/device.h"
#include "kernels/core/tensor.h"
#include "kernels/gemm.h"

namespace electra::cuda {

// c = op(a) op(b), as Gemm says and with its shapes checked already; then + bias (n) where there is one, then GELU (erf), which
// writes the value before it to u where u is present. Both only without accumulate.
struct OwnGemm {
  Gemm gemm;
  Tensor bias = {}, u = {};
  bool gelu = false;
};
void own_gemm(const OwnGemm& args, Stream& stream);

// Bytes of Gemm::workspace: partial products where few tiles have a long sum. Without a workspace sums are not split.
size_t own_gemm_workspace(int64_t m, int64_t n, int64_t k);

}  // namespace electra::cuda
