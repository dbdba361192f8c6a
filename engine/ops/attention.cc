#include "engine/ops/attention.h"

#include <string>

#include "kernels/dispatch.h"
#include "kernels/attention.h"
#include "kernels/core/error.h"

namespace electra {
namespace {

class Attention final : public Op {
 public:
  Attention(int64_t num_heads, int64_t max_seq_len, Dropout dropout)
      : num_heads_(num_heads), max_seq_len_(max_seq_len), dropout_(dropout) {}
  const char* name() const override { return "attention"; }

  Signature infer(std::span<const TensorSpec> in, const TraceContext& context) const override {
    const TensorSpec& qkv = in[0];
    const int64_t rows = qkv.shape.rows(), width = qkv.shape[-1] / 3;
    check_dropout(context.where, dropout_);
    check_dtype(context.where, "sequence_offsets", in[1].dtype, DType::i32);
    if (num_heads_ < 1) throw ShapeError(context.where, "expected at least 1 head, got " + std::to_string(num_heads_));
    if (max_seq_len_ < 1) throw ShapeError(context.where, "expected a max_seq_len of at least 1, got " + std::to_string(max_seq_len_));
    if (qkv.shape[-1] % (3 * num_heads_) != 0)
      throw ShapeError(context.where, "qkv has shape " + qkv.shape.str() + ", expected columns divisible by 3 times " +
                                          std::to_string(num_heads_) + " heads");
    Signature s;
    s.outputs = {{{rows, width}, qkv.dtype}};
    s.saved = {{{num_heads_, rows}, accumulate_type(qkv.dtype)}};
    s.differentiable_inputs = s.differentiable_outputs = 0b1;
    s.backward_reads_inputs = 0b11;
    s.backward_reads_outputs = 0b1;
    s.forward_workspace = s.backward_workspace =
        dispatch(context.backend, [&]<Backend B>() { return attention_workspace<B>(rows, num_heads_, width / num_heads_, max_seq_len_, context.max_threads, qkv.dtype); });
    // Model FLOPs with every sequence at its greatest length: two products forward, four backward; that backward computes
    // the scores again is the kernel's affair and not counted.
    const double product = 2.0 * static_cast<double>(rows) * static_cast<double>(max_seq_len_) * static_cast<double>(width);
    const size_t context_bytes = s.outputs[0].bytes(), lse_bytes = s.saved[0].bytes();
    s.forward = {2 * product, static_cast<double>(qkv.bytes() + context_bytes + lse_bytes)};
    s.backward = {4 * product, static_cast<double>(2 * qkv.bytes() + 2 * context_bytes + lse_bytes)};
    return s;
  }

  void forward(const Frame& f) const override {
    dispatch(*f.stream, [&]<Backend B>() {
      attention_forward<B>({.qkv = f.in[0],
                            .sequence_offsets = f.in[1],
                            .context = f.out[0],
                            .lse = f.saved[0],
                            .workspace = f.workspace,
                            .num_heads = num_heads_,
                            .max_seq_len = max_seq_len_,
                            .dropout = dropout_,
                            .state = f.state},
                           *f.stream);
    });
  }

  void backward(const Frame& f) const override {
    dispatch(*f.stream, [&]<Backend B>() {
      attention_backward<B>({.qkv = f.in[0],
                             .sequence_offsets = f.in[1],
                             .context = f.out[0],
                             .lse = f.saved[0],
                             .dcontext = f.dout[0],
                             .dqkv = f.din[0],
                             .dqkv_mode = f.mode[0],
                             .workspace = f.workspace,
                             .num_heads = num_heads_,
                             .max_seq_len = max_seq_len_,
                             .dropout = dropout_,
                             .state = f.state},
                            *f.stream);
    });
  }

 private:
  int64_t num_heads_, max_seq_len_;
  Dropout dropout_;
};

}  // namespace

Value attention(Graph& graph, Value qkv, Value sequence_offsets, int64_t num_heads, int64_t max_seq_len, double drop_p,
                std::string_view name) {
  auto op = std::make_unique<Attention>(num_heads, max_seq_len, Dropout{drop_p, graph.site(name)});
  return graph.add(std::move(op), {qkv, sequence_offsets}, name)[0];
}

}  // namespace electra
