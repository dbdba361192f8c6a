#include "engine/ops/layer_norm.h"

#include "kernels/core/error.h"
#include "kernels/dispatch.h"
#include "kernels/layer_norm.h"

namespace electra {
namespace {

// Inputs: x, gamma, beta, and with a residual also residual and sequence_offsets.
class LayerNorm final : public Op {
 public:
  LayerNorm(bool residual, Dropout dropout, double eps) : residual_(residual), dropout_(dropout), eps_(eps) {}
  const char* name() const override { return residual_ ? "add_layer_norm" : "layer_norm"; }

  Signature infer(std::span<const TensorSpec> in, const TraceContext& context) const override {
    const TensorSpec& x = in[0];
    const int64_t rows = x.shape.rows(), cols = x.shape[-1];
    check_dropout(context.where, dropout_);
    if (cols < 1) throw ShapeError(context.where, "x has shape " + x.shape.str() + ", expected at least 1 column");
    check_shape(context.where, "gamma", in[1].shape, {cols});
    check_shape(context.where, "beta", in[2].shape, {cols});
    if (residual_) check_shape(context.where, "residual", in[3].shape, x.shape);
    const TensorSpec statistic{{rows}, accumulate_type(x.dtype)};
    Signature s;
    s.outputs = {x};
    s.saved = {statistic, statistic};
    if (residual_) {
      s.saved.push_back(x);  // the sum
      s.optional_saved = 0b100;
    }
    s.differentiable_inputs = residual_ ? 0b01111 : 0b00111;
    s.differentiable_outputs = 0b1;
    s.backward_reads_inputs = residual_ ? 0b10010 : 0b00011;
    s.backward_workspace =
        dispatch(context.backend, [&]<Backend B>() { return layer_norm_backward_workspace<B>(rows, cols, x.dtype); });
    const auto n = static_cast<double>(x.shape.size()), bytes = static_cast<double>(x.bytes());
    s.forward = {8 * n, (residual_ ? 4 : 2) * bytes};
    s.backward = {14 * n, (residual_ ? 4 : 3) * bytes};
    return s;
  }

  void forward(const Frame& f) const override {
    dispatch(*f.stream, [&]<Backend B>() {
      layer_norm_forward<B>({.x = f.in[0],
                             .residual = residual_ ? f.in[3] : Tensor{},
                             .gamma = f.in[1],
                             .beta = f.in[2],
                             .sequence_offsets = residual_ ? f.in[4] : Tensor{},
                             .y = f.out[0],
                             .sum = residual_ ? f.saved[2] : Tensor{},
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
      layer_norm_backward<B>({.sum = residual_ ? f.saved[2] : f.in[0],
                              .gamma = f.in[1],
                              .mean = f.saved[0],
                              .rstd = f.saved[1],
                              .dy = f.dout[0],
                              .sequence_offsets = residual_ ? f.in[4] : Tensor{},
                              .dx = f.din[0],
                              .dresidual = residual_ ? f.din[3] : Tensor{},
                              .dgamma = f.din[1],
                              .dbeta = f.din[2],
                              .dx_mode = f.mode[0],
                              .dresidual_mode = residual_ ? f.mode[3] : GradMode::none,
                              .dgamma_mode = f.mode[1],
                              .dbeta_mode = f.mode[2],
                              .workspace = f.workspace,
                              .dropout = dropout_,
                              .state = f.state},
                             *f.stream);
    });
  }

 private:
  bool residual_;
  Dropout dropout_;
  double eps_;
};

}  // namespace

Value layer_norm(Graph& graph, Value x, Value gamma, Value beta, double eps, std::string_view name) {
  return graph.add(std::make_unique<LayerNorm>(false, Dropout{}, eps), {x, gamma, beta}, name)[0];
}

Value dropout_add_layer_norm(Graph& graph, Value x, Value residual, Value gamma, Value beta, Value sequence_offsets,
                             double drop_p, double eps, std::string_view name) {
  auto op = std::make_unique<LayerNorm>(true, Dropout{drop_p, graph.site(name)}, eps);
  return graph.add(std::move(op), {x, gamma, beta, residual, sequence_offsets}, name)[0];
}

}  // namespace electra
