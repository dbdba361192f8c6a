#include <atomic>

#include "kernels/cuda/library_gemm.h"
#include "kernels/gemm.h"

namespace electra {
namespace {

std::atomic<GemmKind> kind = GemmKind::library;

}  // namespace

void set_gemm_kind(GemmKind value) { kind = value; }
GemmKind gemm_kind() { return kind; }

GemmLibrary gemm_library(Backend backend) {
  if constexpr (kHasCudaBackend)
    if (backend == Backend::cuda) return cuda::library_gemm_info();
  return {"oneDNN", {}};
}

}  // namespace electra
