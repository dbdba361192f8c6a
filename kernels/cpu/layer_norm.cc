#include "kernels/layer_norm.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "kernels/cpu/common.h"

namespace electra {
namespace {

using cpu::items_of;
using cpu::kRowsPerItem;
using cpu::put;
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
      if (a.dresidual_mode != GradMode::none) put(a.dresidual.as<double>()[r * cols + c], d, a.dresidual_mode);
      if (a.dx_mode == GradMode::none) continue;
      const double keep = cpu::keep_factor(a.dropout, a.state, place, static_cast<uint32_t>(c / 8), static_cast<int>(c % 8));
      put(a.dx.as<double>()[r * cols + c], d * keep, a.dx_mode);
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
  for (int64_t c = 0; c < cols; ++c) {
    float dgamma = 0, dbeta = 0;
    for (int64_t i = 0; i < items; ++i) {
      dgamma += partial[i * 2 * cols + c];
      dbeta += partial[(i * 2 + 1) * cols + c];
    }
    if (a.dgamma_mode != GradMode::none) put(a.dgamma.as<float>()[c], dgamma, a.dgamma_mode);
    if (a.dbeta_mode != GradMode::none) put(a.dbeta.as<float>()[c], dbeta, a.dbeta_mode);
  }
}

struct NamedTensor {
  const char* name;
  const Tensor& tensor;
};
void check_dtypes(std::initializer_list<NamedTensor> operands, DType expected) {
  for (const NamedTensor& operand : operands)
    if (operand.tensor) check_dtype("layer_norm", operand.name, operand.tensor.dtype, expected);
}

void check_dropout(const Dropout& dropout, const Tensor& sequence_offsets, int64_t rows, const StepState* state) {
  if (!dropout.active()) return;
  cpu::check_state("layer_norm", state);
  cpu::check_offsets("layer_norm", sequence_offsets, rows);
}

}  // namespace

size_t layer_norm_backward_workspace(int64_t rows, int64_t cols, DType dtype) {
  return dtype == DType::f64 ? 0 : Scratch::bytes<float>(items_of(rows, kRowsPerItem) * 2 * cols);
}

template <> void layer_norm_forward<Backend::cpu>(const LayerNormForward& args, Stream& stream) {
  const int64_t cols = args.x.cols();
  check_shape("layer_norm", "gamma", args.gamma.shape, {cols});
  check_shape("layer_norm", "beta", args.beta.shape, {cols});
  check_shape("layer_norm", "y", args.y.shape, args.x.shape);
  check_shape("layer_norm", "mean", args.mean.shape, {args.x.rows()});
  check_shape("layer_norm", "rstd", args.rstd.shape, {args.x.rows()});
  if (args.residual) check_shape("layer_norm", "residual", args.residual.shape, args.x.shape);
  if (args.sum) check_shape("layer_norm", "sum", args.sum.shape, args.x.shape);
  check_dtypes({{"gamma", args.gamma}, {"beta", args.beta}, {"residual", args.residual}, {"y", args.y}, {"sum", args.sum},
                {"mean", args.mean}, {"rstd", args.rstd}},
               args.x.dtype);
  check_dropout(args.dropout, args.sequence_offsets, args.x.rows(), args.state);
  cpu::dispatch_float("layer_norm", args.x.dtype, [&]<class T>() {
    if constexpr (std::is_same_v<T, double>) forward_oracle(args);
    else forward(args, stream);
  });
}

template <> void layer_norm_backward<Backend::cpu>(const LayerNormBackward& args, Stream& stream) {
  const int64_t rows = args.dy.rows(), cols = args.dy.cols();
  check_shape("layer_norm", "sum", args.sum.shape, args.dy.shape);
  check_shape("layer_norm", "gamma", args.gamma.shape, {cols});
  check_shape("layer_norm", "mean", args.mean.shape, {rows});
  check_shape("layer_norm", "rstd", args.rstd.shape, {rows});
  if (args.dx_mode != GradMode::none) check_shape("layer_norm", "dx", args.dx.shape, args.dy.shape);
  if (args.dresidual_mode != GradMode::none) check_shape("layer_norm", "dresidual", args.dresidual.shape, args.dy.shape);
  if (args.dgamma_mode != GradMode::none) check_shape("layer_norm", "dgamma", args.dgamma.shape, {cols});
  if (args.dbeta_mode != GradMode::none) check_shape("layer_norm", "dbeta", args.dbeta.shape, {cols});
  check_dtypes({{"sum", args.sum}, {"gamma", args.gamma}, {"mean", args.mean}, {"rstd", args.rstd}, {"dx", args.dx},
                {"dresidual", args.dresidual}, {"dgamma", args.dgamma}, {"dbeta", args.dbeta}},
               args.dy.dtype);
  check_dropout(args.dropout, args.sequence_offsets, rows, args.state);
  cpu::check_workspace("layer_norm", args.workspace, layer_norm_backward_workspace(rows, cols, args.dy.dtype));
  cpu::dispatch_float("layer_norm", args.dy.dtype, [&]<class T>() {
    if constexpr (std::is_same_v<T, double>) backward_oracle(args);
    else backward(args, stream);
  });
}

}  // namespace electra
