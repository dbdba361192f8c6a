#include "engine/ops/masked_lm.h"

#include <string>

#include "kernels/core/error.h"
#include "kernels/dispatch.h"
#include "kernels/masked_lm.h"

namespace electra {
namespace {

enum In { kTargets, kRows, kWeights, kOffsets, kHidden, kWord, kBias };

class MaskedLmOp final : public Op {
 public:
  MaskedLmOp(const MaskedLmOptions& options, DType float_type, uint64_t site)
      : options_(options), float_type_(float_type), site_(site) {}
  const char* name() const override { return options_.uniform ? "uniform_sample" : "masked_lm"; }

  Signature infer(std::span<const TensorSpec> in, const TraceContext& context) const override {
    const int64_t slots = in[kTargets].shape.size(), vocab = options_.vocab_size;
    if (vocab < 1) throw ShapeError(context.where, "expected a vocabulary of at least 1, got " + std::to_string(vocab));
    check_shape(context.where, "rows", in[kRows].shape, in[kTargets].shape);
    check_shape(context.where, "weights", in[kWeights].shape, in[kTargets].shape);
    Signature s;
    const DType statistic = accumulate_type(float_type_);
    s.outputs = {{{1}, statistic}, {{slots}, DType::i32}, {{kMaskedLmSums}, DType::f64}};
    if (options_.keep_logits) s.outputs.push_back({{slots, vocab}, statistic});
    s.saved = {{{slots}, statistic}};  // lse
    s.differentiable_outputs = options_.uniform ? 0 : 0b1;
    int64_t cols = 0;
    if (!options_.uniform) {
      cols = in[kHidden].shape[-1];
      check_shape(context.where, "hidden", in[kHidden].shape, {slots, cols});
      check_shape(context.where, "word", in[kWord].shape, {vocab, cols});
      check_shape(context.where, "bias", in[kBias].shape, {vocab});
      s.differentiable_inputs = 1u << kHidden | 1u << kWord | 1u << kBias;
      s.backward_reads_inputs = 1u << kTargets | 1u << kWeights | 1u << kHidden | 1u << kWord | 1u << kBias;
    }
    s.forward_workspace = s.backward_workspace =
        dispatch(context.backend, [&]<Backend B>() { return masked_lm_workspace<B>(slots, vocab, cols, context.max_threads, float_type_); });
    const double product = 2.0 * static_cast<double>(slots) * static_cast<double>(vocab) * static_cast<double>(cols);
    const double bytes = static_cast<double>((slots + vocab) * cols) * static_cast<double>(size_of(float_type_));
    s.forward = {product, bytes};
    s.backward = {2 * product, 2 * bytes};  // of hidden and word; the logits that backward computes again do not count
    return s;
  }

  void forward(const Frame& f) const override {
    const bool uniform = options_.uniform;
    dispatch(*f.stream, [&]<Backend B>() {
      masked_lm_forward<B>({.hidden = uniform ? Tensor{} : f.in[kHidden],
                            .word = uniform ? Tensor{} : f.in[kWord],
                            .bias = uniform ? Tensor{} : f.in[kBias],
                            .targets = f.in[kTargets],
                            .rows = f.in[kRows],
                            .weights = f.in[kWeights],
                            .sequence_offsets = f.in[kOffsets],
                            .loss = f.out[0],
                            .lse = f.saved[0],
                            .sampled_ids = f.out[1],
                            .sums = f.out[2],
                            .logits = options_.keep_logits ? f.out[3] : Tensor{},
                            .workspace = f.workspace,
                            .vocab_size = options_.vocab_size,
                            .temperature = options_.temperature,
                            .disallow_correct = options_.disallow_correct,
                            .uniform = uniform,
                            .site = site_,
                            .state = f.state},
                           *f.stream);
    });
  }

  void backward(const Frame& f) const override {
    dispatch(*f.stream, [&]<Backend B>() {
      masked_lm_backward<B>({.hidden = f.in[kHidden],
                             .word = f.in[kWord],
                             .bias = f.in[kBias],
                             .targets = f.in[kTargets],
                             .weights = f.in[kWeights],
                             .lse = f.saved[0],
                             .dloss = f.dout[0],
                             .dhidden = f.din[kHidden],
                             .dword = f.din[kWord],
                             .dbias = f.din[kBias],
                             .dhidden_mode = f.mode[kHidden],
                             .dword_mode = f.mode[kWord],
                             .dbias_mode = f.mode[kBias],
                             .workspace = f.workspace,
                             .state = f.state},
                            *f.stream);
    });
  }

 private:
  MaskedLmOptions options_;
  DType float_type_;
  uint64_t site_;
};

}  // namespace

MaskedLm masked_lm(Graph& graph, const MaskedLmInputs& inputs, const MaskedLmOptions& options, std::string_view name) {
  std::vector<Value> in{inputs.targets, inputs.rows, inputs.weights, inputs.sequence_offsets};
  if (!options.uniform) in.insert(in.end(), {inputs.hidden, inputs.word, inputs.bias});
  auto op = std::make_unique<MaskedLmOp>(options, graph.float_type(), graph.site(name));
  const auto out = graph.add(std::move(op), std::move(in), name);
  return {out[0], out[1], out[2], options.keep_logits ? out[3] : kNoValue};
}

}  // namespace electra
