// Attention against its FLOPs: forward 4 T² D a head and sequence, backward 10 T² D (scores again, dP, dQ, dK, dV).
//   bench_attention [--benchmark_filter=…]   arguments: sequence length, heads, dropout in percent, threads
#include <benchmark/benchmark.h>

#include <vector>

#include "kernels/attention.h"
#include "kernels/core/device.h"

using namespace electra;

namespace {

constexpr int64_t kHeadDim = 64, kTokens = 2048;

struct Fixture {
  int64_t length, heads, hidden;
  ThreadPool pool;
  Stream stream{pool};
  StepState state;
  Dropout dropout;
  Buffer qkv, context, lse, dcontext, dqkv, workspace;
  std::vector<int32_t> offsets;

  explicit Fixture(const benchmark::State& s)
      : length(s.range(0)),
        heads(s.range(1)),
        hidden(heads * kHeadDim),
        pool(static_cast<int>(s.range(3))),
        dropout{.drop_p = static_cast<double>(s.range(2)) / 100, .site = 1},
        qkv(bytes(3 * hidden)),
        context(bytes(hidden)),
        lse(bytes(heads)),
        dcontext(bytes(hidden)),
        dqkv(bytes(3 * hidden)),
        workspace(attention_workspace<Backend::cpu>(0, 0, kHeadDim, length, pool.threads(), DType::f32)) {
    for (int64_t row = 0; row <= kTokens; row += length) offsets.push_back(static_cast<int32_t>(row));
    fill(qkv, 1);
    fill(dcontext, 2);
  }
  static size_t bytes(int64_t cols) { return static_cast<size_t>(kTokens * cols) * sizeof(float); }
  static void fill(const Buffer& buffer, uint64_t key) {
    float* x = reinterpret_cast<float*>(buffer.data());
    for (uint32_t i = 0; i < buffer.bytes() / sizeof(float); ++i)
      x[i] = uniform_open(philox(key, {.group = i}).word[0]) * 4 - 2;
  }
  static Tensor tensor(const Buffer& buffer, Shape shape) { return {buffer.data(), shape, DType::f32}; }
  int64_t rows() const { return offsets.back(); }
  Tensor offset_tensor() { return {offsets.data(), {static_cast<int64_t>(offsets.size())}, DType::i32}; }
  Tensor scratch() const { return {workspace.data(), {static_cast<int64_t>(workspace.bytes())}, DType::u8}; }

  void forward() {
    attention_forward<Backend::cpu>({.qkv = tensor(qkv, {rows(), 3 * hidden}),
                                     .sequence_offsets = offset_tensor(),
                                     .context = tensor(context, {rows(), hidden}),
                                     .lse = tensor(lse, {heads, rows()}),
                                     .workspace = scratch(),
                                     .num_heads = heads,
                                     .max_seq_len = length,
                                     .dropout = dropout,
                                     .state = &state},
                                    stream);
  }
  void backward() {
    attention_backward<Backend::cpu>({.qkv = tensor(qkv, {rows(), 3 * hidden}),
                                      .sequence_offsets = offset_tensor(),
                                      .context = tensor(context, {rows(), hidden}),
                                      .lse = tensor(lse, {heads, rows()}),
                                      .dcontext = tensor(dcontext, {rows(), hidden}),
                                      .dqkv = tensor(dqkv, {rows(), 3 * hidden}),
                                      .workspace = scratch(),
                                      .num_heads = heads,
                                      .max_seq_len = length,
                                      .dropout = dropout,
                                      .state = &state},
                                     stream);
  }
  // Floating-point operations of `products` products of (T, T, D).
  double flops(int products) const {
    return 2.0 * products * static_cast<double>(rows()) * static_cast<double>(length) * static_cast<double>(hidden);
  }
};

void report(benchmark::State& s, double flops) {
  s.counters["FLOP/s"] = benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
  s.counters["FLOP/s/thread"] =
      benchmark::Counter(flops / static_cast<double>(s.range(3)), benchmark::Counter::kIsIterationInvariantRate);
}

void forward(benchmark::State& s) {
  Fixture fixture(s);
  for (auto _ : s) fixture.forward();
  report(s, fixture.flops(2));
}

void backward(benchmark::State& s) {
  Fixture fixture(s);
  fixture.forward();
  for (auto _ : s) fixture.backward();
  report(s, fixture.flops(5));
}

void shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"length", "heads", "dropout", "threads"})->UseRealTime()->Unit(benchmark::kMillisecond);
  for (const int64_t length : {16, 50, 64, 128, 512})
    for (const int64_t drop : {0, 10}) b->Args({length, 4, drop, 1});
  b->Args({128, 4, 10, 2});
}

BENCHMARK(forward)->Apply(shapes);
BENCHMARK(backward)->Apply(shapes);

}  // namespace

BENCHMARK_MAIN();
