// Matrix products, row-major: C = op(A) op(B) (+ C). The one entry to oneDNN on the CPU, and to cuBLASLt on a GPU.
#pragma once
#include <string>

#include "kernels/core/backend.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

namespace electra {

// c (m, n) = op(a) (m, k) op(b) (k, n), plus c when accumulate. a is stored (k, m) when transpose_a, b is stored (n, k)
// when transpose_b. On the CPU all of one dtype (f64: plain loops; f32: oneDNN, single-threaded inside work items of fixed
// size); on the CUDA backend a and b are f32 or bf16, and c is of their type or f32.
struct Gemm {
  Tensor a, b, c;
  bool transpose_a = false, transpose_b = false, accumulate = false;
  Tensor workspace = {};  // gemm_workspace() bytes, u8; may be absent: then some shapes run slower
};
template <Backend B> void gemm(const Gemm& args, Stream& stream);

// Bytes of Gemm::workspace, enough for every GemmKind.
template <Backend B> size_t gemm_workspace(int64_t m, int64_t n, int64_t k);

// Who computes the products of the CUDA backend: the library (cuBLASLt; on the host executor the CPU backend), or our own kernels.
enum class GemmKind : uint8_t { library, own };
// For the whole process; library unless set. To be called before products are issued or recorded, not while others do so.
void set_gemm_kind(GemmKind kind);
GemmKind gemm_kind();

// Who GemmKind::library is, with its version, and why it cannot be used here ("" where it can). Opens it.
struct GemmLibrary {
  std::string name, why_unusable;
};
GemmLibrary gemm_library(Backend backend);

}  // namespace electra
