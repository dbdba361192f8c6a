#include "kernels/weighted_sum.h"

namespace electra {
namespace {

template <class T> void put(const Tensor& d, double value, GradMode mode) {
  if (mode == GradMode::write) *d.as<T>() = static_cast<T>(value);
  else if (mode == GradMode::accumulate) *d.as<T>() += static_cast<T>(value);
}

template <class T> void sum(const WeightedSum& a) {
  const double b = a.b ? a.weight_b * static_cast<double>(*a.b.as<T>()) : 0.0;
  *a.sum.as<T>() = static_cast<T>(a.weight_a * static_cast<double>(*a.a.as<T>()) + b);
}

template <class T> void backward(const WeightedSumBackward& a) {
  const auto d = static_cast<double>(*a.dsum.as<T>());
  put<T>(a.da, a.weight_a * d, a.da_mode);
  put<T>(a.db, a.weight_b * d, a.db_mode);
}

}  // namespace

template <> void weighted_sum<Backend::cpu>(const WeightedSum& args, Stream&) {
  check_shape("weighted_sum", "a", args.a.shape, {1});
  check_dtype("weighted_sum", "sum", args.sum.dtype, args.a.dtype);
  if (args.b) check_dtype("weighted_sum", "b", args.b.dtype, args.a.dtype);
  args.a.dtype == DType::f64 ? sum<double>(args) : sum<float>(args);
}

template <> void weighted_sum_backward<Backend::cpu>(const WeightedSumBackward& args, Stream&) {
  args.dsum.dtype == DType::f64 ? backward<double>(args) : backward<float>(args);
}

}  // namespace electra
