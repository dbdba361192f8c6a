// The discriminator's head against its FLOPs: forward 2 rows C (C + 1), backward three such products (u again, dx, dweight); and the
// bytes it must move: x, the weights and dx, dweight once (docs/ops/binary_classifier.md).
//   bench_binary_classifier [--benchmark_filter=…]   arguments: rows, width, threads
#include "bench/bench.h"
#include "kernels/binary_classifier.h"

using namespace electra;

namespace {

struct Fixture {
  int64_t rows, cols;
  Stream stream;
  bench::Tensors make{stream};
  DType dtype = bench::dtype(), wide = accumulate_type(dtype);
  DeviceValue<StepState> state{stream, StepState{.disc_denominator = static_cast<double>(rows)}};
  Tensor x, weight, bias, out_weight, out_bias, labels, offsets, loss, loss_sum, logits, counts, dloss, dx, dweight, dbias, dout_weight, dout_bias,
      workspace;

  explicit Fixture(const benchmark::State& s)
      : rows(s.range(0)),
        cols(s.range(1)),
        stream(bench::stream(static_cast<int>(s.range(2)))),
        x(make.random({rows, cols}, dtype, 0.2)),
        weight(make.random({cols, cols}, dtype, 0.2)),
        bias(make.random({cols}, dtype, 0.2)),
        out_weight(make.random({1, cols}, dtype, 0.2)),
        out_bias(make.zeros({1}, dtype)),
        labels(make.of(every_tenth(rows))),
        offsets(make.of(std::vector<int32_t>{0, static_cast<int32_t>(rows)})),
        loss(make.zeros({1}, wide)),
        loss_sum(make.zeros({1}, DType::f64)),
        logits(make.zeros({rows}, wide)),
        counts(make.zeros({kBinaryCountsSize}, DType::i64)),
        dloss(make.of(std::vector<float>{1})),
        dx(make.zeros({rows, cols}, dtype)),
        dweight(make.zeros({cols, cols}, wide)),
        dbias(make.zeros({cols}, wide)),
        dout_weight(make.zeros({1, cols}, wide)),
        dout_bias(make.zeros({1}, wide)),
        workspace(make.workspace(
            dispatch(stream, [&]<Backend B>() { return binary_classifier_workspace<B>(rows, cols, stream.pool().threads(), dtype); }))) {}
  static std::vector<float> every_tenth(int64_t rows) {
    std::vector<float> labels(static_cast<size_t>(rows));
    for (size_t r = 0; r < labels.size(); ++r) labels[r] = r % 10 == 0 ? 1.0f : 0.0f;
    return labels;
  }

  void forward() {
    dispatch(stream, [&]<Backend B>() {
      binary_classifier_forward<B>({.x = x,
                                    .weight = weight,
                                    .bias = bias,
                                    .out_weight = out_weight,
                                    .out_bias = out_bias,
                                    .labels = labels,
                                    .sequence_offsets = offsets,
                                    .loss = loss,
                                    .loss_sum = loss_sum,
                                    .logits = logits,
                                    .counts = counts,
                                    .workspace = workspace,
                                    .state = state.data()},
                                   stream);
    });
  }
  void backward() {
    dispatch(stream, [&]<Backend B>() {
      binary_classifier_backward<B>({.x = x,
                                     .weight = weight,
                                     .bias = bias,
                                     .out_weight = out_weight,
                                     .labels = labels,
                                     .sequence_offsets = offsets,
                                     .logits = logits,
                                     .dloss = dloss,
                                     .dx = dx,
                                     .dweight = dweight,
                                     .dbias = dbias,
                                     .dout_weight = dout_weight,
                                     .dout_bias = dout_bias,
                                     .workspace = workspace,
                                     .state = state.data()},
                                    stream);
    });
  }
  bench::Work work(bool backward) const {
    const double r = static_cast<double>(rows), c = static_cast<double>(cols), element = static_cast<double>(size_of(dtype));
    const double wide_element = static_cast<double>(size_of(wide));
    return {.flops = (backward ? 3 : 1) * 2.0 * r * c * (c + 1),
            .bytes = element * (r * c + c * c) + 2 * wide_element * r + (backward ? element * r * c + wide_element * c * c : 0)};
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
  // ELECTRA-Small at 16 x 128, electra-tiny at 64 x 64, ELECTRA-Base at 16 x 128; on a GPU Small at 128 x 128, Base and Large at 64 x 512.
  const bench::Arguments& shapes = bench::pick({{2048, 256, 1}, {4096, 128, 1}, {2048, 768, 1}, {2048, 256, 2}},
                                               {{16384, 256, 1}, {32768, 768, 1}, {32768, 1024, 1}}, {{160, 64, 1}});
  const std::vector<std::string> names = {"rows", "cols", "threads"};
  bench::apply(bench::add("forward", names, forward), shapes);
  bench::apply(bench::add("backward", names, backward), shapes);
}

}  // namespace

int main(int argc, char** argv) { return bench::run(argc, argv, register_all); }
