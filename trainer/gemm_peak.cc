#include "trainer/gemm_peak.h"

#include <algorithm>
#include <chrono>

#include "kernels/dispatch.h"
#include "kernels/gemm.h"

namespace electra {

double measure_gemm_peak(Stream stream, DType dtype, double seconds) {
  // On the host executor time means nothing: a small one will do.
  const bool executor = kGpuBuild == GpuBuild::SIMT && stream.backend() == Backend::cuda;
  const int64_t rows = executor ? 64 : 2048, width = executor ? 64 : 768;
  const Memory memory = memory_of(stream.backend());
  const size_t element = size_of(dtype);
  const auto bytes = [&](int64_t elements) { return static_cast<size_t>(elements) * element; };
  const Buffer a(bytes(rows * width), memory), b(bytes(width * width), memory), c(bytes(rows * width), memory);
  const Gemm product{.a = {a.data(), {rows, width}, dtype},
                     .b = {b.data(), {width, width}, dtype},
                     .c = {c.data(), {rows, width}, dtype},
                     .transpose_b = true};
  using Clock = std::chrono::steady_clock;
  const auto since = [](Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); };
  const auto start = Clock::now();
  double best = 0;
  for (int i = 0; i < 3 || (!executor && since(start) < seconds); ++i) {
    const auto begin = Clock::now();
    dispatch(stream, [&]<Backend B>() { gemm<B>(product, stream); });
    stream.synchronize();
    best = std::max(best, 2.0 * static_cast<double>(rows * width * width) / since(begin));
  }
  return best;
}

}  // namespace electra
