#include "trainer/gemm_peak.h"

#include <algorithm>
#include <chrono>

#include "kernels/dispatch.h"
#include "kernels/gemm.h"

namespace electra {

double measure_gemm_peak(Stream stream, DType dtype, double seconds) {
  constexpr int64_t kRows = 2048, kWidth = 768;
  const Memory memory = memory_of(stream.backend());
  const size_t element = size_of(dtype);
  const Buffer a(kRows * kWidth * element, memory), b(kWidth * kWidth * element, memory), c(kRows * kWidth * element, memory);
  const Gemm product{.a = {a.data(), {kRows, kWidth}, dtype},
                     .b = {b.data(), {kWidth, kWidth}, dtype},
                     .c = {c.data(), {kRows, kWidth}, dtype},
                     .transpose_b = true};
  using Clock = std::chrono::steady_clock;
  const auto since = [](Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); };
  const auto start = Clock::now();
  double best = 0;
  for (int i = 0; i < 3 || since(start) < seconds; ++i) {
    const auto begin = Clock::now();
    dispatch(stream, [&]<Backend B>() { gemm<B>(product, stream); });
    stream.synchronize();
    best = std::max(best, 2.0 * kRows * kWidth * kWidth / since(begin));
  }
  return best;
}

}  // namespace electra
