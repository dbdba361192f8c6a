#include "engine/ops/linear.h"

#include "kernels/dispatch.h"

namespace electra {
namespace {

class Linear final : public Op {
 public:
  explicit Linear(Epilogue epilogue) : epilogue_(epilogue) {}
  const char* name() const override { return epilogue_ == Epilogue::bias_gelu ? "linear_gelu" : "linear"; }

  Signature infer(std::span<const TensorSpec> in, const TraceContext& context) const override {
    const TensorSpec &x = in[0], &weight = in[1];
    const int64_t rows = x.shape.rows(), k = x.shape[-1], n = weight.shape[0];
    check_shape(context.where, "weight", weight.shape, {n, k});
    if (has_bias()) check_shape(context.where, "bias", in[2].shape, {n});
    const TensorSpec y{{rows, n}, x.dtype};
    Signature s;
    s.outputs = {y};
    if (epilogue_ == Epilogue::bias_gelu) {
      s.saved = {y};  // u, before GELU
      s.optional_saved = 0b1;
    }
    s.differentiable_inputs = has_bias() ? 0b111 : 0b011;
    s.differentiable_outputs = 0b1;
    s.backward_reads_inputs = 0b011;
    s.backward_workspace =
        dispatch(context.backend, [&]<Backend B>() { return linear_backward_workspace<B>(rows, k, n, epilogue_, x.dtype); });
    const double product = 2.0 * static_cast<double>(rows) * static_cast<double>(k) * static_cast<double>(n);
    // With GELU, u is written and read again, and dU is written by the first sweep of backward and read by the second.
    const size_t u = epilogue_ == Epilogue::bias_gelu ? y.bytes() : 0;
    s.forward = {product, static_cast<double>(x.bytes() + weight.bytes() + y.bytes() + u)};
    s.backward = {2 * product, static_cast<double>(2 * (x.bytes() + weight.bytes()) + y.bytes() + 3 * u)};
    return s;
  }

  void forward(const Frame& f) const override {
    dispatch(*f.stream, [&]<Backend B>() {
      linear_forward<B>({.x = f.in[0],
                         .weight = f.in[1],
                         .bias = has_bias() ? f.in[2] : Tensor{},
                         .y = f.out[0],
                         .u = epilogue_ == Epilogue::bias_gelu ? f.saved[0] : Tensor{},
                         .epilogue = epilogue_},
                        *f.stream);
    });
  }

  void backward(const Frame& f) const override {
    dispatch(*f.stream, [&]<Backend B>() {
      linear_backward<B>({.x = f.in[0],
                          .weight = f.in[1],
                          .dy = f.dout[0],
                          .u = epilogue_ == Epilogue::bias_gelu ? f.saved[0] : Tensor{},
                          .dx = f.din[0],
                          .dweight = f.din[1],
                          .dbias = has_bias() ? f.din[2] : Tensor{},
                          .dx_mode = f.mode[0],
                          .dweight_mode = f.mode[1],
                          .dbias_mode = has_bias() ? f.mode[2] : GradMode::none,
                          .workspace = f.workspace,
                          .epilogue = epilogue_},
                         *f.stream);
    });
  }

 private:
  bool has_bias() const { return epilogue_ != Epilogue::none; }
  Epilogue epilogue_;
};

}  // namespace

Value linear(Graph& graph, Value x, Value weight, Value bias, Epilogue epilogue, std::string_view name) {
  std::vector<Value> in{x, weight};
  if (epilogue != Epilogue::none) in.push_back(bias);
  return graph.add(std::make_unique<Linear>(epilogue), std::move(in), name)[0];
}

}  // namespace electra
