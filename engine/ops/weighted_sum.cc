#include "engine/ops/weighted_sum.h"

#include "kernels/dispatch.h"
#include "kernels/weighted_sum.h"

namespace electra {
namespace {

class WeightedSumOp final : public Op {
 public:
  WeightedSumOp(double weight_a, double weight_b) : weight_a_(weight_a), weight_b_(weight_b) {}
  const char* name() const override { return "weighted_sum"; }

  Signature infer(std::span<const TensorSpec> in, const TraceContext& context) const override {
    for (const TensorSpec& x : in) check_shape(context.where, "term", x.shape, {1});
    Signature s;
    s.outputs = {in[0]};
    s.differentiable_inputs = in.size() == 2 ? 0b11 : 0b1;
    s.differentiable_outputs = 0b1;
    const auto terms = static_cast<double>(in.size()), bytes = (terms + 1) * static_cast<double>(in[0].bytes());
    s.forward = {2 * terms - 1, bytes};
    s.backward = {terms, bytes};
    return s;
  }

  void forward(const Frame& f) const override {
    dispatch(*f.stream, [&]<Backend B>() {
      weighted_sum<B>({.a = f.in[0],
                       .b = f.in.size() == 2 ? f.in[1] : Tensor{},
                       .sum = f.out[0],
                       .weight_a = weight_a_,
                       .weight_b = weight_b_},
                      *f.stream);
    });
  }

  void backward(const Frame& f) const override {
    dispatch(*f.stream, [&]<Backend B>() {
      weighted_sum_backward<B>({.dsum = f.dout[0],
                                .da = f.din[0],
                                .db = f.in.size() == 2 ? f.din[1] : Tensor{},
                                .weight_a = weight_a_,
                                .weight_b = weight_b_,
                                .da_mode = f.mode[0],
                                .db_mode = f.in.size() == 2 ? f.mode[1] : GradMode::none},
                               *f.stream);
    });
  }

 private:
  double weight_a_, weight_b_;
};

}  // namespace

Value weighted_sum(Graph& graph, Value a, double weight_a, Value b, double weight_b, std::string_view name) {
  std::vector<Value> in{a};
  if (b != kNoValue) in.push_back(b);
  return graph.add(std::make_unique<WeightedSumOp>(weight_a, weight_b), std::move(in), name)[0];
}

}  // namespace electra
