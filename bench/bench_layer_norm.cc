// The row-wise ops against the bytes they must move, in elements: dropout + residual + LayerNorm (forward 4: x, residual, sum, y;
// backward 4: sum, dy, dx, dresidual), embedding (2 and 3, and in backward three readings of the gradient of the sum and dword, fp32),
// GELU (2 and 3).
//   bench_layer_norm [--benchmark_filter=…]   arguments: rows, columns, threads, percent dropped
#include "bench/bench.h"
#include "kernels/activation.h"
#include "kernels/embedding.h"
#include "kernels/layer_norm.h"

using namespace electra;

namespace {

constexpr int64_t kSequence = 128;  // tokens

struct Rows {
  int64_t rows, cols;
  Stream stream;
  bench::Tensors make{stream};
  DType dtype = bench::dtype(), wide = accumulate_type(dtype);
  DeviceValue<StepState> state{stream, StepState{.seed = 1}};
  Dropout dropout;
  Tensor offsets = make.of(bench::equal_offsets(rows, kSequence));

  explicit Rows(const benchmark::State& s)
      : rows(s.range(0)), cols(s.range(1)), stream(bench::stream(static_cast<int>(s.range(2)))),
        dropout{.drop_p = static_cast<double>(s.range(3)) / 100, .site = 1} {}
  Tensor matrix() { return make.random({rows, cols}, dtype); }
  Tensor row() { return make.random({cols}, dtype); }
  double elements() const { return static_cast<double>(rows * cols); }
  double bytes(double of_elements) const { return of_elements * elements() * static_cast<double>(size_of(dtype)); }
};

void layer_norm(benchmark::State& s, bool backward) {
  Rows f(s);
  const LayerNormForward forward{.x = f.matrix(), .residual = f.matrix(), .gamma = f.row(), .beta = f.row(),
                                 .sequence_offsets = f.offsets, .y = f.matrix(), .sum = f.matrix(),
                                 .mean = f.make.zeros({f.rows}, f.wide), .rstd = f.make.zeros({f.rows}, f.wide), .dropout = f.dropout,
                                 .state = f.state.data()};
  const auto run_forward = [&] { dispatch(f.stream, [&]<Backend B>() { layer_norm_forward<B>(forward, f.stream); }); };
  run_forward();
  if (!backward) return bench::measure(s, f.stream, {.bytes = f.bytes(4)}, run_forward);
  const size_t scratch =
      dispatch(f.stream, [&]<Backend B>() { return layer_norm_backward_workspace<B>(f.rows, f.cols, f.dtype); });
  const LayerNormBackward args{.sum = forward.sum, .gamma = forward.gamma, .mean = forward.mean, .rstd = forward.rstd,
                               .dy = f.matrix(), .sequence_offsets = f.offsets, .dx = f.matrix(),
                               .dresidual = f.matrix(), .dgamma = f.make.zeros({f.cols}, f.wide), .dbeta = f.make.zeros({f.cols}, f.wide),
                               .dresidual_mode = GradMode::write, .workspace = f.make.workspace(scratch), .dropout = f.dropout,
                               .state = f.state.data()};
  bench::measure(s, f.stream, {.bytes = f.bytes(4)},
                 [&] { dispatch(f.stream, [&]<Backend B>() { layer_norm_backward<B>(args, f.stream); }); });
}
void layer_norm_forward_pass(benchmark::State& s) { layer_norm(s, false); }
void layer_norm_backward_pass(benchmark::State& s) { layer_norm(s, true); }

void embedding(benchmark::State& s, bool backward) {
  Rows f(s);
  const int64_t vocabulary = bench::device_kind() == DeviceKind::simt ? 600 : 30522;
  std::vector<int32_t> ids(static_cast<size_t>(f.rows)), segments(ids.size());
  for (size_t r = 0; r < ids.size(); ++r) ids[r] = static_cast<int32_t>(r * r % static_cast<size_t>(vocabulary));
  const EmbeddingForward forward{.ids = f.make.of(ids), .segments = f.make.of(segments), .sequence_offsets = f.offsets,
                                 .word = f.make.random({vocabulary, f.cols}, f.dtype), .position = f.make.random({kSequence, f.cols}, f.dtype),
                                 .segment = f.make.random({2, f.cols}, f.dtype), .gamma = f.row(), .beta = f.row(), .y = f.matrix(),
                                 .mean = f.make.zeros({f.rows}, f.wide), .rstd = f.make.zeros({f.rows}, f.wide), .dropout = f.dropout,
                                 .state = f.state.data()};
  const auto run_forward = [&] { dispatch(f.stream, [&]<Backend B>() { embedding_forward<B>(forward, f.stream); }); };
  run_forward();
  if (!backward) return bench::measure(s, f.stream, {.bytes = f.bytes(2)}, run_forward);
  const size_t scratch =
      dispatch(f.stream, [&]<Backend B>() { return embedding_backward_workspace<B>(f.rows, vocabulary, f.cols, f.dtype); });
  const EmbeddingBackward args{.ids = forward.ids, .segments = forward.segments, .sequence_offsets = f.offsets,
                               .word = forward.word, .position = forward.position, .segment = forward.segment, .gamma = forward.gamma,
                               .mean = forward.mean, .rstd = forward.rstd, .dy = f.matrix(), .dword = f.make.zeros({vocabulary, f.cols}, f.wide),
                               .dposition = f.make.zeros({kSequence, f.cols}, f.wide), .dsegment = f.make.zeros({2, f.cols}, f.wide),
                               .dgamma = f.make.zeros({f.cols}, f.wide), .dbeta = f.make.zeros({f.cols}, f.wide),
                               .workspace = f.make.workspace(scratch), .dropout = f.dropout, .state = f.state.data()};
  const double wide = static_cast<double>(size_of(f.wide));
  bench::measure(s, f.stream, {.bytes = f.bytes(2) + wide * (4 * f.elements() + static_cast<double>(vocabulary * f.cols))},
                 [&] { dispatch(f.stream, [&]<Backend B>() { embedding_backward<B>(args, f.stream); }); });
}
void embedding_forward_pass(benchmark::State& s) { embedding(s, false); }
void embedding_backward_pass(benchmark::State& s) { embedding(s, true); }

void gelu_forward_pass(benchmark::State& s) {
  Rows f(s);
  const GeluForward args{.x = f.matrix(), .y = f.matrix()};
  bench::measure(s, f.stream, {.bytes = f.bytes(2)}, [&] { dispatch(f.stream, [&]<Backend B>() { gelu_forward<B>(args, f.stream); }); });
}
void gelu_backward_pass(benchmark::State& s) {
  Rows f(s);
  const GeluBackward args{.x = f.matrix(), .dy = f.matrix(), .dx = f.matrix()};
  bench::measure(s, f.stream, {.bytes = f.bytes(3)}, [&] { dispatch(f.stream, [&]<Backend B>() { gelu_backward<B>(args, f.stream); }); });
}

void register_all() {
  const std::vector<std::string> names = {"rows", "cols", "threads", "drop"};
  const bench::Arguments executor = {{256, 64, 1, 10}};
  // Of the CPU: Small, tiny, Base; the GPU: Small's generator and discriminator at 128 x 128, Base and Large at 64 x 512.
  const bench::Arguments& norm = bench::pick({{2048, 256, 1, 0}, {2048, 256, 1, 10}, {2048, 128, 1, 10}, {2048, 768, 1, 10},
                                              {2048, 256, 2, 0}, {2048, 256, 2, 10}, {2048, 128, 2, 10}, {2048, 768, 2, 10}},
                                             {{16384, 64, 1, 10}, {16384, 256, 1, 0}, {16384, 256, 1, 10}, {32768, 768, 1, 10}, {32768, 1024, 1, 10}},
                                             executor);
  bench::apply(bench::add("layer_norm_forward_pass", names, layer_norm_forward_pass), norm);
  bench::apply(bench::add("layer_norm_backward_pass", names, layer_norm_backward_pass), norm);
  const bench::Arguments& embeddings =
      bench::pick({{2048, 256, 1, 0}, {2048, 256, 1, 10}, {2048, 128, 1, 10}, {2048, 768, 1, 10}, {2048, 128, 2, 10}},
                  {{16384, 128, 1, 10}, {32768, 768, 1, 10}, {32768, 1024, 1, 10}}, executor);
  bench::apply(bench::add("embedding_forward_pass", names, embedding_forward_pass), embeddings);
  bench::apply(bench::add("embedding_backward_pass", names, embedding_backward_pass), embeddings);
  const bench::Arguments& wide = bench::pick({{2048, 1024, 1, 0}}, {{16384, 1024, 1, 0}, {32768, 3072, 1, 0}, {32768, 4096, 1, 0}}, executor);
  bench::apply(bench::add("gelu_forward_pass", names, gelu_forward_pass), wide);
  bench::apply(bench::add("gelu_backward_pass", names, gelu_backward_pass), wide);
}

}  // namespace

int main(int argc, char** argv) { return bench::run(argc, argv, register_all); }
