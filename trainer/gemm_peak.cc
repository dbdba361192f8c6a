#include "trainer/gemm_peak.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <vector>

#include "kernels/core/bf16.h"
#include "kernels/dispatch.h"
#include "kernels/gemm.h"

namespace electra {
namespace {

bool on_gpu(const Stream& stream) { return kGpuBuild == GpuBuild::CUDA && stream.backend() == Backend::cuda; }
// Time means nothing there: a small product will do.
bool on_executor(const Stream& stream) { return kGpuBuild == GpuBuild::SIMT && stream.backend() == Backend::cuda; }

// Calls run() for about `seconds`, at least three times after one that does not count; returns the fewest seconds one took.
template <class Run> double fewest_seconds(const Stream& stream, double seconds, Run run) {
  using Clock = std::chrono::steady_clock;
  const auto since = [](Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); };
  run();  // the library chooses its algorithm, memory gets its pages
  stream.synchronize();
  const auto start = Clock::now();
  double fewest = 0;
  for (int i = 0; i < 3 || (!on_executor(stream) && since(start) < seconds); ++i) {
    const auto begin = Clock::now();
    run();
    stream.synchronize();
    const double took = since(begin);
    fewest = i == 0 ? took : std::min(fewest, took);
  }
  return fewest;
}

// A GPU multiplies zeros faster than other numbers: values in (-1, 1), with a period of 64 Ki + 1. buffer is larger than that.
void fill_with_noise(const Buffer& buffer, DType dtype, const Stream& stream) {
  constexpr size_t kPeriod = (1 << 16) + 1;
  std::vector<std::byte> period(kPeriod * size_of(dtype));
  uint32_t state = 1;
  for (size_t i = 0; i < kPeriod; ++i) {
    state = state * 1664525 + 1013904223;
    const float x = static_cast<float>(state >> 8) * 0x1p-23f - 1;
    const bf16 half = to_bf16(x);
    std::memcpy(period.data() + i * size_of(dtype), dtype == DType::bf16 ? static_cast<const void*>(&half) : &x, size_of(dtype));
  }
  copy(buffer.data(), period.data(), period.size(), stream);
  for (size_t filled = period.size(); filled < buffer.bytes();) {
    const size_t piece = std::min(filled, buffer.bytes() - filled);
    copy(buffer.data() + filled, buffer.data(), piece, stream);
    filled += piece;
  }
  stream.synchronize();
}

}  // namespace

double measure_gemm_peak(Stream stream, DType dtype, double seconds) {
  const bool large = on_gpu(stream);
  const int64_t rows = large ? 8192 : on_executor(stream) ? 64 : 2048, width = large ? 8192 : on_executor(stream) ? 64 : 768;
  const Memory memory = memory_of(stream.backend());
  const auto bytes = [&](int64_t height) { return static_cast<size_t>(height * width) * size_of(dtype); };
  const Buffer a(bytes(rows), memory), b(bytes(width), memory), c(bytes(rows), memory);
  const size_t scratch = dispatch(stream, [&]<Backend B>() { return gemm_workspace<B>(rows, width, width); });
  const Buffer workspace(large ? scratch : 0, memory);
  if (large) {
    fill_with_noise(a, dtype, stream);
    fill_with_noise(b, dtype, stream);
  }
  const Gemm product{.a = {a.data(), {rows, width}, dtype},
                     .b = {b.data(), {width, width}, dtype},
                     .c = {c.data(), {rows, width}, dtype},
                     .transpose_b = true,
                     .workspace = {workspace.data(), {static_cast<int64_t>(workspace.bytes())}, DType::u8}};
  const double fewest = fewest_seconds(stream, seconds, [&] { dispatch(stream, [&]<Backend B>() { gemm<B>(product, stream); }); });
  return 2.0 * static_cast<double>(rows) * static_cast<double>(width) * static_cast<double>(width) / fewest;
}

double measure_copy_bandwidth(Stream stream, double seconds) {
  const size_t bytes = size_t{on_gpu(stream) ? 512u : 64u} << 20;
  const Memory memory = memory_of(stream.backend());
  const Buffer from(bytes, memory), to(bytes, memory);
  constexpr int64_t kPieces = 64;
  const size_t piece = bytes / kPieces;
  const double fewest = fewest_seconds(stream, seconds, [&] {
    if (stream.backend() == Backend::cuda) return copy(to.data(), from.data(), bytes, stream);
    stream.pool().parallel_for(kPieces, [&](int64_t i, int) {
      std::memcpy(to.data() + static_cast<size_t>(i) * piece, from.data() + static_cast<size_t>(i) * piece, piece);
    });
  });
  return 2.0 * static_cast<double>(bytes) / fewest;
}

}  // namespace electra
