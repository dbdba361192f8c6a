// Masked-LM head over the vocabulary against its FLOPs: forward 2 S V E, backward 6 S V E (logits again, dhidden, dword); and the bytes it
// must move: hidden, word and dhidden, dword once.
//   bench_masked_lm [--benchmark_filter=…]   arguments: slots, vocabulary, width, threads
#include "bench/bench.h"
#include "kernels/masked_lm.h"

using namespace electra;

namespace {

struct Fixture {
  int64_t slots, vocab, cols;
  Stream stream;
  bench::Tensors make{stream};
  DType dtype = bench::dtype(), wide = accumulate_type(dtype);
  DeviceValue<StepState> state{stream, StepState{.masked_lm_denominator = static_cast<double>(slots)}};
  Tensor hidden, word, bias, targets, rows, weights, offsets, loss, lse, samples, sums, dloss, dhidden, dword, dbias, workspace;

  explicit Fixture(const benchmark::State& s)
      : slots(s.range(0)),
        vocab(s.range(1)),
        cols(s.range(2)),
        stream(bench::stream(static_cast<int>(s.range(3)))),
        hidden(make.random({slots, cols}, dtype, 0.2)),
        word(make.random({vocab, cols}, dtype, 0.2)),
        bias(make.random({vocab}, dtype, 0.2)),
        targets(make.of(multiples(slots, 97, vocab))),
        rows(make.of(multiples(slots, 1, slots))),
        weights(make.of(std::vector<float>(static_cast<size_t>(slots), 1.0f))),
        offsets(make.of(std::vector<int32_t>{0, static_cast<int32_t>(slots)})),
        loss(make.zeros({1}, wide)),
        lse(make.zeros({slots}, wide)),
        samples(make.zeros({slots}, DType::i32)),
        sums(make.zeros({kMaskedLmSums}, DType::f64)),
        dloss(make.of(std::vector<float>{1})),
        dhidden(make.zeros({slots, cols}, dtype)),
        dword(make.zeros({vocab, cols}, wide)),
        dbias(make.zeros({vocab}, wide)),
        workspace(make.workspace(dispatch(
            stream, [&]<Backend B>() { return masked_lm_workspace<B>(slots, vocab, cols, stream.pool().threads(), dtype); }))) {}
  static std::vector<int32_t> multiples(int64_t n, int64_t factor, int64_t modulus) {
    std::vector<int32_t> values;
    for (int64_t i = 0; i < n; ++i) values.push_back(static_cast<int32_t>(i * factor % modulus));
    return values;
  }

  void forward() {
    dispatch(stream, [&]<Backend B>() {
      masked_lm_forward<B>({.hidden = hidden,
                            .word = word,
                            .bias = bias,
                            .targets = targets,
                            .rows = rows,
                            .weights = weights,
                            .sequence_offsets = offsets,
                            .loss = loss,
                            .lse = lse,
                            .sampled_ids = samples,
                            .sums = sums,
                            .logits = {},
                            .workspace = workspace,
                            .vocab_size = vocab,
                            .state = state.data()},
                           stream);
    });
  }
  void backward() {
    dispatch(stream, [&]<Backend B>() {
      masked_lm_backward<B>({.hidden = hidden,
                             .word = word,
                             .bias = bias,
                             .targets = targets,
                             .weights = weights,
                             .lse = lse,
                             .dloss = dloss,
                             .dhidden = dhidden,
                             .dword = dword,
                             .dbias = dbias,
                             .workspace = workspace,
                             .state = state.data()},
                            stream);
    });
  }
  bench::Work work(bool backward) const {
    const double n = static_cast<double>(slots), v = static_cast<double>(vocab), e = static_cast<double>(cols);
    const double operands = (n + v) * e * static_cast<double>(size_of(dtype));
    return {.flops = (backward ? 6 : 2) * n * v * e,
            .bytes = operands + (backward ? n * e * static_cast<double>(size_of(dtype)) + v * e * static_cast<double>(size_of(wide)) : 0)};
  }
};

void forward(benchmark::State& s) {
  Fixture f(s);
  bench::measure(s, f.stream, f.work(false), [&] { f.forward(); });
}

void backward(benchmark::State& s) {
  Fixture f(s);
  f.forward();
  bench::measure(s, f.stream, f.work(true), [&] { f.backward(); });
}

void register_all() {
  // ELECTRA-Small at 16 x 128 (19 slots a sequence), and electra-tiny; on a GPU Small at 128 x 128, Base at 64 x 512 (77 slots).
  const bench::Arguments& shapes = bench::pick({{304, 30522, 128, 1}, {304, 30522, 128, 2}, {640, 8192, 128, 2}},
                                               {{2432, 30522, 128, 1}, {4928, 30522, 768, 1}}, {{40, 640, 64, 1}});
  const std::vector<std::string> names = {"slots", "vocab", "cols", "threads"};
  bench::apply(bench::add("forward", names, forward), shapes);
  bench::apply(bench::add("backward", names, backward), shapes);
}

}  // namespace

int main(int argc, char** argv) { return bench::run(argc, argv, register_all); }
