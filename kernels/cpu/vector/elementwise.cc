// Element-wise passes, bias epilogues, column sums, and the functions the tests look at.
#include "kernels/cpu/vector/table.h"
#include "kernels/cpu/vector/vector.h"

namespace electra::cpu::ELECTRA_ISA {
namespace {

// y[i] = f(x[i]), the last few through a padded vector.
template <class F> ELECTRA_INLINE void map(const float* x, float* y, int64_t n, F f) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(y + i, f(load(x + i)));
  if (i < n) store_first(y + i, f(load_first(x + i, n - i)), n - i);
}

void gelu_pass(const float* x, float* y, int64_t n) {
  map(x, y, n, [](V v) ELECTRA_LAMBDA { return gelu(v); });
}

void gelu_backward_pass(const float* x, const float* dy, float* dx, int64_t n, bool accumulate) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const V g = load_n(dy + i, n - i) * gelu_slope(load_n(x + i, n - i));
    store_n(dx + i, accumulate ? load_n(dx + i, n - i) + g : g, n - i);
  }
}

void add_bias(float* y, const float* bias, int64_t rows, int64_t cols) {
  for (int64_t r = 0; r < rows; ++r, y += cols) {
    int64_t c = 0;
    for (; c + kLanes <= cols; c += kLanes) store(y + c, load(y + c) + load(bias + c));
    for (; c < cols; ++c) y[c] += bias[c];
  }
}

void add_bias_gelu(float* u, float* y, const float* bias, int64_t rows, int64_t cols) {
  for (int64_t r = 0; r < rows; ++r, u += cols, y += cols) {
    int64_t c = 0;
    for (; c + kLanes <= cols; c += kLanes) {
      const V v = load(u + c) + load(bias + c);
      store(u + c, v);
      store(y + c, gelu(v));
    }
    if (c < cols) {
      const V v = load_first(u + c, cols - c) + load_first(bias + c, cols - c);
      store_first(u + c, v, cols - c);
      store_first(y + c, gelu(v), cols - c);
    }
  }
}

void add_column_sums(const float* x, float* sums, int64_t rows, int64_t cols) {
  int64_t c = 0;
  for (; c + kLanes <= cols; c += kLanes) {
    V s = load(sums + c);
    for (int64_t r = 0; r < rows; ++r) s += load(x + r * cols + c);
    store(sums + c, s);
  }
  for (; c < cols; ++c)
    for (int64_t r = 0; r < rows; ++r) sums[c] += x[r * cols + c];
}

void exp_pass(const float* x, float* y, int64_t n) {
  map(x, y, n, [](V v) ELECTRA_LAMBDA { return exp(v); });
}
void log_pass(const float* x, float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    float out[kLanes];
    store(out, log(splat(x[i])));
    y[i] = out[0];
  }
}
void normal_cdf_pass(const float* x, float* y, int64_t n) {
  map(x, y, n, [](V v) ELECTRA_LAMBDA { return normal(v).cdf; });
}

void philox_words(uint64_t key, uint32_t step, uint32_t sequence, uint32_t position, uint32_t group, uint32_t* words64) {
  VU draw[4];
  in_order(philox16(key, step, sequence, position, group), draw);
  memcpy(words64, draw, sizeof draw);
}

}  // namespace

void fill_elementwise(VectorKernels& table) {
  table.gelu = gelu_pass;
  table.gelu_backward = gelu_backward_pass;
  table.add_bias = add_bias;
  table.add_bias_gelu = add_bias_gelu;
  table.add_column_sums = add_column_sums;
  table.exp = exp_pass;
  table.log = log_pass;
  table.normal_cdf = normal_cdf_pass;
  table.philox = philox_words;
}

}  // namespace electra::cpu::ELECTRA_ISA
