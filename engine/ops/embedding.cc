#include "engine/ops/embedding.h"

#include <limits>
#include <string>

#include "kernels/core/error.h"
#include "kernels/dispatch.h"
#include "kernels/embedding.h"

namespace electra {
namespace {

enum In { kIds, kSegments, kOffsets, kWord, kPosition, kSegment, kGamma, kBeta };

class Embedding final : public Op {
 public:
  Embedding(Dropout dropout, double eps) : dropout_(dropout), eps_(eps) {}
  const char* name() const override { return "embedding"; }

  Signature infer(std::span<const TensorSpec> in, const TraceContext& context) const override {
    const int64_t rows = in[kIds].shape.size(), cols = in[kWord].shape[-1];
    check_dropout(context.where, dropout_);
    check_shape(context.where, "segments", in[kSegments].shape, in[kIds].shape);
    if (cols < 1) throw ShapeError(context.where, "word table has shape " + in[kWord].shape.str() + ", expected at least 1 column");
    const auto check_table = [&](const char* what, const Shape& table, int64_t most) {
      check_shape(context.where, what, table, {table.rows(), cols});
      if (table.rows() < 1 || table.rows() > most)
        throw ShapeError(context.where, std::string(what) + " has shape " + table.str() + ", expected 1 to " + std::to_string(most) + " rows");
    };
    check_table("word table", in[kWord].shape, std::numeric_limits<int32_t>::max());
    check_table("position table", in[kPosition].shape, std::numeric_limits<int32_t>::max());
    check_table("segment table", in[kSegment].shape, kMaxSegments);
    check_shape(context.where, "gamma", in[kGamma].shape, {cols});
    check_shape(context.where, "beta", in[kBeta].shape, {cols});
    const DType type = in[kWord].dtype;
    const TensorSpec statistic{{rows}, accumulate_type(type)};
    Signature s;
    s.outputs = {{{rows, cols}, type}};
    s.saved = {statistic, statistic};
    s.differentiable_inputs = 0b11111000;
    s.differentiable_outputs = 0b1;
    s.backward_reads_inputs = 0b01111111;
    s.backward_workspace =
        dispatch(context.backend, [&]<Backend B>() { return embedding_backward_workspace<B>(rows, in[kWord].shape[0], cols, type); });
    const auto n = static_cast<double>(rows * cols), bytes = static_cast<double>(s.outputs[0].bytes());
    s.forward = {10 * n, 2 * bytes};
    // Word rows and dy read, the gradient of the sum written and read for each of three tables, dword written.
    s.backward = {18 * n, 6 * bytes + static_cast<double>(in[kWord].bytes())};
    return s;
  }

  void forward(const Frame& f) const override {
    dispatch(*f.stream, [&]<Backend B>() {
      embedding_forward<B>({.ids = f.in[kIds],
                            .segments = f.in[kSegments],
                            .sequence_offsets = f.in[kOffsets],
                            .word = f.in[kWord],
                            .position = f.in[kPosition],
                            .segment = f.in[kSegment],
                            .gamma = f.in[kGamma],
                            .beta = f.in[kBeta],
                            .y = f.out[0],
                            .mean = f.saved[0],
                            .rstd = f.saved[1],
                            .eps = eps_,
                            .dropout = dropout_,
                            .state = f.state},
                           *f.stream);
    });
  }

  void backward(const Frame& f) const override {
    dispatch(*f.stream, [&]<Backend B>() {
      embedding_backward<B>({.ids = f.in[kIds],
                             .segments = f.in[kSegments],
                             .sequence_offsets = f.in[kOffsets],
                             .word = f.in[kWord],
                             .position = f.in[kPosition],
                             .segment = f.in[kSegment],
                             .gamma = f.in[kGamma],
                             .mean = f.saved[0],
                             .rstd = f.saved[1],
                             .dy = f.dout[0],
                             .dword = f.din[kWord],
                             .dposition = f.din[kPosition],
                             .dsegment = f.din[kSegment],
                             .dgamma = f.din[kGamma],
                             .dbeta = f.din[kBeta],
                             .dword_mode = f.mode[kWord],
                             .dposition_mode = f.mode[kPosition],
                             .dsegment_mode = f.mode[kSegment],
                             .dgamma_mode = f.mode[kGamma],
                             .dbeta_mode = f.mode[kBeta],
                             .workspace = f.workspace,
                             .dropout = dropout_,
                             .state = f.state},
                            *f.stream);
    });
  }

 private:
  Dropout dropout_;
  double eps_;
};

}  // namespace

Value embedding(Graph& graph, Value ids, Value segments, Value sequence_offsets, const EmbeddingTables& tables, double drop_p,
                double eps, std::string_view name) {
  auto op = std::make_unique<Embedding>(Dropout{drop_p, graph.site(name)}, eps);
  return graph.add(std::move(op),
                   {ids, segments, sequence_offsets, tables.word, tables.position, tables.segment, tables.gamma, tables.beta},
                   name)[0];
}

}  // namespace electra
