#include "kernels/weighted_sum.h"

#include "kernels/cpu/common.h"

namespace electra {
namespace {

template <class T> void sum(const WeightedSum& a) {
  const double b = a.b ? a.weight_b * static_cast<double>(*a.b.as<T>()) : 0.0;
  *a.sum.as<T>() = static_cast<T>(a.weight_a * static_cast<double>(*a.a.as<T>()) + b);
}

template <class T> void gradient(const Tensor& d, double value, GradMode mode) {
  if (mode != GradMode::none) cpu::put(*d.as<T>(), static_cast<T>(value), mode);
}

template <class T> void backward(const WeightedSumBackward& a) {
  const auto d = static_cast<double>(*a.dsum.as<T>());
  gradient<T>(a.da, a.weight_a * d, a.da_mode);
  gradient<T>(a.db, a.weight_b * d, a.db_mode);
}

void check_scalar(const char* what, const Tensor& scalar, DType dtype, GradMode mode = GradMode::write) {
  check_gradient("weighted_sum", what, mode, scalar, {1}, dtype);
}

}  // namespace

template <> void weighted_sum<Backend::cpu>(const WeightedSum& args, Stream&) {
  check_scalar("a", args.a, args.a.dtype);
  check_scalar("sum", args.sum, args.a.dtype);
  if (args.b) check_scalar("b", args.b, args.a.dtype);
  cpu::dispatch_float("weighted_sum", args.a.dtype, [&]<class T>() { sum<T>(args); });
}

template <> void weighted_sum_backward<Backend::cpu>(const WeightedSumBackward& args, Stream&) {
  check_scalar("dsum", args.dsum, args.dsum.dtype);
  check_scalar("da", args.da, args.dsum.dtype, args.da_mode);
  check_scalar("db", args.db, args.dsum.dtype, args.db_mode);
  cpu::dispatch_float("weighted_sum", args.dsum.dtype, [&]<class T>() { backward<T>(args); });
}

}  // namespace electra
