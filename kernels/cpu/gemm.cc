// Matrix products through oneDNN. dnnl_sgemm is stateless: no primitive to create for a shape, so packed sequences of any
// length cost nothing extra, and on one thread it reaches 100 to 117 of 117 GFLOP/s at ELECTRA's shapes, as much as a matmul primitive.
#include "kernels/gemm.h"

#include <dnnl.h>

#include <algorithm>
#include <exception>

#include "kernels/cpu/common.h"
#include "kernels/cpu/gemm_block.h"

// Of libgomp, the OpenMP runtime that Debian's oneDNN is linked with. Declared here because <omp.h> and -fopenmp are the
// compiler's: clang's would set the threads of another runtime.
extern "C" void omp_set_num_threads(int threads);

namespace electra {
namespace cpu {

void gemm_block(const GemmBlock& s, const float* a, const float* b, float* c) {
  if (s.m == 0 || s.n == 0) return;
  if (s.k == 0) {  // dnnl_sgemm returns without writing c
    for (int64_t i = 0; i < s.m && !s.accumulate; ++i) std::fill_n(c + i * s.ldc, s.n, 0.0f);
    return;
  }
  // The setting belongs to the calling thread; ours must not start OpenMP's.
  thread_local const bool single = (omp_set_num_threads(1), true);
  static_cast<void>(single);
  const dnnl_status_t status = dnnl_sgemm(s.transpose_a ? 'T' : 'N', s.transpose_b ? 'T' : 'N', s.m, s.n, s.k, 1.0f, a, s.lda, b,
                                          s.ldb, s.accumulate ? 1.0f : 0.0f, c, s.ldc);
  // Bodies of work items must not throw, and with valid shapes the call fails only without memory: fail loudly.
  if (status != dnnl_success) std::terminate();
}

void gemm_block(const GemmBlock& s, const double* a, const double* b, double* c) {
  for (int64_t i = 0; i < s.m; ++i)
    for (int64_t j = 0; j < s.n; ++j) {
      double sum = s.accumulate ? c[i * s.ldc + j] : 0;
      for (int64_t p = 0; p < s.k; ++p)
        sum += (s.transpose_a ? a[p * s.lda + i] : a[i * s.lda + p]) * (s.transpose_b ? b[j * s.ldb + p] : b[p * s.ldb + j]);
      c[i * s.ldc + j] = sum;
    }
}

}  // namespace cpu

template <> size_t gemm_workspace<Backend::cpu>(int64_t, int64_t, int64_t) { return 0; }

template <> void gemm<Backend::cpu>(const Gemm& g, Stream& stream) {
  const int64_t m = g.c.rows(), n = g.c.cols(), k = g.transpose_a ? g.a.rows() : g.a.cols();
  check_shape("gemm", "a", g.a.shape, g.transpose_a ? Shape{k, m} : Shape{m, k});
  check_shape("gemm", "b", g.b.shape, g.transpose_b ? Shape{n, k} : Shape{k, n});
  check_dtype("gemm", "b", g.b.dtype, g.a.dtype);
  check_dtype("gemm", "c", g.c.dtype, g.a.dtype);
  cpu::dispatch_float("gemm", g.a.dtype, [&]<class T>() {
    const int64_t block = m >= 2048 ? 256 : 64;  // rows of c in a work item
    stream.pool().parallel_for(cpu::items_of(m, block), [&](int64_t item, int) {
      const int64_t row = item * block, rows = std::min(block, m - row);
      const T* a = g.a.as<T>() + (g.transpose_a ? row : row * k);
      cpu::gemm_block({.m = rows, .n = n, .k = k, .transpose_a = g.transpose_a, .transpose_b = g.transpose_b,
                       .accumulate = g.accumulate, .lda = g.a.cols(), .ldb = g.b.cols(), .ldc = n},
                      a, g.b.as<T>(), g.c.as<T>() + row * n);
    });
  });
}

}  // namespace electra
