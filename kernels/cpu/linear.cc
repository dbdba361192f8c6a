#include "kernels/linear.h"

#include <algorithm>
#include <string>

#include "kernels/core/error.h"
#include "kernels/cpu/common.h"
#include "kernels/cpu/gelu.h"
#include "kernels/cpu/gemm_block.h"

namespace electra {
namespace {

using cpu::gemm_block;
using cpu::items_of;
using cpu::put;
using cpu::put_sums;
using cpu::Scratch;

// Rows of x a work item multiplies, and rows of the weight a work item of dweight owns: functions of the shape alone.
int64_t rows_per_item(int64_t rows) { return rows >= 2048 ? 256 : 64; }
int64_t outputs_per_item(int64_t out) { return out >= 512 ? 128 : 64; }

void forward_oracle(const LinearForward& a) {
  const int64_t rows = a.x.rows(), in = a.x.cols(), out = a.weight.shape[0];
  double *u = a.u ? a.u.as<double>() : a.y.as<double>(), *y = a.y.as<double>();
  gemm_block({.m = rows, .n = out, .k = in, .transpose_b = true, .lda = in, .ldb = in, .ldc = out}, a.x.as<double>(),
             a.weight.as<double>(), u);
  for (int64_t i = 0; a.epilogue != Epilogue::none && i < rows * out; ++i) u[i] += a.bias.as<double>()[i % out];
  for (int64_t i = 0; a.epilogue == Epilogue::bias_gelu && i < rows * out; ++i) y[i] = cpu::gelu(u[i]);
}

void forward(const LinearForward& a, Stream& stream) {
  const int64_t rows = a.x.rows(), in = a.x.cols(), out = a.weight.shape[0], block = rows_per_item(rows);
  const auto& vector = cpu::vector_kernels();
  float* const u = a.u ? a.u.as<float>() : a.y.as<float>();
  stream.pool().parallel_for(items_of(rows, block), [&](int64_t item, int) {
    const int64_t r = item * block, n = std::min(block, rows - r);
    gemm_block({.m = n, .n = out, .k = in, .transpose_b = true, .lda = in, .ldb = in, .ldc = out}, a.x.as<float>() + r * in,
               a.weight.as<float>(), u + r * out);
    if (a.epilogue == Epilogue::bias) vector.add_bias(u + r * out, a.bias.as<float>(), n, out);
    if (a.epilogue == Epilogue::bias_gelu)
      vector.add_bias_gelu(u + r * out, a.y.as<float>() + r * out, a.bias.as<float>(), n, out);
  });
}

void backward_oracle(const LinearBackward& a) {
  const int64_t rows = a.x.rows(), in = a.x.cols(), out = a.weight.shape[0];
  const double* du = a.dy.as<double>();
  if (a.epilogue == Epilogue::bias_gelu) {
    double* d = Scratch(a.workspace).take<double>(rows * out);
    for (int64_t i = 0; i < rows * out; ++i) d[i] = du[i] * cpu::gelu_slope(a.u.as<double>()[i]);
    du = d;
  }
  if (a.dx_mode != GradMode::none)
    gemm_block({.m = rows, .n = in, .k = out, .accumulate = a.dx_mode == GradMode::accumulate, .lda = out, .ldb = in, .ldc = in},
               du, a.weight.as<double>(), a.dx.as<double>());
  if (a.dweight_mode != GradMode::none)
    gemm_block({.m = out, .n = in, .k = rows, .transpose_a = true, .accumulate = a.dweight_mode == GradMode::accumulate,
                .lda = out, .ldb = in, .ldc = in},
               du, a.x.as<double>(), a.dweight.as<double>());
  for (int64_t j = 0; a.dbias_mode != GradMode::none && j < out; ++j) {
    double sum = 0;
    for (int64_t i = 0; i < rows; ++i) sum += du[i * out + j];
    put(a.dbias.as<double>()[j], sum, a.dbias_mode);
  }
}

// First over rows: dU = dY gelu'(u), dX = dU W, and a partial dbias for each item; then over rows of the weight:
// dW = dUᵀ X, and dbias from the partial sums in order.
void backward(const LinearBackward& a, Stream& stream) {
  const int64_t rows = a.x.rows(), in = a.x.cols(), out = a.weight.shape[0];
  const int64_t block = rows_per_item(rows), items = items_of(rows, block);
  const auto& vector = cpu::vector_kernels();
  Scratch scratch(a.workspace);
  float* const partial = scratch.take<float>(items * out);
  float* const gradient = a.epilogue == Epilogue::bias_gelu ? scratch.take<float>(rows * out) : nullptr;
  const float* const du = gradient ? gradient : a.dy.as<float>();
  stream.pool().parallel_for(items, [&](int64_t item, int) {
    const int64_t r = item * block, n = std::min(block, rows - r);
    if (gradient)
      vector.gelu_backward(a.u.as<float>() + r * out, a.dy.as<float>() + r * out, gradient + r * out, n * out, false);
    if (a.dx_mode != GradMode::none)
      gemm_block({.m = n, .n = in, .k = out, .accumulate = a.dx_mode == GradMode::accumulate, .lda = out, .ldb = in, .ldc = in},
                 du + r * out, a.weight.as<float>(), a.dx.as<float>() + r * in);
    if (a.dbias_mode == GradMode::none) return;
    std::fill_n(partial + item * out, out, 0.0f);
    vector.add_column_sums(du + r * out, partial + item * out, n, out);
  });
  const int64_t width = outputs_per_item(out);
  stream.pool().parallel_for(items_of(out, width), [&](int64_t item, int) {
    const int64_t j = item * width, n = std::min(width, out - j);
    if (a.dweight_mode != GradMode::none)
      gemm_block({.m = n, .n = in, .k = rows, .transpose_a = true, .accumulate = a.dweight_mode == GradMode::accumulate,
                  .lda = out, .ldb = in, .ldc = in},
                 du + j, a.x.as<float>(), a.dweight.as<float>() + j * in);
    put_sums(partial + j, items, out, a.dbias.as<float>() + j, n, a.dbias_mode);
  });
}

}  // namespace

template <> size_t linear_backward_workspace<Backend::cpu>(int64_t rows, int64_t, int64_t out, Epilogue epilogue, DType dtype) {
  const int64_t gradient = epilogue == Epilogue::bias_gelu ? rows * out : 0;
  if (dtype == DType::f64) return Scratch::bytes<double>(gradient);
  return Scratch::bytes<float>(items_of(rows, rows_per_item(rows)) * out) + Scratch::bytes<float>(gradient);
}

template <> void linear_forward<Backend::cpu>(const LinearForward& args, Stream& stream) {
  const int64_t rows = args.x.rows(), out = args.weight.shape[0];
  check_operand("linear", "weight", args.weight, {out, args.x.cols()}, args.x.dtype);
  check_operand("linear", "y", args.y, {rows, out}, args.x.dtype);
  if (args.epilogue != Epilogue::none) check_operand("linear", "bias", args.bias, {out}, args.x.dtype);
  if (args.u) check_operand("linear", "u", args.u, {rows, out}, args.x.dtype);
  if (args.u && args.epilogue != Epilogue::bias_gelu)
    throw ShapeError("linear", "expected u only with the bias_gelu epilogue, got one of shape " + args.u.shape.str());
  cpu::dispatch_float("linear", args.x.dtype, [&]<class T>() {
    if constexpr (std::is_same_v<T, double>) forward_oracle(args);
    else forward(args, stream);
  });
}

template <> void linear_backward<Backend::cpu>(const LinearBackward& args, Stream& stream) {
  const int64_t rows = args.x.rows(), in = args.x.cols(), out = args.weight.shape[0];
  check_operand("linear", "weight", args.weight, {out, in}, args.x.dtype);
  check_operand("linear", "dy", args.dy, {rows, out}, args.x.dtype);
  if (args.epilogue == Epilogue::bias_gelu) check_operand("linear", "u", args.u, {rows, out}, args.x.dtype);
  check_gradient("linear", "dx", args.dx_mode, args.dx, {rows, in}, args.x.dtype);
  check_gradient("linear", "dweight", args.dweight_mode, args.dweight, {out, in}, args.x.dtype);
  check_gradient("linear", "dbias", args.dbias_mode, args.dbias, {out}, args.x.dtype);
  check_workspace("linear", args.workspace, linear_backward_workspace<Backend::cpu>(rows, in, out, args.epilogue, args.x.dtype));
  cpu::dispatch_float("linear", args.x.dtype, [&]<class T>() {
    if constexpr (std::is_same_v<T, double>) backward_oracle(args);
    else backward(args, stream);
  });
}

}  // namespace electra
