#include "kernels/binary_classifier.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "kernels/core/error.h"
#include "kernels/cpu/common.h"
#include "kernels/cpu/gelu.h"
#include "kernels/cpu/gemm_block.h"

namespace electra {
namespace {

using cpu::clear;
using cpu::gemm_block;
using cpu::items_of;
using cpu::put;
using cpu::put_sums;
using cpu::Scratch;
using cpu::used_rows;

constexpr int64_t kRows = 128;              // rows of a work item: (128, C) of u stay in the second-level cache
constexpr int64_t kOutputsPerItem = 64;     // rows of dweight of a work item

// max(x, 0) − x z + log(1 + e^−|x|): no overflow for any logit.
double cross_entropy(double logit, double label) {
  return std::max(logit, 0.0) - logit * label + std::log1p(std::exp(-std::abs(logit)));
}
double sigmoid(double x) { return x >= 0 ? 1 / (1 + std::exp(-x)) : std::exp(x) / (1 + std::exp(x)); }

// Loss, counts and gradient see the same label.
bool is_replaced(const Tensor& labels, int64_t row) { return labels.as<float>()[row] > 0.5f; }

// Loss and counts of the logits, in row order: integers and one sum of doubles.
template <class T> void count(const BinaryClassifierForward& a) {
  int64_t* const n = a.counts.as<int64_t>();
  std::fill_n(n, kBinaryCountsSize, 0);
  double loss = 0;
  for (int64_t r = 0; r < used_rows(a.sequence_offsets); ++r) {
    const double logit = static_cast<double>(a.logits.as<T>()[r]);
    const bool label = is_replaced(a.labels, r), predicted = logit > 0;
    loss += cross_entropy(logit, label);
    n[0] += 1;
    n[1] += label;
    n[2] += label == predicted;
    n[3] += predicted;
    n[4] += label && predicted;
    const auto bin = std::isnan(logit) ? 0 : std::min(kProbabilityBins - 1, static_cast<int64_t>(sigmoid(logit) * kProbabilityBins));
    ++n[kBinaryCounts + (label ? kProbabilityBins : 0) + bin];
  }
  *a.loss_sum.as<double>() = loss;
  *a.loss.as<T>() = static_cast<T>(loss / a.state->disc_denominator);
}

// dloss/dlogit of a row.
template <class T> T logit_gradient(const BinaryClassifierBackward& a, int64_t row) {
  const double error = sigmoid(static_cast<double>(a.logits.as<T>()[row])) - (is_replaced(a.labels, row) ? 1 : 0);
  return static_cast<T>(static_cast<double>(*a.dloss.as<T>()) * error / a.state->disc_denominator);
}

void forward_oracle(const BinaryClassifierForward& a) {
  const int64_t rows = a.x.rows(), cols = a.x.cols();
  for (int64_t r = 0; r < rows; ++r) {
    double logit = r < used_rows(a.sequence_offsets) ? *a.out_bias.as<double>() : 0;
    for (int64_t j = 0; r < used_rows(a.sequence_offsets) && j < cols; ++j) {
      double u = a.bias.as<double>()[j];
      for (int64_t c = 0; c < cols; ++c) u += a.x.as<double>()[r * cols + c] * a.weight.as<double>()[j * cols + c];
      logit += cpu::gelu(u) * a.out_weight.as<double>()[j];
    }
    a.logits.as<double>()[r] = logit;
  }
  count<double>(a);
}

void forward(const BinaryClassifierForward& a, Stream& stream) {
  const int64_t rows = a.x.rows(), cols = a.x.cols(), used = used_rows(a.sequence_offsets);
  float* const scratch = Scratch(a.workspace).take<float>(0);
  stream.pool().parallel_for(items_of(used, kRows), [&](int64_t item, int worker) {
    const int64_t r = item * kRows, n = std::min(kRows, used - r);
    float* const u = scratch + worker * kRows * cols;
    gemm_block({.m = n, .n = cols, .k = cols, .transpose_b = true, .lda = cols, .ldb = cols, .ldc = cols}, a.x.as<float>() + r * cols,
               a.weight.as<float>(), u);
    cpu::vector_kernels().classifier({.u = u,
                                      .bias = a.bias.as<float>(),
                                      .out_weight = a.out_weight.as<float>(),
                                      .out_bias = *a.out_bias.as<float>(),
                                      .logits = a.logits.as<float>() + r,
                                      .rows = n,
                                      .cols = cols});
  });
  std::fill_n(a.logits.as<float>() + used, rows - used, 0.0f);
  count<float>(a);
}

void backward_oracle(const BinaryClassifierBackward& a) {
  const int64_t used = used_rows(a.sequence_offsets), cols = a.x.cols();
  const double *x = a.x.as<double>(), *weight = a.weight.as<double>();
  clear<double>(a.dx, a.dx_mode);
  clear<double>(a.dweight, a.dweight_mode);
  clear<double>(a.dbias, a.dbias_mode);
  clear<double>(a.dout_weight, a.dout_weight_mode);
  clear<double>(a.dout_bias, a.dout_bias_mode);
  for (int64_t r = 0; r < used; ++r) {
    const double g = logit_gradient<double>(a, r);
    if (a.dout_bias_mode != GradMode::none) *a.dout_bias.as<double>() += g;
    for (int64_t j = 0; j < cols; ++j) {
      double u = a.bias.as<double>()[j];
      for (int64_t c = 0; c < cols; ++c) u += x[r * cols + c] * weight[j * cols + c];
      const double du = g * a.out_weight.as<double>()[j] * cpu::gelu_slope(u);
      if (a.dout_weight_mode != GradMode::none) a.dout_weight.as<double>()[j] += g * cpu::gelu(u);
      if (a.dbias_mode != GradMode::none) a.dbias.as<double>()[j] += du;
      for (int64_t c = 0; c < cols; ++c) {
        if (a.dx_mode != GradMode::none) a.dx.as<double>()[r * cols + c] += du * weight[j * cols + c];
        if (a.dweight_mode != GradMode::none) a.dweight.as<double>()[j * cols + c] += du * x[r * cols + c];
      }
    }
  }
}

// Over the used rows (others may hold anything): u again, du, dx and partial sums of dbias and dout_weight; then dweight over
// its rows, and the sums in order.
void backward(const BinaryClassifierBackward& a, Stream& stream) {
  const int64_t used = used_rows(a.sequence_offsets), cols = a.x.cols(), items = items_of(used, kRows);
  Scratch scratch(a.workspace);
  float* const worker_u = scratch.take<float>(stream.pool().threads() * kRows * cols);
  float* const du = scratch.take<float>(used * cols);
  float* const dlogit = scratch.take<float>(used);
  float* const partial = scratch.take<float>(items * 2 * cols);  // (items, 2, cols): dbias, dout_weight
  stream.pool().parallel_for(items, [&](int64_t item, int worker) {
    const int64_t r = item * kRows, n = std::min(kRows, used - r);
    float* const u = worker_u + worker * kRows * cols;
    for (int64_t i = r; i < r + n; ++i) dlogit[i] = logit_gradient<float>(a, i);
    gemm_block({.m = n, .n = cols, .k = cols, .transpose_b = true, .lda = cols, .ldb = cols, .ldc = cols}, a.x.as<float>() + r * cols,
               a.weight.as<float>(), u);
    std::fill_n(partial + item * 2 * cols, 2 * cols, 0.0f);
    cpu::vector_kernels().classifier_backward({.u = u,
                                               .bias = a.bias.as<float>(),
                                               .out_weight = a.out_weight.as<float>(),
                                               .dlogit = dlogit + r,
                                               .du = du + r * cols,
                                               .dbias = partial + item * 2 * cols,
                                               .dout_weight = partial + (item * 2 + 1) * cols,
                                               .rows = n,
                                               .cols = cols});
    if (a.dx_mode != GradMode::none)
      gemm_block({.m = n, .n = cols, .k = cols, .accumulate = a.dx_mode == GradMode::accumulate, .lda = cols, .ldb = cols, .ldc = cols},
                 du + r * cols, a.weight.as<float>(), a.dx.as<float>() + r * cols);
  });
  stream.pool().parallel_for(items_of(cols, kOutputsPerItem), [&](int64_t item, int) {
    const int64_t j = item * kOutputsPerItem, n = std::min(kOutputsPerItem, cols - j);
    if (a.dweight_mode != GradMode::none)
      gemm_block({.m = n, .n = cols, .k = used, .transpose_a = true, .accumulate = a.dweight_mode == GradMode::accumulate,
                  .lda = cols, .ldb = cols, .ldc = cols},
                 du + j, a.x.as<float>(), a.dweight.as<float>() + j * cols);
    put_sums(partial + j, items, 2 * cols, a.dbias.as<float>() + j, n, a.dbias_mode);
    put_sums(partial + cols + j, items, 2 * cols, a.dout_weight.as<float>() + j, n, a.dout_weight_mode);
  });
  if (a.dx_mode == GradMode::write) std::fill_n(a.dx.as<float>() + used * cols, a.dx.size() - used * cols, 0.0f);
  if (a.dout_bias_mode == GradMode::none) return;
  double dout_bias = 0;
  for (int64_t r = 0; r < used; ++r) dout_bias += static_cast<double>(dlogit[r]);
  put(*a.dout_bias.as<float>(), static_cast<float>(dout_bias), a.dout_bias_mode);
}

void check_operand(const char* what, const Tensor& operand, const Shape& shape, DType dtype) {
  check_operand("binary_classifier", what, operand, shape, dtype);
}

template <class Args> void check(const Args& a) {
  const int64_t rows = a.x.rows(), cols = a.x.cols();
  const DType type = a.x.dtype;
  check_operand("weight", a.weight, {cols, cols}, type);
  check_operand("bias", a.bias, {cols}, type);
  check_operand("out_weight", a.out_weight, {1, cols}, type);
  check_operand("x", a.x, {rows, cols}, type);
  check_operand("labels", a.labels, {rows}, DType::f32);
  check_operand("logits", a.logits, {rows}, type);
  cpu::check_offsets("binary_classifier", a.sequence_offsets, rows);
  check_state("binary_classifier", a.state);
}

}  // namespace

template <> size_t binary_classifier_workspace<Backend::cpu>(int64_t rows, int64_t cols, int max_threads, DType dtype) {
  if (dtype == DType::f64) return 0;
  return Scratch::bytes<float>(max_threads * kRows * cols) + Scratch::bytes<float>(rows * cols) + Scratch::bytes<float>(rows) +
         Scratch::bytes<float>(items_of(rows, kRows) * 2 * cols);
}

template <> void binary_classifier_forward<Backend::cpu>(const BinaryClassifierForward& args, Stream& stream) {
  check(args);
  check_operand("out_bias", args.out_bias, {1}, args.x.dtype);
  check_operand("loss", args.loss, {1}, args.x.dtype);
  check_operand("loss_sum", args.loss_sum, {1}, DType::f64);
  check_operand("counts", args.counts, {kBinaryCountsSize}, DType::i64);
  check_workspace("binary_classifier", args.workspace,
                       binary_classifier_workspace<Backend::cpu>(args.x.rows(), args.x.cols(), stream.pool().threads(), args.x.dtype));
  cpu::dispatch_float("binary_classifier", args.x.dtype, [&]<class T>() {
    if constexpr (std::is_same_v<T, double>) forward_oracle(args);
    else forward(args, stream);
  });
}

template <> void binary_classifier_backward<Backend::cpu>(const BinaryClassifierBackward& args, Stream& stream) {
  check(args);
  check_operand("dloss", args.dloss, {1}, args.x.dtype);
  const auto check_asked = [&](const char* what, GradMode mode, const Tensor& gradient, const Shape& expected) {
    check_gradient("binary_classifier", what, mode, gradient, expected, args.x.dtype);
  };
  check_asked("dx", args.dx_mode, args.dx, args.x.shape);
  check_asked("dweight", args.dweight_mode, args.dweight, args.weight.shape);
  check_asked("dbias", args.dbias_mode, args.dbias, args.bias.shape);
  check_asked("dout_weight", args.dout_weight_mode, args.dout_weight, args.out_weight.shape);
  check_asked("dout_bias", args.dout_bias_mode, args.dout_bias, {1});
  check_workspace("binary_classifier", args.workspace,
                       binary_classifier_workspace<Backend::cpu>(args.x.rows(), args.x.cols(), stream.pool().threads(), args.x.dtype));
  cpu::dispatch_float("binary_classifier", args.x.dtype, [&]<class T>() {
    if constexpr (std::is_same_v<T, double>) backward_oracle(args);
    else backward(args, stream);
  });
}

}  // namespace electra
