#include "engine/ops/gelu.h"

#include "kernels/dispatch.h"
#include "kernels/activation.h"

namespace electra {
namespace {

class Gelu final : public Op {
 public:
  const char* name() const override { return "gelu"; }

  Signature infer(std::span<const TensorSpec> in, const TraceContext&) const override {
    Signature s;
    s.outputs = {in[0]};
    s.differentiable_inputs = s.differentiable_outputs = s.backward_reads_inputs = 0b1;
    const auto n = static_cast<double>(in[0].shape.size()), bytes = static_cast<double>(in[0].bytes());
    s.forward = {20 * n, 2 * bytes};  // nominal FLOPs, see docs/ops/activation.md
    s.backward = {30 * n, 3 * bytes};
    return s;
  }

  void forward(const Frame& f) const override {
    dispatch(*f.stream, [&]<Backend B>() { gelu_forward<B>({.x = f.in[0], .y = f.out[0]}, *f.stream); });
  }

  void backward(const Frame& f) const override {
    dispatch(*f.stream, [&]<Backend B>() {
      gelu_backward<B>({.x = f.in[0], .dy = f.dout[0], .dx = f.din[0], .dx_mode = f.mode[0]}, *f.stream);
    });
  }
};

}  // namespace

Value gelu(Graph& graph, Value x, std::string_view name) {
  return graph.add(std::make_unique<Gelu>(), {x}, name)[0];
}

}  // namespace electra
