// The discriminator's head against its FLOPs: forward 2 rows C (C + 1), backward three such products (u again, dx, dweight).
//   bench_binary_classifier [--benchmark_filter=…]   arguments: rows, width, threads
#include <benchmark/benchmark.h>

#include <vector>

#include "kernels/binary_classifier.h"
#include "kernels/core/device.h"
#include "kernels/core/philox.h"

using namespace electra;

namespace {

struct Fixture {
  int64_t rows, cols;
  ThreadPool pool;
  Stream stream{pool};
  StepState state;
  std::vector<float> x, weight, bias, out_weight, out_bias, labels, loss, logits, dx, dweight, dbias, dout_weight, dout_bias;
  std::vector<int32_t> offsets;
  std::vector<double> loss_sum;
  std::vector<int64_t> counts;
  Buffer workspace;

  explicit Fixture(const benchmark::State& s)
      : rows(s.range(0)),
        cols(s.range(1)),
        pool(static_cast<int>(s.range(2))),
        x(random(rows * cols, 1)),
        weight(random(cols * cols, 2)),
        bias(random(cols, 3)),
        out_weight(random(cols, 4)),
        out_bias(1),
        labels(count(rows)),
        loss(1),
        logits(count(rows)),
        dx(count(rows * cols)),
        dweight(count(cols * cols)),
        dbias(count(cols)),
        dout_weight(count(cols)),
        dout_bias(1),
        offsets{0, static_cast<int32_t>(rows)},
        loss_sum(1),
        counts(count(kBinaryCountsSize)),
        workspace(binary_classifier_workspace<Backend::cpu>(rows, cols, pool.threads(), DType::f32)) {
    state.disc_denominator = static_cast<double>(rows);
    for (size_t r = 0; r < labels.size(); ++r) labels[r] = r % 10 == 0 ? 1.0f : 0.0f;
  }
  static size_t count(int64_t n) { return static_cast<size_t>(n); }
  static std::vector<float> random(int64_t n, uint64_t key) {
    std::vector<float> values(count(n));
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = uniform_open(philox(key, {.group = static_cast<uint32_t>(i)}).word[0]) * 0.4f - 0.2f;
    return values;
  }
  template <class T> static Tensor tensor(std::vector<T>& v, const Shape& shape) { return {v.data(), shape, dtype_of<T>}; }
  Tensor scratch() const { return {workspace.data(), {static_cast<int64_t>(workspace.bytes())}, DType::u8}; }

  void forward() {
    binary_classifier_forward<Backend::cpu>({.x = tensor(x, {rows, cols}),
                                             .weight = tensor(weight, {cols, cols}),
                                             .bias = tensor(bias, {cols}),
                                             .out_weight = tensor(out_weight, {1, cols}),
                                             .out_bias = tensor(out_bias, {1}),
                                             .labels = tensor(labels, {rows}),
                                             .sequence_offsets = tensor(offsets, {2}),
                                             .loss = tensor(loss, {1}),
                                             .loss_sum = tensor(loss_sum, {1}),
                                             .logits = tensor(logits, {rows}),
                                             .counts = tensor(counts, {kBinaryCountsSize}),
                                             .workspace = scratch(),
                                             .state = &state},
                                            stream);
  }
  void backward() {
    binary_classifier_backward<Backend::cpu>({.x = tensor(x, {rows, cols}),
                                              .weight = tensor(weight, {cols, cols}),
                                              .bias = tensor(bias, {cols}),
                                              .out_weight = tensor(out_weight, {1, cols}),
                                              .labels = tensor(labels, {rows}),
                                              .sequence_offsets = tensor(offsets, {2}),
                                              .logits = tensor(logits, {rows}),
                                              .dloss = tensor(loss, {1}),
                                              .dx = tensor(dx, {rows, cols}),
                                              .dweight = tensor(dweight, {cols, cols}),
                                              .dbias = tensor(dbias, {cols}),
                                              .dout_weight = tensor(dout_weight, {1, cols}),
                                              .dout_bias = tensor(dout_bias, {1}),
                                              .workspace = scratch(),
                                              .state = &state},
                                             stream);
  }
};

void report(benchmark::State& s, const Fixture& f, int products) {
  const double flops = 2.0 * static_cast<double>(f.rows) * static_cast<double>(f.cols) * static_cast<double>(f.cols + 1);
  s.counters["FLOP/s"] = benchmark::Counter(products * flops, benchmark::Counter::kIsIterationInvariantRate);
}

void forward(benchmark::State& s) {
  Fixture fixture(s);
  for (auto _ : s) fixture.forward();
  report(s, fixture, 1);
}

void backward(benchmark::State& s) {
  Fixture fixture(s);
  fixture.forward();
  fixture.loss[0] = 1;  // backward's dloss
  for (auto _ : s) fixture.backward();
  report(s, fixture, 3);
}

// ELECTRA-Small at 16 x 128, electra-tiny at 64 x 64, ELECTRA-Base at 16 x 128. With one thread the processor's time counts.
void one_thread(benchmark::internal::Benchmark* b) {
  b->ArgNames({"rows", "cols", "threads"})->Unit(benchmark::kMillisecond);
  b->Args({2048, 256, 1})->Args({4096, 128, 1})->Args({2048, 768, 1});
}
void two_threads(benchmark::internal::Benchmark* b) {
  b->ArgNames({"rows", "cols", "threads"})->Unit(benchmark::kMillisecond)->UseRealTime()->Args({2048, 256, 2});
}

BENCHMARK(forward)->Apply(one_thread);
BENCHMARK(forward)->Apply(two_threads);
BENCHMARK(backward)->Apply(one_thread);
BENCHMARK(backward)->Apply(two_threads);

}  // namespace

BENCHMARK_MAIN();
