// LayerNorm with dropout and residual, row by row: a row stays in the first-level cache between its passes.
#include "kernels/cpu/vector/table.h"
#include "kernels/cpu/vector/vector.h"

namespace electra::cpu::ELECTRA_ISA {
namespace {

// Calls body(column, lanes, factor) for every sixteen columns of a row; factor is 1 without dropout.
template <class Body> ELECTRA_INLINE void for_columns(const DropoutRows& d, int64_t row, int64_t cols, bool drop, Body body) {
  if (drop) for_kept(d, d.sequence[row], d.position[row], 0, cols, body);
  else for_vectors(cols, [&](int64_t c, int64_t n) ELECTRA_LAMBDA { body(c, n, splat(1.0f)); });
}

// 1 in the first n lanes: keeps padding out of sums.
ELECTRA_INLINE V ones(int64_t n) { return first_lanes(splat(1.0f), n, 0.0f); }

void layer_norm(const LayerNormRows& a) {
  const bool drop_in = a.dropout.threshold != 0 && !a.dropout_output, drop_out = a.dropout.threshold != 0 && a.dropout_output;
  const float inverse_cols = 1.0f / static_cast<float>(a.cols);
  for (int64_t r = 0; r < a.rows; ++r) {
    const float* x = a.x + r * a.cols;
    const float* residual = a.residual ? a.residual + r * a.cols : nullptr;
    float* y = a.y + r * a.cols;
    float* row = a.sum ? a.sum + r * a.cols : y;  // where the sum is kept between the passes
    // Summed from the first column on, so that a constant row has differences of exactly 0. Where that column is far from
    // the others the first mean loses digits; the mean of what is left of the row (drift) gives them back.
    float origin = 0;
    V total{};
    if (a.sum || residual || drop_in) {
      for_columns(a.dropout, r, a.cols, drop_in, [&](int64_t c, int64_t n, V factor) ELECTRA_LAMBDA {
        V v = load_n(x + c, n) * factor;
        if (residual) v += load_n(residual + c, n);
        store_n(row + c, v, n);
        if (c == 0) origin = v[0];
        total += (v - origin) * ones(n);
      });
    } else {
      row = const_cast<float*>(x);  // only read below
      origin = x[0];
      for_columns(a.dropout, r, a.cols, false, [&](int64_t c, int64_t n, V) ELECTRA_LAMBDA {
        total += (load_n(x + c, n) - origin) * ones(n);
      });
    }
    const float near = origin + sum(total) * inverse_cols;
    V squares{}, rest{};
    for_columns(a.dropout, r, a.cols, false, [&](int64_t c, int64_t n, V) ELECTRA_LAMBDA {
      const V d = (load_n(row + c, n) - near) * ones(n);
      squares += d * d;
      rest += d;
    });
    const float drift = sum(rest) * inverse_cols, mean = near + drift;
    const float rstd = 1.0f / __builtin_sqrtf(sum(squares) * inverse_cols - drift * drift + a.eps);
    a.mean[r] = mean;
    a.rstd[r] = rstd;
    for_columns(a.dropout, r, a.cols, drop_out, [&](int64_t c, int64_t n, V factor) ELECTRA_LAMBDA {
      const V v = (load_n(row + c, n) - mean) * rstd;
      store_n(y + c, (v * load_n(a.gamma + c, n) + load_n(a.beta + c, n)) * factor, n);
    });
  }
}

// dx = rstd (dn − avg(dn) − xhat avg(dn xhat)), dn = gamma dy       docs/ops/layer_norm.md
void layer_norm_backward(const LayerNormBackwardRows& a) {
  const bool drop_in = a.dropout.threshold != 0 && !a.dropout_output, drop_out = a.dropout.threshold != 0 && a.dropout_output;
  const float inverse_cols = 1.0f / static_cast<float>(a.cols);
  for (int64_t r = 0; r < a.rows; ++r) {
    const float *x = a.sum + r * a.cols, *dy = a.dy + r * a.cols;
    const float mean = a.mean[r], rstd = a.rstd[r];
    V total{}, total_xhat{};
    for_columns(a.dropout, r, a.cols, drop_out, [&](int64_t c, int64_t n, V factor) ELECTRA_LAMBDA {
      const V g = load_n(dy + c, n) * factor, xhat = (load_n(x + c, n) - mean) * rstd * ones(n);
      const V dn = g * load_n(a.gamma + c, n);
      total += dn;
      total_xhat += dn * xhat;
      store_n(a.dgamma + c, load_n(a.dgamma + c, n) + g * xhat, n);
      store_n(a.dbeta + c, load_n(a.dbeta + c, n) + g, n);
    });
    const float average = sum(total) * inverse_cols, average_xhat = sum(total_xhat) * inverse_cols;
    const auto gradient = [&](int64_t c, int64_t n, V factor) ELECTRA_LAMBDA {
      const V xhat = (load_n(x + c, n) - mean) * rstd;
      return (load_n(dy + c, n) * factor * load_n(a.gamma + c, n) - average - xhat * average_xhat) * rstd;
    };
    if (a.dropout_output) {
      for_columns(a.dropout, r, a.cols, drop_out, [&](int64_t c, int64_t n, V factor) ELECTRA_LAMBDA {
        store_n(a.dx + r * a.cols + c, gradient(c, n, factor), n);
      });
      continue;
    }
    for_columns(a.dropout, r, a.cols, drop_in, [&](int64_t c, int64_t n, V factor) ELECTRA_LAMBDA {
      const V d = gradient(c, n, splat(1.0f));
      if (a.dx) {
        float* out = a.dx + r * a.cols + c;
        store_n(out, a.dx_accumulate ? load_n(out, n) + d * factor : d * factor, n);
      }
      if (a.dresidual) {  // after dx, which may be the same memory
        float* out = a.dresidual + r * a.cols + c;
        store_n(out, a.dresidual_accumulate ? load_n(out, n) + d : d, n);
      }
    });
  }
}

}  // namespace

void fill_layer_norm(VectorKernels& table) {
  table.layer_norm = layer_norm;
  table.layer_norm_backward = layer_norm_backward;
}

}  // namespace electra::cpu::ELECTRA_ISA
