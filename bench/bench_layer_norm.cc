// The row-wise ops against the bytes they must move: dropout + residual + LayerNorm (forward 16 bytes an element: x, residual, sum, y;
// backward 16: sum, dy, dx, dresidual), embedding (8 and 24), GELU (8 and 12).
//   bench_layer_norm [--benchmark_filter=…]   with one thread the processor's time counts, so that a busy machine disturbs less
#include <benchmark/benchmark.h>

#include <vector>

#include "kernels/activation.h"
#include "kernels/core/device.h"
#include "kernels/embedding.h"
#include "kernels/layer_norm.h"

using namespace electra;

namespace {

constexpr int64_t kSequence = 128;  // tokens
constexpr int64_t kVocabulary = 30522;

struct Rows {
  ThreadPool pool;
  Stream stream{pool};
  StepState state{.seed = 1};
  int64_t rows, cols;
  Dropout dropout;
  std::vector<int32_t> offsets, ids, segments;
  std::vector<std::vector<float>> memory;
  Buffer workspace;

  explicit Rows(const benchmark::State& s)
      : pool(static_cast<int>(s.range(2))), rows(s.range(0)), cols(s.range(1)),
        dropout{.drop_p = static_cast<double>(s.range(3)) / 100, .site = 1}, ids(static_cast<size_t>(rows)),
        segments(static_cast<size_t>(rows)),
        workspace(embedding_backward_workspace<Backend::cpu>(rows, kVocabulary, cols, DType::f32)) {
    for (int64_t r = 0; r <= rows; r += kSequence) offsets.push_back(static_cast<int32_t>(r));
    for (size_t r = 0; r < ids.size(); ++r) ids[r] = static_cast<int32_t>(r * r % kVocabulary);
  }
  Tensor make(const Shape& shape) {
    auto& values = memory.emplace_back(static_cast<size_t>(shape.size()));
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 31) * 0.1f - 1.5f;
    return {values.data(), shape, DType::f32};
  }
  Tensor integers(std::vector<int32_t>& v) const { return {v.data(), {static_cast<int64_t>(v.size())}, DType::i32}; }
  Tensor workspace_tensor() const { return {workspace.data(), {static_cast<int64_t>(workspace.bytes())}, DType::u8}; }
  void report(benchmark::State& s, int bytes) const {
    const auto elements = static_cast<double>(rows * cols);
    s.counters["bytes/s"] = benchmark::Counter(bytes * elements, benchmark::Counter::kIsIterationInvariantRate);
    s.counters["s/element"] =
        benchmark::Counter(elements, benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
  }
};

void layer_norm(benchmark::State& s, bool backward) {
  Rows f(s);
  const Shape shape{f.rows, f.cols};
  LayerNormForward forward{.x = f.make(shape), .residual = f.make(shape), .gamma = f.make({f.cols}), .beta = f.make({f.cols}),
                           .sequence_offsets = f.integers(f.offsets), .y = f.make(shape), .sum = f.make(shape),
                           .mean = f.make({f.rows}), .rstd = f.make({f.rows}), .dropout = f.dropout, .state = &f.state};
  layer_norm_forward<Backend::cpu>(forward, f.stream);
  if (!backward) {
    for (auto _ : s) layer_norm_forward<Backend::cpu>(forward, f.stream);
  } else {
    LayerNormBackward args{.sum = forward.sum, .gamma = forward.gamma, .mean = forward.mean, .rstd = forward.rstd,
                           .dy = forward.y, .sequence_offsets = forward.sequence_offsets, .dx = f.make(shape),
                           .dresidual = f.make(shape), .dgamma = f.make({f.cols}), .dbeta = f.make({f.cols}),
                           .dresidual_mode = GradMode::write, .workspace = f.workspace_tensor(), .dropout = f.dropout,
                           .state = &f.state};
    for (auto _ : s) layer_norm_backward<Backend::cpu>(args, f.stream);
  }
  f.report(s, 16);
}
void layer_norm_forward_pass(benchmark::State& s) { layer_norm(s, false); }
void layer_norm_backward_pass(benchmark::State& s) { layer_norm(s, true); }

void embedding(benchmark::State& s, bool backward) {
  Rows f(s);
  const Shape shape{f.rows, f.cols};
  EmbeddingForward forward{.ids = f.integers(f.ids), .segments = f.integers(f.segments), .sequence_offsets = f.integers(f.offsets),
                           .word = f.make({kVocabulary, f.cols}), .position = f.make({kSequence, f.cols}), .segment = f.make({2, f.cols}),
                           .gamma = f.make({f.cols}), .beta = f.make({f.cols}), .y = f.make(shape), .mean = f.make({f.rows}),
                           .rstd = f.make({f.rows}), .dropout = f.dropout, .state = &f.state};
  embedding_forward<Backend::cpu>(forward, f.stream);
  if (!backward) {
    for (auto _ : s) embedding_forward<Backend::cpu>(forward, f.stream);
  } else {
    EmbeddingBackward args{.ids = forward.ids, .segments = forward.segments, .sequence_offsets = forward.sequence_offsets,
                           .word = forward.word, .position = forward.position, .segment = forward.segment, .gamma = forward.gamma,
                           .mean = forward.mean, .rstd = forward.rstd, .dy = forward.y, .dword = f.make({kVocabulary, f.cols}),
                           .dposition = f.make({kSequence, f.cols}), .dsegment = f.make({2, f.cols}), .dgamma = f.make({f.cols}),
                           .dbeta = f.make({f.cols}), .workspace = f.workspace_tensor(), .dropout = f.dropout, .state = &f.state};
    for (auto _ : s) embedding_backward<Backend::cpu>(args, f.stream);
  }
  f.report(s, backward ? 24 : 8);
}
void embedding_forward_pass(benchmark::State& s) { embedding(s, false); }
void embedding_backward_pass(benchmark::State& s) { embedding(s, true); }

void gelu_forward_pass(benchmark::State& s) {
  Rows f(s);
  const GeluForward args{.x = f.make({f.rows, f.cols}), .y = f.make({f.rows, f.cols})};
  for (auto _ : s) gelu_forward<Backend::cpu>(args, f.stream);
  f.report(s, 8);
}
void gelu_backward_pass(benchmark::State& s) {
  Rows f(s);
  const GeluBackward args{.x = f.make({f.rows, f.cols}), .dy = f.make({f.rows, f.cols}), .dx = f.make({f.rows, f.cols})};
  for (auto _ : s) gelu_backward<Backend::cpu>(args, f.stream);
  f.report(s, 12);
}

// Rows, columns, threads, percent dropped.
void one_thread(benchmark::internal::Benchmark* b) {
  b->ArgNames({"rows", "cols", "threads", "drop"})->Unit(benchmark::kMillisecond);
  b->Args({2048, 256, 1, 0})->Args({2048, 256, 1, 10})->Args({2048, 128, 1, 10})->Args({2048, 768, 1, 10});
}
void two_threads(benchmark::internal::Benchmark* b) {
  b->ArgNames({"rows", "cols", "threads", "drop"})->Unit(benchmark::kMillisecond)->UseRealTime();
  b->Args({2048, 256, 2, 0})->Args({2048, 256, 2, 10})->Args({2048, 128, 2, 10})->Args({2048, 768, 2, 10});
}
void wide(benchmark::internal::Benchmark* b) {
  b->ArgNames({"rows", "cols", "threads", "drop"})->Unit(benchmark::kMillisecond)->Args({2048, 1024, 1, 0});
}

BENCHMARK(layer_norm_forward_pass)->Apply(one_thread);
BENCHMARK(layer_norm_forward_pass)->Apply(two_threads);
BENCHMARK(layer_norm_backward_pass)->Apply(one_thread);
BENCHMARK(layer_norm_backward_pass)->Apply(two_threads);
BENCHMARK(embedding_forward_pass)->Apply(one_thread);
BENCHMARK(embedding_backward_pass)->Apply(one_thread);
BENCHMARK(embedding_backward_pass)->Apply(two_threads);
BENCHMARK(gelu_forward_pass)->Apply(wide);
BENCHMARK(gelu_backward_pass)->Apply(wide);

}  // namespace

BENCHMARK_MAIN();
