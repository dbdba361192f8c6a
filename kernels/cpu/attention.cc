#include "kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "kernels/core/error.h"
#include "kernels/cpu/common.h"
#include "kernels/cpu/gemm_block.h"

namespace electra {
namespace {

using cpu::gemm_block;
using cpu::Scratch;

// Extents and pointers that forward and backward share.
struct Layout {
  int64_t rows, width, hidden, heads, head_dim, sequences;
  const int32_t* offsets;
  Layout(const Tensor& qkv, const Tensor& sequence_offsets, int64_t num_heads)
      : rows(qkv.rows()), width(qkv.cols()), hidden(width / 3), heads(num_heads), head_dim(hidden / num_heads),
        sequences(sequence_offsets.size() - 1), offsets(sequence_offsets.as<int32_t>()) {}
  int64_t length(int64_t s) const { return offsets[s + 1] - offsets[s]; }
  int64_t used() const { return offsets[sequences]; }
};

template <class Args> void check(const Args& a) {
  if (a.num_heads < 1) throw ShapeError("attention", "expected at least 1 head, got " + std::to_string(a.num_heads));
  if (a.qkv.cols() % (3 * a.num_heads) != 0)
    throw ShapeError("attention", "qkv has shape " + a.qkv.shape.str() + ", expected columns divisible by 3 times " +
                                      std::to_string(a.num_heads) + " heads");
  const Layout l(a.qkv, a.sequence_offsets, a.num_heads);
  cpu::check_offsets("attention", a.sequence_offsets, l.rows);
  check_draws("attention", a.dropout, a.state);
  check_operand("attention", "qkv", a.qkv, {l.rows, l.width}, a.qkv.dtype);
  check_operand("attention", "context", a.context, {l.rows, l.hidden}, a.qkv.dtype);
  check_operand("attention", "lse", a.lse, {l.heads, l.rows}, a.qkv.dtype);
  for (int64_t s = 0; s < l.sequences; ++s)
    if (l.length(s) > a.max_seq_len)
      throw DataError("attention", "sequence " + std::to_string(s) + " has " + std::to_string(l.length(s)) +
                                       " tokens, expected 0 to " + std::to_string(a.max_seq_len));
}

// Dropout factor of (query, key) by the definition.
double keep(const Dropout& dropout, const StepState* state, int64_t sequence, int64_t query, int64_t head, int64_t key) {
  if (!dropout.active()) return 1;
  const cpu::Place place{state->first_sequence + static_cast<uint32_t>(sequence), static_cast<uint32_t>(query)};
  return cpu::keep_factor(dropout, state, place, static_cast<uint32_t>(head * 65536 + key / 8), static_cast<int>(key % 8));
}

// Plain loops over (sequence, head, query, key): the definition.
void forward_oracle(const AttentionForward& a) {
  const Layout l(a.qkv, a.sequence_offsets, a.num_heads);
  const double scale = 1 / std::sqrt(static_cast<double>(l.head_dim));
  std::fill_n(a.context.as<double>(), a.context.size(), 0.0);
  std::fill_n(a.lse.as<double>(), a.lse.size(), 0.0);
  double* const p = Scratch(a.workspace).take<double>(a.max_seq_len);
  for (int64_t s = 0; s < l.sequences; ++s)
    for (int64_t h = 0; h < l.heads; ++h)
      for (int64_t i = 0; i < l.length(s); ++i) {
        const int64_t begin = l.offsets[s], length = l.length(s);
        const double* q = a.qkv.as<double>() + (begin + i) * l.width + h * l.head_dim;
        const double* k = a.qkv.as<double>() + begin * l.width + l.hidden + h * l.head_dim;
        const double* v = k + l.hidden;
        double top = -std::numeric_limits<double>::infinity(), total = 0;
        for (int64_t j = 0; j < length; ++j) {
          p[j] = 0;
          for (int64_t d = 0; d < l.head_dim; ++d) p[j] += q[d] * k[j * l.width + d] * scale;
          top = std::max(top, p[j]);
        }
        for (int64_t j = 0; j < length; ++j) total += std::exp(p[j] - top);
        const double lse = top + std::log(total);
        a.lse.as<double>()[h * l.rows + begin + i] = lse;
        double* out = a.context.as<double>() + (begin + i) * l.hidden + h * l.head_dim;
        for (int64_t j = 0; j < length; ++j) {
          const double weight = std::exp(p[j] - lse) * keep(a.dropout, a.state, s, i, h, j);
          for (int64_t d = 0; d < l.head_dim; ++d) out[d] += weight * v[j * l.width + d];
        }
      }
}

// With P the probabilities and M the dropout factors: dV = (P∘M)ᵀ dO, dP = dO Vᵀ ∘ M, dS = P ∘ (dP − rowsum(dP ∘ P)).
void backward_oracle(const AttentionBackward& a) {
  const Layout l(a.qkv, a.sequence_offsets, a.num_heads);
  const double scale = 1 / std::sqrt(static_cast<double>(l.head_dim));
  if (a.dqkv_mode == GradMode::write) std::fill_n(a.dqkv.as<double>(), a.dqkv.size(), 0.0);
  double* const p = Scratch(a.workspace).take<double>(2 * a.max_seq_len);
  double* const dp = p + a.max_seq_len;
  for (int64_t s = 0; s < l.sequences; ++s)
    for (int64_t h = 0; h < l.heads; ++h)
      for (int64_t i = 0; i < l.length(s); ++i) {
        const int64_t begin = l.offsets[s], length = l.length(s);
        const double* q = a.qkv.as<double>() + (begin + i) * l.width + h * l.head_dim;
        const double* k = a.qkv.as<double>() + begin * l.width + l.hidden + h * l.head_dim;
        const double* v = k + l.hidden;
        double* dq = a.dqkv.as<double>() + (begin + i) * l.width + h * l.head_dim;
        double* dk = a.dqkv.as<double>() + begin * l.width + l.hidden + h * l.head_dim;
        double* dv = dk + l.hidden;
        const double* dout = a.dcontext.as<double>() + (begin + i) * l.hidden + h * l.head_dim;
        double delta = 0;
        for (int64_t j = 0; j < length; ++j) {
          double score = 0;
          dp[j] = 0;
          for (int64_t d = 0; d < l.head_dim; ++d) {
            score += q[d] * k[j * l.width + d] * scale;
            dp[j] += dout[d] * v[j * l.width + d];
          }
          p[j] = std::exp(score - a.lse.as<double>()[h * l.rows + begin + i]);
          const double factor = keep(a.dropout, a.state, s, i, h, j);
          for (int64_t d = 0; d < l.head_dim; ++d) dv[j * l.width + d] += p[j] * factor * dout[d];
          dp[j] *= factor;
          delta += dp[j] * p[j];
        }
        for (int64_t j = 0; j < length; ++j) {
          const double ds = p[j] * (dp[j] - delta) * scale;
          for (int64_t d = 0; d < l.head_dim; ++d) {
            dq[d] += ds * k[j * l.width + d];
            dk[j * l.width + d] += ds * q[d];
          }
        }
      }
}

// A work item is one head of one sequence; its scores live in the worker's scratch.
void forward(const AttentionForward& a, Stream& stream) {
  const Layout l(a.qkv, a.sequence_offsets, a.num_heads);
  const cpu::DropoutRows dropout = cpu::dropout_rows(a.dropout, a.state);
  const float scale = 1 / std::sqrt(static_cast<float>(l.head_dim));
  const uint32_t first = a.state ? a.state->first_sequence : 0;
  float* const scratch = Scratch(a.workspace).take<float>(0);
  stream.pool().parallel_for(l.sequences * l.heads, [&](int64_t item, int worker) {
    const int64_t s = item / l.heads, h = item % l.heads, n = l.length(s), row = l.offsets[s];
    if (n == 0) return;
    float* const scores = scratch + worker * 2 * a.max_seq_len * a.max_seq_len;
    const float *q = a.qkv.as<float>() + row * l.width + h * l.head_dim, *k = q + l.hidden, *v = k + l.hidden;
    gemm_block({.m = n, .n = n, .k = l.head_dim, .transpose_b = true, .lda = l.width, .ldb = l.width, .ldc = n}, q, k, scores);
    cpu::vector_kernels().softmax({.scores = scores,
                                   .length = n,
                                   .scale = scale,
                                   .lse = a.lse.as<float>() + h * l.rows + row,
                                   .dropout = dropout,
                                   .sequence = first + static_cast<uint32_t>(s),
                                   .head = static_cast<uint32_t>(h)});
    gemm_block({.m = n, .n = l.head_dim, .k = n, .lda = n, .ldb = l.width, .ldc = l.hidden}, scores, v,
               a.context.as<float>() + row * l.hidden + h * l.head_dim);
  });
  const int64_t used = l.used();
  std::fill_n(a.context.as<float>() + used * l.hidden, (l.rows - used) * l.hidden, 0.0f);
  for (int64_t h = 0; h < l.heads; ++h) std::fill_n(a.lse.as<float>() + h * l.rows + used, l.rows - used, 0.0f);
}

void backward(const AttentionBackward& a, Stream& stream) {
  const Layout l(a.qkv, a.sequence_offsets, a.num_heads);
  const cpu::DropoutRows dropout = cpu::dropout_rows(a.dropout, a.state);
  const float scale = 1 / std::sqrt(static_cast<float>(l.head_dim));
  const uint32_t first = a.state ? a.state->first_sequence : 0;
  const bool accumulate = a.dqkv_mode == GradMode::accumulate;
  float* const scratch = Scratch(a.workspace).take<float>(0);
  stream.pool().parallel_for(l.sequences * l.heads, [&](int64_t item, int worker) {
    const int64_t s = item / l.heads, h = item % l.heads, n = l.length(s), row = l.offsets[s];
    if (n == 0) return;
    float* const scores = scratch + worker * 2 * a.max_seq_len * a.max_seq_len;
    float* const dprobs = scores + a.max_seq_len * a.max_seq_len;
    const float *q = a.qkv.as<float>() + row * l.width + h * l.head_dim, *k = q + l.hidden, *v = k + l.hidden;
    const float* dout = a.dcontext.as<float>() + row * l.hidden + h * l.head_dim;
    float *dq = a.dqkv.as<float>() + row * l.width + h * l.head_dim, *dk = dq + l.hidden, *dv = dk + l.hidden;
    gemm_block({.m = n, .n = n, .k = l.head_dim, .transpose_b = true, .lda = l.width, .ldb = l.width, .ldc = n}, q, k, scores);
    gemm_block({.m = n, .n = n, .k = l.head_dim, .transpose_b = true, .lda = l.hidden, .ldb = l.width, .ldc = n}, dout, v, dprobs);
    cpu::vector_kernels().softmax_backward({.scores = scores,
                                            .dprobs = dprobs,
                                            .lse = a.lse.as<float>() + h * l.rows + row,
                                            .context = a.context.as<float>() + row * l.hidden + h * l.head_dim,
                                            .dcontext = dout,
                                            .length = n,
                                            .head_dim = l.head_dim,
                                            .stride = l.hidden,
                                            .scale = scale,
                                            .dropout = dropout,
                                            .sequence = first + static_cast<uint32_t>(s),
                                            .head = static_cast<uint32_t>(h)});
    gemm_block({.m = n, .n = l.head_dim, .k = n, .accumulate = accumulate, .lda = n, .ldb = l.width, .ldc = l.width}, dprobs, k, dq);
    gemm_block({.m = n, .n = l.head_dim, .k = n, .transpose_a = true, .accumulate = accumulate, .lda = n, .ldb = l.width, .ldc = l.width},
               dprobs, q, dk);
    gemm_block({.m = n, .n = l.head_dim, .k = n, .transpose_a = true, .accumulate = accumulate, .lda = n, .ldb = l.hidden, .ldc = l.width},
               scores, dout, dv);
  });
  const int64_t used = l.used();
  if (!accumulate) std::fill_n(a.dqkv.as<float>() + used * l.width, (l.rows - used) * l.width, 0.0f);
}

}  // namespace

template <> size_t attention_workspace<Backend::cpu>(int64_t, int64_t, int64_t, int64_t max_seq_len, int max_threads, DType dtype) {
  if (dtype == DType::f64) return Scratch::bytes<double>(2 * max_seq_len);
  return Scratch::bytes<float>(max_threads * 2 * max_seq_len * max_seq_len);
}

template <> void attention_forward<Backend::cpu>(const AttentionForward& args, Stream& stream) {
  check(args);
  check_workspace("attention", args.workspace,
                       attention_workspace<Backend::cpu>(args.qkv.rows(), args.num_heads, args.qkv.cols() / (3 * args.num_heads), args.max_seq_len,
                                                           stream.pool().threads(), args.qkv.dtype));
  cpu::dispatch_float("attention", args.qkv.dtype, [&]<class T>() {
    if constexpr (std::is_same_v<T, double>) forward_oracle(args);
    else forward(args, stream);
  });
}

template <> void attention_backward<Backend::cpu>(const AttentionBackward& args, Stream& stream) {
  check(args);
  check_operand("attention", "dcontext", args.dcontext, args.context.shape, args.qkv.dtype);
  if (args.dqkv_mode == GradMode::none) return;
  check_operand("attention", "dqkv", args.dqkv, args.qkv.shape, args.qkv.dtype);
  check_workspace("attention", args.workspace,
                       attention_workspace<Backend::cpu>(args.qkv.rows(), args.num_heads, args.qkv.cols() / (3 * args.num_heads), args.max_seq_len,
                                                           stream.pool().threads(), args.qkv.dtype));
  cpu::dispatch_float("attention", args.qkv.dtype, [&]<class T>() {
    if constexpr (std::is_same_v<T, double>) backward_oracle(args);
    else backward(args, stream);
  });
}

}  // namespace electra
