#include "kernels/layer_norm.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/common.h"

namespace electra {
namespace {

using cpu::items_of;
using cpu::kRowsPerItem;
using cpu::put;
using cpu::put_sums;
using cpu::Scratch;

void forward_oracle(const LayerNormForward& a) {
  const int64_t rows = a.x.rows(), cols = a.x.cols();
  const double *x = a.x.as<double>(), *gamma = a.gamma.as<double>(), *beta = a.beta.as<double>();
  cpu::PlaceCursor cursor(a.sequence_offsets, a.state, 0);
  for (int64_t r = 0; r < rows; ++r) {
    const cpu::Place place = cursor.next();
    const auto summed = [&](int64_t c) {
      const double keep = cpu::keep_factor(a.dropout, a.state, place, static_cast<uint32_t>(c / 8), static_cast<int>(c % 8));
      return x[r * cols + c] * keep + (a.residual ? a.residual.as<double>()[r * cols + c] : 0.0);
    };
    // From the first column on, so that the mean of a constant row is exact.
    const double origin = summed(0);
    double mean = origin, variance = 0;
    for (int64_t c = 0; c < cols; ++c) mean += (summed(c) - origin) / static_cast<double>(cols);
    for (int64_t c = 0; c < cols; ++c) variance += (summed(c) - mean) * (summed(c) - mean) / static_cast<double>(cols);
    const double rstd = 1 / std::sqrt(variance + a.eps);
    a.mean.as<double>()[r] = mean;
    a.rstd.as<double>()[r] = rstd;
    for (int64_t c = 0; c < cols; ++c) {
      const double s = summed(c);
      if (a.sum) a.sum.as<double>()[r * cols + c] = s;
      a.y.as<double>()[r * cols + c] = (s - mean) * rstd * gamma[c] + beta[c];
    }
  }
}

void forward(const LayerNormForward& a, Stream& stream) {
  const int64_t rows = a.x.rows(), cols = a.x.cols();
  stream.pool().parallel_for(items_of(rows, kRowsPerItem), [&](int64_t item, int) {
    const int64_t r = item * kRowsPerItem, n = std::min(kRowsPerItem, rows - r);
    const cpu::DropoutBlock dropout(a.dropout, a.state, a.sequence_offsets, r, n);
    cpu::vector_kernels().layer_norm({.x = a.x.as<float>() + r * cols,
                                      .residual = a.residual ? a.residual.as<float>() + r * cols : nullptr,
                                      .gamma = a.gamma.as<float>(),
                                      .beta = a.beta.as<float>(),
                                      .y = a.y.as<float>() + r * cols,
                                      .sum = a.sum ? a.sum.as<float>() + r * cols : nullptr,
                                      .mean = a.mean.as<float>() + r,
                                      .rstd = a.rstd.as<float>() + r,
                                      .rows = n,
                                      .cols = cols,
                                      .eps = static_cast<float>(a.eps),
                                      .dropout = dropout.rows,
                                      .dropout_output = false});
  });
}

void backward_oracle(const LayerNormBackward& a) {
  const int64_t rows = a.dy.rows(), cols = a.dy.cols();
  const double *gamma = a.gamma.as<double>(), *dy = a.dy.as<double>();
  const auto xhat = [&](int64_t r, int64_t c) {
    return (a.sum.as<double>()[r * cols + c] - a.mean.as<double>()[r]) * a.rstd.as<double>()[r];
  };
  cpu::PlaceCursor cursor(a.sequence_offsets, a.state, 0);
  for (int64_t r = 0; r < rows; ++r) {
    const cpu::Place place = cursor.next();
    double average = 0, average_xhat = 0;
    for (int64_t c = 0; c < cols; ++c) {
      average += dy[r * cols + c] * gamma[c] / static_cast<double>(cols);
      average_xhat += dy[r * cols + c] * gamma[c] * xhat(r, c) / static_cast<double>(cols);
    }
    for (int64_t c = 0; c < cols; ++c) {
      const double d = a.rstd.as<double>()[r] * (dy[r * cols + c] * gamma[c] - average - xhat(r, c) * average_xhat);
      const double keep = cpu::keep_factor(a.dropout, a.state, place, static_cast<uint32_t>(c / 8), static_cast<int>(c % 8));
      if (a.dx_mode != GradMode::none) put(a.dx.as<double>()[r * cols + c], d * keep, a.dx_mode);
      if (a.dresidual_mode != GradMode::none) put(a.dresidual.as<double>()[r * cols + c], d, a.dresidual_mode);
    }
  }
  for (int64_t c = 0; c < cols; ++c) {
    double dgamma = 0, dbeta = 0;
    for (int64_t r = 0; r < rows; ++r) {
      dgamma += dy[r * cols + c] * xhat(r, c);
      dbeta += dy[r * cols + c];
    }
    if (a.dgamma_mode != GradMode::none) put(a.dgamma.as<double>()[c], dgamma, a.dgamma_mode);
    if (a.dbeta_mode != GradMode::none) put(a.dbeta.as<double>()[c], dbeta, a.dbeta_mode);
  }
}

// Over rows with partial dgamma and dbeta for each item, then their sums in order.
void backward(const LayerNormBackward& a, Stream& stream) {
  const int64_t rows = a.dy.rows(), cols = a.dy.cols(), items = items_of(rows, kRowsPerItem);
  float* const partial = Scratch(a.workspace).take<float>(items * 2 * cols);  // (items, 2, cols)
  stream.pool().parallel_for(items, [&](int64_t item, int) {
    const int64_t r = item * kRowsPerItem, n = std::min(kRowsPerItem, rows - r);
    const cpu::DropoutBlock dropout(a.dropout, a.state, a.sequence_offsets, r, n);
    float* const dgamma = partial + item * 2 * cols;
    std::fill_n(dgamma, 2 * cols, 0.0f);
    cpu::vector_kernels().layer_norm_backward(
        {.sum = a.sum.as<float>() + r * cols,
         .gamma = a.gamma.as<float>(),
         .mean = a.mean.as<float>() + r,
         .rstd = a.rstd.as<float>() + r,
         .dy = a.dy.as<float>() + r * cols,
         .dx = a.dx_mode == GradMode::none ? nullptr : a.dx.as<float>() + r * cols,
         .dresidual = a.dresidual_mode == GradMode::none ? nullptr : a.dresidual.as<float>() + r * cols,
         .dx_accumulate = a.dx_mode == GradMode::accumulate,
         .dresidual_accumulate = a.dresidual_mode == GradMode::accumulate,
         .dgamma = dgamma,
         .dbeta = dgamma + cols,
         .rows = n,
         .cols = cols,
         .dropout = dropout.rows,
         .dropout_output = false});
  });
  put_sums(partial, items, 2 * cols, a.dgamma.as<float>(), cols, a.dgamma_mode);
  put_sums(partial + cols, items, 2 * cols, a.dbeta.as<float>(), cols, a.dbeta_mode);
}

void check_random(const Dropout& dropout, const Tensor& sequence_offsets, int64_t rows, const StepState* state) {
  check_draws("layer_norm", dropout, state);
  if (dropout.active()) cpu::check_offsets("layer_norm", sequence_offsets, rows);
}

}  // namespace

template <> size_t layer_norm_backward_workspace<Backend::cpu>(int64_t rows, int64_t cols, DType dtype) {
  return dtype == DType::f64 ? 0 : Scratch::bytes<float>(items_of(rows, kRowsPerItem) * 2 * cols);
}

template <> void layer_norm_forward<Backend::cpu>(const LayerNormForward& args, Stream& stream) {
  const int64_t cols = args.x.cols();
  const Shape whole{args.x.rows(), cols}, rows{args.x.rows()};
  if (cols < 1) throw ShapeError("layer_norm", "x has shape " + args.x.shape.str() + ", expected at least 1 column");
  const auto check = [&](const char* what, const Tensor& t, const Shape& shape) {
    check_operand("layer_norm", what, t, shape, args.x.dtype);
  };
  check("gamma", args.gamma, {cols});
  check("beta", args.beta, {cols});
  check("x", args.x, whole);
  check("y", args.y, whole);
  check("mean", args.mean, rows);
  check("rstd", args.rstd, rows);
  if (args.residual) check("residual", args.residual, whole);
  if (args.sum) check("sum", args.sum, whole);
  check_random(args.dropout, args.sequence_offsets, args.x.rows(), args.state);
  cpu::dispatch_float("layer_norm", args.x.dtype, [&]<class T>() {
    if constexpr (std::is_same_v<T, double>) forward_oracle(args);
    else forward(args, stream);
  });
}

template <> void layer_norm_backward<Backend::cpu>(const LayerNormBackward& args, Stream& stream) {
  const int64_t rows = args.dy.rows(), cols = args.dy.cols();
  const Shape whole{rows, cols};
  const auto check = [&](const char* what, const Tensor& t, const Shape& shape, GradMode mode = GradMode::write) {
    check_gradient("layer_norm", what, mode, t, shape, args.dy.dtype);
  };
  check("dy", args.dy, whole);
  check("sum", args.sum, whole);
  check("gamma", args.gamma, {cols});
  check("mean", args.mean, {rows});
  check("rstd", args.rstd, {rows});
  check("dx", args.dx, whole, args.dx_mode);
  check("dresidual", args.dresidual, whole, args.dresidual_mode);
  check("dgamma", args.dgamma, {cols}, args.dgamma_mode);
  check("dbeta", args.dbeta, {cols}, args.dbeta_mode);
  check_random(args.dropout, args.sequence_offsets, rows, args.state);
  check_workspace("layer_norm", args.workspace, layer_norm_backward_workspace<Backend::cpu>(rows, cols, args.dy.dtype));
  cpu::dispatch_float("layer_norm", args.dy.dtype, [&]<class T>() {
    if constexpr (std::is_same_v<T, double>) backward_oracle(args);
    else backward(args, stream);
  });
}

}  // namespace electra
