#include "engine/ops/binary_classifier.h"

#include "kernels/dispatch.h"
#include "kernels/binary_classifier.h"

namespace electra {
namespace {

enum In { kX, kWeight, kBias, kOutWeight, kOutBias, kLabels, kOffsets };

class BinaryClassifierOp final : public Op {
 public:
  const char* name() const override { return "binary_classifier"; }

  Signature infer(std::span<const TensorSpec> in, const TraceContext& context) const override {
    const TensorSpec& x = in[kX];
    const int64_t rows = x.shape.rows(), cols = x.shape[-1];
    check_shape(context.where, "weight", in[kWeight].shape, {cols, cols});
    check_shape(context.where, "bias", in[kBias].shape, {cols});
    check_shape(context.where, "out_weight", in[kOutWeight].shape, {1, cols});
    check_shape(context.where, "out_bias", in[kOutBias].shape, {1});
    check_shape(context.where, "labels", in[kLabels].shape, {rows});
    Signature s;
    const DType statistic = accumulate_type(x.dtype);
    s.outputs = {{{1}, statistic}, {{1}, DType::f64}, {{rows}, statistic}, {{kBinaryCountsSize}, DType::i64}};
    s.differentiable_inputs = 0b11111;
    s.differentiable_outputs = 0b1;
    s.backward_reads_inputs = 0b1101111;
    s.backward_reads_outputs = 0b100;
    s.forward_workspace = s.backward_workspace =
        dispatch(context.backend, [&]<Backend B>() { return binary_classifier_workspace<B>(rows, cols, context.max_threads, x.dtype); });
    const double product = 2.0 * static_cast<double>(rows) * static_cast<double>(cols) * static_cast<double>(cols + 1);
    const size_t row_bytes = s.outputs[2].bytes() + in[kLabels].bytes();
    s.forward = {product, static_cast<double>(x.bytes() + in[kWeight].bytes() + row_bytes)};
    // x read twice, du written and read, dx written; the u that is computed again is not counted as FLOPs.
    s.backward = {2 * product, static_cast<double>(5 * x.bytes() + 2 * in[kWeight].bytes() + row_bytes)};
    return s;
  }

  void forward(const Frame& f) const override {
    dispatch(*f.stream, [&]<Backend B>() {
      binary_classifier_forward<B>({.x = f.in[kX],
                                    .weight = f.in[kWeight],
                                    .bias = f.in[kBias],
                                    .out_weight = f.in[kOutWeight],
                                    .out_bias = f.in[kOutBias],
                                    .labels = f.in[kLabels],
                                    .sequence_offsets = f.in[kOffsets],
                                    .loss = f.out[0],
                                    .loss_sum = f.out[1],
                                    .logits = f.out[2],
                                    .counts = f.out[3],
                                    .workspace = f.workspace,
                                    .state = f.state},
                                   *f.stream);
    });
  }

  void backward(const Frame& f) const override {
    dispatch(*f.stream, [&]<Backend B>() {
      binary_classifier_backward<B>({.x = f.in[kX],
                                     .weight = f.in[kWeight],
                                     .bias = f.in[kBias],
                                     .out_weight = f.in[kOutWeight],
                                     .labels = f.in[kLabels],
                                     .sequence_offsets = f.in[kOffsets],
                                     .logits = f.out[2],
                                     .dloss = f.dout[0],
                                     .dx = f.din[kX],
                                     .dweight = f.din[kWeight],
                                     .dbias = f.din[kBias],
                                     .dout_weight = f.din[kOutWeight],
                                     .dout_bias = f.din[kOutBias],
                                     .dx_mode = f.mode[kX],
                                     .dweight_mode = f.mode[kWeight],
                                     .dbias_mode = f.mode[kBias],
                                     .dout_weight_mode = f.mode[kOutWeight],
                                     .dout_bias_mode = f.mode[kOutBias],
                                     .workspace = f.workspace,
                                     .state = f.state},
                                    *f.stream);
    });
  }
};

}  // namespace

BinaryClassifier binary_classifier(Graph& graph, Value x, const BinaryClassifierWeights& weights, Value labels,
                                   Value sequence_offsets, std::string_view name) {
  const auto out = graph.add(
      std::make_unique<BinaryClassifierOp>(),
      {x, weights.weight, weights.bias, weights.out_weight, weights.out_bias, labels, sequence_offsets}, name);
  return {out[0], out[1], out[2], out[3]};
}

}  // namespace electra
