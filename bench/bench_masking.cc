// Masking, corruption and gathering against the bytes they must move (docs/ops/masking.md): masking 8 a token and 12 a slot,
// corruption 12 and 12, gathering 8 an element and 8 a slot, its backward 12 an element, 8 a slot and 4 an element of dx.
//   bench_masking [--benchmark_filter=…]   arguments: sequences, tokens of one, slots of one, width, threads
#include <benchmark/benchmark.h>

#include <vector>

#include "kernels/core/device.h"
#include "kernels/masking.h"

using namespace electra;

namespace {

struct Fixture {
  int64_t sequences, length, predictions, cols, rows, slots;
  ThreadPool pool;
  Stream stream{pool};
  StepState state{.seed = 1};
  std::vector<int32_t> ids, offsets, masked_ids, masked_rows, targets, sampled, corrupted;
  std::vector<float> weights, labels, x, y;

  explicit Fixture(const benchmark::State& s)
      : sequences(s.range(0)),
        length(s.range(1)),
        predictions(s.range(2)),
        cols(s.range(3)),
        rows(sequences * length),
        slots(sequences * predictions),
        pool(static_cast<int>(s.range(4))),
        ids(count(rows)),
        masked_ids(count(rows)),
        masked_rows(count(slots)),
        targets(count(slots)),
        sampled(count(slots), 2000),
        corrupted(count(rows)),
        weights(count(slots)),
        labels(count(rows)),
        x(count(rows * cols), 0.5f),
        y(count(slots * cols), 0.25f) {
    const SpecialIds special;
    for (int64_t s0 = 0; s0 <= sequences; ++s0) offsets.push_back(static_cast<int32_t>(s0 * length));
    for (int64_t r = 0; r < rows; ++r)
      ids[count(r)] = r % length == 0 ? special.cls : r % length == length - 1 ? special.sep : static_cast<int32_t>(1000 + r % 997);
  }
  static size_t count(int64_t n) { return static_cast<size_t>(n); }
  template <class T> static Tensor tensor(std::vector<T>& v) { return {v.data(), {static_cast<int64_t>(v.size())}, dtype_of<T>}; }
  Tensor matrix(std::vector<float>& v) const { return {v.data(), {static_cast<int64_t>(v.size()) / cols, cols}, DType::f32}; }

  void mask(bool with_replacement) {
    mask_tokens<Backend::cpu>({.ids = tensor(ids),
                               .sequence_offsets = tensor(offsets),
                               .masked_ids = tensor(masked_ids),
                               .masked_rows = tensor(masked_rows),
                               .masked_weights = tensor(weights),
                               .masked_targets = tensor(targets),
                               .special = {},
                               .max_predictions = predictions,
                               .with_replacement = with_replacement,
                               .state = &state},
                              stream);
  }
};

void report(benchmark::State& s, int64_t bytes) {
  s.counters["bytes/s"] = benchmark::Counter(static_cast<double>(bytes), benchmark::Counter::kIsIterationInvariantRate);
}

void mask(benchmark::State& s, bool with_replacement) {
  Fixture f(s);
  for (auto _ : s) {
    ++f.state.step;
    f.mask(with_replacement);
  }
  report(s, 8 * f.rows + 12 * f.slots);
  s.counters["s/token"] = benchmark::Counter(static_cast<double>(f.rows),
                                             benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}
void mask_without_replacement(benchmark::State& s) { mask(s, false); }
void mask_with_replacement(benchmark::State& s) { mask(s, true); }

void corrupt(benchmark::State& s) {
  Fixture f(s);
  f.mask(false);
  for (auto _ : s)
    corrupt_tokens<Backend::cpu>({.ids = Fixture::tensor(f.ids),
                                  .masked_rows = Fixture::tensor(f.masked_rows),
                                  .masked_weights = Fixture::tensor(f.weights),
                                  .sampled_ids = Fixture::tensor(f.sampled),
                                  .out_ids = Fixture::tensor(f.corrupted),
                                  .labels = Fixture::tensor(f.labels)},
                                 f.stream);
  report(s, 12 * f.rows + 12 * f.slots);
}

void gather(benchmark::State& s) {
  Fixture f(s);
  f.mask(false);
  for (auto _ : s)
    gather_rows<Backend::cpu>({.x = f.matrix(f.x), .rows = Fixture::tensor(f.masked_rows), .weights = Fixture::tensor(f.weights), .y = f.matrix(f.y)},
                              f.stream);
  report(s, 8 * f.slots * f.cols + 8 * f.slots);
}

void gather_backward(benchmark::State& s) {
  Fixture f(s);
  f.mask(false);
  for (auto _ : s)
    gather_rows_backward<Backend::cpu>(
        {.rows = Fixture::tensor(f.masked_rows), .weights = Fixture::tensor(f.weights), .dy = f.matrix(f.y), .dx = f.matrix(f.x)}, f.stream);
  report(s, 12 * f.slots * f.cols + 8 * f.slots + 4 * f.rows * f.cols);
}

// ELECTRA-Small at 16 x 128 (generator width 64), electra-tiny at 64 x 64, ELECTRA-Base at 8 x 512. With one thread the
// processor's time counts.
void one_thread(benchmark::internal::Benchmark* b) {
  b->ArgNames({"sequences", "tokens", "slots", "cols", "threads"})->Unit(benchmark::kMicrosecond);
  b->Args({16, 128, 19, 64, 1})->Args({64, 64, 10, 64, 1})->Args({8, 512, 77, 256, 1});
}
void two_threads(benchmark::internal::Benchmark* b) {
  b->ArgNames({"sequences", "tokens", "slots", "cols", "threads"})->Unit(benchmark::kMicrosecond)->UseRealTime();
  b->Args({16, 128, 19, 64, 2});
}

BENCHMARK(mask_without_replacement)->Apply(one_thread);
BENCHMARK(mask_without_replacement)->Apply(two_threads);
BENCHMARK(mask_with_replacement)->Apply(one_thread);
BENCHMARK(corrupt)->Apply(one_thread);
BENCHMARK(gather)->Apply(one_thread);
BENCHMARK(gather_backward)->Apply(one_thread);

}  // namespace

BENCHMARK_MAIN();
