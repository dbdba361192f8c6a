#include "engine/ops/masking.h"

#include "kernels/dispatch.h"

namespace electra {
namespace {

class MaskTokensOp final : public Op {
 public:
  MaskTokensOp(const MaskingOptions& options, uint64_t site) : options_(options), site_(site) {}
  const char* name() const override { return "mask_tokens"; }

  Signature infer(std::span<const TensorSpec> in, const TraceContext& context) const override {
    check_dtype(context.where, "ids", in[0].dtype, DType::i32);
    check_dtype(context.where, "sequence_offsets", in[1].dtype, DType::i32);
    if (in.size() > 2) check_dtype(context.where, "continuations", in[2].dtype, DType::u8);
    const int64_t slots = (in[1].shape.size() - 1) * options_.max_predictions;
    Signature s;
    s.outputs = {in[0], {{slots}, DType::i32}, {{slots}, DType::f32}, {{slots}, DType::i32}};
    s.forward = {0, static_cast<double>(2 * in[0].bytes() + 3 * s.outputs[1].bytes())};
    return s;
  }

  void forward(const Frame& f) const override {
    dispatch(*f.stream, [&]<Backend B>() {
      mask_tokens<B>({.ids = f.in[0],
                      .sequence_offsets = f.in[1],
                      .masked_ids = f.out[0],
                      .masked_rows = f.out[1],
                      .masked_weights = f.out[2],
                      .masked_targets = f.out[3],
                      .special = options_.special,
                      .max_predictions = options_.max_predictions,
                      .mask_prob = options_.mask_prob,
                      .with_replacement = options_.with_replacement,
                      .unit = options_.unit,
                      .span_words = options_.span_words,
                      .continuations = f.in.size() > 2 ? f.in[2] : Tensor{},
                      .site = site_,
                      .state = f.state},
                     *f.stream);
    });
  }
  void backward(const Frame&) const override { no_backward(*this); }

 private:
  MaskingOptions options_;
  uint64_t site_;
};

class CorruptTokensOp final : public Op {
 public:
  const char* name() const override { return "corrupt_tokens"; }

  Signature infer(std::span<const TensorSpec> in, const TraceContext& context) const override {
    check_dtype(context.where, "ids", in[0].dtype, DType::i32);
    check_dtype(context.where, "rows", in[1].dtype, DType::i32);
    check_dtype(context.where, "weights", in[2].dtype, DType::f32);
    check_dtype(context.where, "sampled_ids", in[3].dtype, DType::i32);
    check_shape(context.where, "weights", in[2].shape, in[1].shape);
    check_shape(context.where, "sampled_ids", in[3].shape, in[1].shape);
    Signature s;
    s.outputs = {in[0], {in[0].shape, DType::f32}};
    s.forward = {0, static_cast<double>(3 * in[0].bytes() + 3 * in[1].bytes())};
    return s;
  }

  void forward(const Frame& f) const override {
    dispatch(*f.stream, [&]<Backend B>() {
      corrupt_tokens<B>({.ids = f.in[0],
                         .masked_rows = f.in[1],
                         .masked_weights = f.in[2],
                         .sampled_ids = f.in[3],
                         .out_ids = f.out[0],
                         .labels = f.out[1]},
                        *f.stream);
    });
  }
  void backward(const Frame&) const override { no_backward(*this); }
};

class GatherRowsOp final : public Op {
 public:
  const char* name() const override { return "gather_rows"; }

  Signature infer(std::span<const TensorSpec> in, const TraceContext& context) const override {
    check_dtype(context.where, "rows", in[1].dtype, DType::i32);
    check_dtype(context.where, "weights", in[2].dtype, DType::f32);
    check_shape(context.where, "weights", in[2].shape, in[1].shape);
    Signature s;
    s.outputs = {{{in[1].shape.size(), in[0].shape[-1]}, in[0].dtype}};
    s.differentiable_inputs = s.differentiable_outputs = 0b1;
    s.backward_reads_inputs = 0b110;
    const size_t y = s.outputs[0].bytes(), slots = in[1].bytes() + in[2].bytes();
    s.forward = {0, static_cast<double>(2 * y + slots)};
    // dx cleared; for each slot dy read, a row of dx read and written.
    s.backward = {static_cast<double>(s.outputs[0].shape.size()), static_cast<double>(in[0].bytes() + 3 * y + slots)};
    return s;
  }

  void forward(const Frame& f) const override {
    dispatch(*f.stream, [&]<Backend B>() {
      gather_rows<B>({.x = f.in[0], .rows = f.in[1], .weights = f.in[2], .y = f.out[0]}, *f.stream);
    });
  }

  void backward(const Frame& f) const override {
    if (f.mode[0] == GradMode::none) return;
    dispatch(*f.stream, [&]<Backend B>() {
      gather_rows_backward<B>({.rows = f.in[1],
                               .weights = f.in[2],
                               .dy = f.dout[0],
                               .dx = f.din[0],
                               .accumulate = f.mode[0] == GradMode::accumulate},
                              *f.stream);
    });
  }
};

}  // namespace

MaskedBatch mask_tokens(Graph& graph, Value ids, Value sequence_offsets, const MaskingOptions& options, std::string_view name,
                        Value continuations) {
  std::vector<Value> in = {ids, sequence_offsets};
  if (continuations != kNoValue) in.push_back(continuations);
  const auto out = graph.add(std::make_unique<MaskTokensOp>(options, graph.site(name)), in, name);
  return {out[0], out[1], out[2], out[3]};
}

CorruptedBatch corrupt_tokens(Graph& graph, Value ids, Value rows, Value weights, Value sampled_ids, std::string_view name) {
  const auto out = graph.add(std::make_unique<CorruptTokensOp>(), {ids, rows, weights, sampled_ids}, name);
  return {out[0], out[1]};
}

Value gather_rows(Graph& graph, Value x, Value rows, Value weights, std::string_view name) {
  return graph.add(std::make_unique<GatherRowsOp>(), {x, rows, weights}, name)[0];
}

}  // namespace electra
