#include "kernels/activation.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "kernels/cpu/common.h"
#include "kernels/cpu/gelu.h"

namespace electra {
namespace {

constexpr int64_t kElementsPerItem = 16384;

void forward(const double* x, double* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = cpu::gelu(x[i]);
}

void backward(const double* x, const double* dy, double* dx, int64_t n, GradMode mode) {
  for (int64_t i = 0; i < n; ++i) cpu::put(dx[i], dy[i] * cpu::gelu_slope(x[i]), mode);
}

}  // namespace

double cpu::gelu(double x) { return x * 0.5 * std::erfc(-x / std::numbers::sqrt2); }

double cpu::gelu_slope(double x) {
  const double cdf = 0.5 * std::erfc(-x / std::numbers::sqrt2);
  const double density = std::exp(-x * x / 2) * std::numbers::inv_sqrtpi / std::numbers::sqrt2;
  return cdf + x * density;
}

template <> void gelu_forward<Backend::cpu>(const GeluForward& args, Stream& stream) {
  check_operand("gelu", "y", args.y, args.x.shape, args.x.dtype);
  const int64_t n = args.x.size();
  cpu::dispatch_float("gelu", args.x.dtype, [&]<class T>() {
    if constexpr (std::is_same_v<T, double>) {
      forward(args.x.as<double>(), args.y.as<double>(), n);
    } else {
      stream.pool().parallel_for(cpu::items_of(n, kElementsPerItem), [&](int64_t item, int) {
        const int64_t i = item * kElementsPerItem;
        cpu::vector_kernels().gelu(args.x.as<float>() + i, args.y.as<float>() + i, std::min(kElementsPerItem, n - i));
      });
    }
  });
}

template <> void gelu_backward<Backend::cpu>(const GeluBackward& args, Stream& stream) {
  check_operand("gelu", "dy", args.dy, args.x.shape, args.x.dtype);
  if (args.dx_mode == GradMode::none) return;
  check_operand("gelu", "dx", args.dx, args.x.shape, args.x.dtype);
  const int64_t n = args.x.size();
  cpu::dispatch_float("gelu", args.x.dtype, [&]<class T>() {
    if constexpr (std::is_same_v<T, double>) {
      backward(args.x.as<double>(), args.dy.as<double>(), args.dx.as<double>(), n, args.dx_mode);
    } else {
      stream.pool().parallel_for(cpu::items_of(n, kElementsPerItem), [&](int64_t item, int) {
        const int64_t i = item * kElementsPerItem;
        cpu::vector_kernels().gelu_backward(args.x.as<float>() + i, args.dy.as<float>() + i, args.dx.as<float>() + i,
                                            std::min(kElementsPerItem, n - i), args.dx_mode == GradMode::accumulate);
      });
    }
  });
}

}  // namespace electra
