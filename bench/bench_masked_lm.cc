// Masked-LM head over the vocabulary against its FLOPs: forward 2 S V E, backward 6 S V E (logits again, dhidden, dword).
//   bench_masked_lm [--benchmark_filter=…]   arguments: slots, vocabulary, width, threads
#include <benchmark/benchmark.h>

#include <vector>

#include "kernels/core/device.h"
#include "kernels/core/philox.h"
#include "kernels/masked_lm.h"

using namespace electra;

namespace {

struct Fixture {
  int64_t slots, vocab, cols;
  ThreadPool pool;
  Stream stream{pool};
  StepState state;
  std::vector<float> hidden, word, bias, weights, loss, lse, dhidden, dword, dbias;
  std::vector<int32_t> targets, rows, offsets, samples;
  std::vector<double> sums;
  Buffer workspace;

  explicit Fixture(const benchmark::State& s)
      : slots(s.range(0)),
        vocab(s.range(1)),
        cols(s.range(2)),
        pool(static_cast<int>(s.range(3))),
        hidden(random(slots * cols, 1)),
        word(random(vocab * cols, 2)),
        bias(random(vocab, 3)),
        weights(count(slots), 1.0f),
        loss(1),
        lse(count(slots)),
        dhidden(count(slots * cols)),
        dword(count(vocab * cols)),
        dbias(count(vocab)),
        targets(count(slots)),
        rows(count(slots)),
        offsets{0, static_cast<int32_t>(slots)},
        samples(count(slots)),
        sums(kMaskedLmSums),
        workspace(masked_lm_workspace<Backend::cpu>(slots, vocab, cols, pool.threads(), DType::f32)) {
    state.masked_lm_denominator = static_cast<double>(slots);
    for (int64_t i = 0; i < slots; ++i) {
      rows[count(i)] = static_cast<int32_t>(i);
      targets[count(i)] = static_cast<int32_t>(i * 97 % vocab);
    }
  }
  static size_t count(int64_t n) { return static_cast<size_t>(n); }
  static std::vector<float> random(int64_t n, uint64_t key) {
    std::vector<float> x(count(n));
    for (size_t i = 0; i < x.size(); ++i)
      x[i] = uniform_open(philox(key, {.group = static_cast<uint32_t>(i)}).word[0]) * 0.4f - 0.2f;
    return x;
  }
  template <class T> static Tensor tensor(std::vector<T>& x, Shape shape) { return {x.data(), shape, dtype_of<T>}; }
  Tensor scratch() const { return {workspace.data(), {static_cast<int64_t>(workspace.bytes())}, DType::u8}; }

  void forward() {
    masked_lm_forward<Backend::cpu>({.hidden = tensor(hidden, {slots, cols}),
                                     .word = tensor(word, {vocab, cols}),
                                     .bias = tensor(bias, {vocab}),
                                     .targets = tensor(targets, {slots}),
                                     .rows = tensor(rows, {slots}),
                                     .weights = tensor(weights, {slots}),
                                     .sequence_offsets = tensor(offsets, {2}),
                                     .loss = tensor(loss, {1}),
                                     .lse = tensor(lse, {slots}),
                                     .sampled_ids = tensor(samples, {slots}),
                                     .sums = tensor(sums, {kMaskedLmSums}),
                                     .logits = {},
                                     .workspace = scratch(),
                                     .vocab_size = vocab,
                                     .state = &state},
                                    stream);
  }
  void backward() {
    masked_lm_backward<Backend::cpu>({.hidden = tensor(hidden, {slots, cols}),
                                      .word = tensor(word, {vocab, cols}),
                                      .bias = tensor(bias, {vocab}),
                                      .targets = tensor(targets, {slots}),
                                      .weights = tensor(weights, {slots}),
                                      .lse = tensor(lse, {slots}),
                                      .dloss = tensor(loss, {1}),
                                      .dhidden = tensor(dhidden, {slots, cols}),
                                      .dword = tensor(dword, {vocab, cols}),
                                      .dbias = tensor(dbias, {vocab}),
                                      .workspace = scratch(),
                                      .state = &state},
                                     stream);
  }
  double flops(int products) const {
    return 2.0 * products * static_cast<double>(slots) * static_cast<double>(vocab) * static_cast<double>(cols);
  }
};

void report(benchmark::State& s, double flops) {
  s.counters["FLOP/s"] = benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
}

void forward(benchmark::State& s) {
  Fixture fixture(s);
  for (auto _ : s) fixture.forward();
  report(s, fixture.flops(1));
}

void backward(benchmark::State& s) {
  Fixture fixture(s);
  fixture.forward();
  fixture.loss[0] = 1;  // backward's dloss
  for (auto _ : s) fixture.backward();
  report(s, fixture.flops(3));
}

// ELECTRA-Small at 16 x 128 (19 slots a sequence), and electra-tiny.
void shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"slots", "vocab", "cols", "threads"})->UseRealTime()->Unit(benchmark::kMillisecond);
  b->Args({304, 30522, 128, 1})->Args({304, 30522, 128, 2})->Args({640, 8192, 128, 2});
}

BENCHMARK(forward)->Apply(shapes);
BENCHMARK(backward)->Apply(shapes);

}  // namespace

BENCHMARK_MAIN();
