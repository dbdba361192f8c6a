#include "kernels/gemm.h"

#include <algorithm>
#include <string>

#include "kernels/core/error.h"
#include "kernels/cuda/gemm_own.h"
#include "kernels/cuda/library_gemm.h"

namespace electra {

template <> size_t gemm_workspace<Backend::cuda>(int64_t m, int64_t n, int64_t k) {
  return std::max(cuda::own_gemm_workspace(m, n, k), cuda::library_gemm_workspace());
}

template <> void gemm<Backend::cuda>(const Gemm& g, Stream& stream) {
  const int64_t m = g.c.rows(), n = g.c.cols(), k = g.transpose_a ? g.a.rows() : g.a.cols();
  check_shape("gemm", "a", g.a.shape, g.transpose_a ? Shape{k, m} : Shape{m, k});
  check_shape("gemm", "b", g.b.shape, g.transpose_b ? Shape{n, k} : Shape{k, n});
  if (g.a.dtype != DType::f32 && g.a.dtype != DType::bf16)
    throw ShapeError("gemm", std::string("expected f32 or bf16 on this device, got ") + name_of(g.a.dtype));
  check_dtype("gemm", "b", g.b.dtype, g.a.dtype);
  if (g.c.dtype != DType::f32) check_dtype("gemm", "c", g.c.dtype, g.a.dtype);
  if (g.workspace && g.workspace.bytes() < gemm_workspace<Backend::cuda>(m, n, k))
    throw ShapeError("gemm", "workspace has " + std::to_string(g.workspace.bytes()) + " bytes, expected at least " +
                                 std::to_string(gemm_workspace<Backend::cuda>(m, n, k)));
  if (gemm_kind() == GemmKind::own) cuda::own_gemm({.gemm = g}, stream);
  else cuda::library_gemm({.gemm = g}, stream);
}

}  // namespace electra
