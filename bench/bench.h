// What the benchmarks share: the device they run on, the ceilings they are measured against, and how they are timed.
//
//   bench_x [--device auto|cpu|cuda|simt] [--dtype f32|bf16] [--l2 cold|warm] [Google Benchmark's options]
//
// auto is the GPU where there is one. Types default to bf16 on a GPU and on the host executor, fp32 on the CPU. On a GPU every run is
// timed by events, with the second-level cache overwritten before (--l2 warm: not); on the CPU by the processor's clock with one
// thread, so that a busy machine disturbs less, and by the wall with more. The host executor runs everything once, at toy sizes, to
// show that it runs: its times mean nothing.
#pragma once
#include <benchmark/benchmark.h>

#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "kernels/core/device.h"
#include "kernels/core/step_state.h"
#include "kernels/core/tensor.h"
#include "kernels/dispatch.h"

namespace electra::bench {

// What was chosen on the command line.
DeviceKind device_kind();
inline bool on_gpu() { return device_kind() == DeviceKind::cuda; }
DType dtype();
// Of a pool of so many threads; on a GPU or the executor its one stream.
Stream stream(int threads = 1);

// What the mathematics asks for: floating-point operations, and bytes that must cross memory once.
struct Work {
  double flops = 0, bytes = 0;
};

// Times run() and reports median, p10 and p90 in microseconds, FLOP/s, bytes/s, and the shares of the run's own ceilings: of_product
// (a large matrix product), of_copy (a large copy) and of_ceiling, the greater of the two: 1 is a kernel that cannot be faster.
void measure(benchmark::State& state, const Stream& stream, const Work& work, const std::function<void()>& run);

// Registers a benchmark whose arguments have these names.
benchmark::internal::Benchmark* add(const std::string& name, const std::vector<std::string>& arguments, void (*function)(benchmark::State&));

using Arguments = std::vector<std::vector<int64_t>>;
// The list for the device that was chosen.
Arguments pick(const Arguments& cpu, const Arguments& gpu, const Arguments& executor);
void apply(benchmark::internal::Benchmark* b, const Arguments& all);

// Tensors in the memory of a stream's kernels.
class Tensors {
 public:
  explicit Tensors(const Stream& stream) : stream_(stream) {}
  Tensor random(const Shape& shape, DType dtype, double scale = 1);  // uniform in (−scale, scale)
  Tensor zeros(const Shape& shape, DType dtype);
  Tensor workspace(size_t bytes) { return zeros({static_cast<int64_t>(bytes)}, DType::u8); }
  template <class T> Tensor of(const std::vector<T>& values) {
    const Tensor t = zeros({static_cast<int64_t>(values.size())}, dtype_of<T>);
    copy(t.data, values.data(), t.bytes(), stream_);
    stream_.synchronize();
    return t;
  }

 private:
  Stream stream_;
  std::deque<Buffer> buffers_;
};

// 0, length, 2 length, … rows: offsets of sequences of equal length.
std::vector<int32_t> equal_offsets(int64_t rows, int64_t length);

// The whole program: options, the ceilings, the JSON context (device, driver, clocks, commit, ceilings), what register_all adds,
// and the run. Returns the exit status: 2 for wrong usage, 1 for a device that cannot be had.
int run(int argc, char** argv, void (*register_all)());

}  // namespace electra::bench
