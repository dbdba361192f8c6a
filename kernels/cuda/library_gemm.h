// Matrix products by a library (GemmKind::library). One definition is linked: kernels/cuda/cublaslt.cc, or with the host executor
// kernels/simt/library_gemm.cc.
#pragma once
#include "kernels/core/device.h"
#include "kernels/core/tensor.h"
#include "kernels/gemm.h"

namespace electra::cuda {

// As Gemm says, with its shapes checked already, then + bias (n), of the type of c, where there is one.
struct LibraryGemm {
  Gemm gemm;
  Tensor bias = {};
};
void library_gemm(const LibraryGemm& args, Stream& stream);

GemmLibrary library_gemm_info();
size_t library_gemm_workspace();  // bytes that serve every shape

}  // namespace electra::cuda
