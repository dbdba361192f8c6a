#include "kernels/optimizer.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "kernels/core/error.h"
#include "kernels/cpu/common.h"

namespace electra {
namespace {

using cpu::items_of;
using cpu::Scratch;

constexpr int64_t kElementsPerItem = 256 * kGroupElements;

double element(const Tensor& t) { return t.dtype == DType::f64 ? *t.as<double>() : static_cast<double>(*t.as<float>()); }

void adamw_oracle(const AdamW& a, double correction1, double correction2) {
  for (int64_t i = 0; i < a.param.size(); ++i) {
    const ParameterGroup& group = a.groups[a.group_ids[i / kGroupElements]];
    const double g = a.grad_norm->factor * a.grad.as<double>()[i];
    double &p = a.param.as<double>()[i], &m = a.m.as<double>()[i], &v = a.v.as<double>()[i];
    m = a.beta1 * m + (1 - a.beta1) * g;
    v = a.beta2 * v + (1 - a.beta2) * g * g;
    const double update = m / correction1 / (std::sqrt(v / correction2) + a.eps) + group.weight_decay * p;
    p -= a.state->learning_rate * group.learning_rate_scale * update;
  }
}

void adamw_float(const AdamW& a, double correction1, double correction2, Stream& stream) {
  const int64_t n = a.param.size();
  stream.pool().parallel_for(items_of(n, kElementsPerItem), [&](int64_t item, int) {
    const int64_t end = std::min(n, (item + 1) * kElementsPerItem);
    for (int64_t i = item * kElementsPerItem; i < end; i += kGroupElements) {
      const ParameterGroup& group = a.groups[a.group_ids[i / kGroupElements]];
      cpu::vector_kernels().adamw({.param = a.param.as<float>() + i,
                                   .m = a.m.as<float>() + i,
                                   .v = a.v.as<float>() + i,
                                   .grad = a.grad.as<float>() + i,
                                   .size = std::min(kGroupElements, n - i),
                                   .factor = static_cast<float>(a.grad_norm->factor),
                                   .beta1 = static_cast<float>(a.beta1),
                                   .beta2 = static_cast<float>(a.beta2),
                                   .gain1 = static_cast<float>(1 - a.beta1),
                                   .gain2 = static_cast<float>(1 - a.beta2),
                                   .eps = static_cast<float>(a.eps),
                                   .learning_rate = static_cast<float>(a.state->learning_rate * group.learning_rate_scale),
                                   .weight_decay = group.weight_decay,
                                   .inverse_correction1 = static_cast<float>(1 / correction1),
                                   .inverse_correction2 = static_cast<float>(1 / correction2)});
    }
  });
}

}  // namespace

template <> size_t grad_norm_workspace<Backend::cpu>(int64_t elements) { return Scratch::bytes<double>(items_of(elements, kElementsPerItem)); }

template <> void grad_norm<Backend::cpu>(const GradNormArgs& args, Stream& stream) {
  const int64_t n = args.grad.size(), items = items_of(n, kElementsPerItem);
  check_operand("grad_norm", "grad", args.grad, {n}, args.grad.dtype);
  check_operand("grad_norm", "loss", args.loss, {1}, args.loss.dtype == DType::f64 ? DType::f64 : DType::f32);
  if (!args.result) throw ConfigError("grad_norm", "expected a place for the result, got none");
  check_workspace("grad_norm", args.workspace, grad_norm_workspace<Backend::cpu>(n));
  double* const partial = Scratch(args.workspace).take<double>(items);
  cpu::dispatch_float("grad_norm", args.grad.dtype, [&]<class T>() {
    stream.pool().parallel_for(items, [&](int64_t item, int) {
      const int64_t i = item * kElementsPerItem, count = std::min(kElementsPerItem, n - i);
      if constexpr (std::is_same_v<T, float>) {
        partial[item] = cpu::vector_kernels().sum_of_squares(args.grad.as<float>() + i, count);
      } else {
        partial[item] = 0;
        for (int64_t k = i; k < i + count; ++k) partial[item] += args.grad.as<double>()[k] * args.grad.as<double>()[k];
      }
    });
  });
  double squares = 0;
  for (int64_t i = 0; i < items; ++i) squares += partial[i];
  GradNorm& result = *args.result;
  result.norm = std::sqrt(squares);
  result.finite = std::isfinite(result.norm) && std::isfinite(element(args.loss)) ? 1 : 0;
  result.factor = !result.finite ? 0 : result.norm > args.clip_norm ? args.clip_norm / result.norm : 1;
}

template <> void adamw<Backend::cpu>(const AdamW& args, Stream& stream) {
  const auto check = [&](const char* what, const Tensor& buffer) {
    check_operand("adamw", what, buffer, {args.param.size()}, args.param.dtype);
  };
  check("param", args.param);
  check("grad", args.grad);
  check("m", args.m);
  check("v", args.v);
  check_state("adamw", args.state);
  if (!args.group_ids || !args.groups) throw ConfigError("adamw", "expected group ids and groups, got none");
  if (!args.grad_norm) throw ConfigError("adamw", "expected the result of grad_norm, got none");
  if (!args.grad_norm->finite) return;
  const double correction1 = args.bias_correction ? 1 - std::pow(args.beta1, args.state->adam_step) : 1;
  const double correction2 = args.bias_correction ? 1 - std::pow(args.beta2, args.state->adam_step) : 1;
  cpu::dispatch_float("adamw", args.param.dtype, [&]<class T>() {
    if constexpr (std::is_same_v<T, double>) adamw_oracle(args, correction1, correction2);
    else adamw_float(args, correction1, correction2, stream);
  });
}

}  // namespace electra
