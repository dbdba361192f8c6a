// Softmax of one head of one sequence, with dropout drawn by coordinates: the draw of (query, key) of head h has position
// query and group h 2^16 + key / 8.
#include "kernels/cpu/vector/table.h"
#include "kernels/cpu/vector/vector.h"

namespace electra::cpu::ELECTRA_ISA {
namespace {

constexpr int64_t kRows = 8;  // rows a pass covers: their reductions do not wait for each other

// Calls body(key, lanes, factor) for every sixteen keys of one query.
template <class Body>
ELECTRA_INLINE void for_keys(const DropoutRows& d, uint32_t sequence, int64_t query, uint32_t head, int64_t length, Body body) {
  if (d.threshold == 0) {
    for_vectors(length, [&](int64_t k, int64_t left) ELECTRA_LAMBDA { body(k, left, splat(1.0f)); });
    return;
  }
  for_kept(d, sequence, static_cast<uint32_t>(query), head << 16, length, body);
}

void softmax(const SoftmaxRows& a) {
  const int64_t n = a.length;
  for (int64_t q0 = 0; q0 < n; q0 += kRows) {
    const int64_t rows = n - q0 < kRows ? n - q0 : kRows;
    float* const block = a.scores + q0 * n;
    float top[kRows], denominator[kRows];  // top: of the unscaled scores
    for (int64_t r = 0; r < rows; ++r) {
      const float* row = block + r * n;
      V largest = splat(-__builtin_inff());
      for_vectors(n, [&](int64_t k, int64_t left) ELECTRA_LAMBDA {
        largest = max(largest, first_lanes(load_n(row + k, left), left, -__builtin_inff()));
      });
      top[r] = maximum(largest);
    }
    for (int64_t r = 0; r < rows; ++r) {
      float* row = block + r * n;
      V total{};
      for_vectors(n, [&](int64_t k, int64_t left) ELECTRA_LAMBDA {
        const V e = first_lanes(exp((load_n(row + k, left) - top[r]) * a.scale), left, 0.0f);
        store_n(row + k, e, left);
        total += e;
      });
      denominator[r] = sum(total);
    }
    for (int64_t r = 0; r < rows; ++r) {
      float* row = block + r * n;
      a.lse[q0 + r] = top[r] * a.scale + __builtin_logf(denominator[r]);
      const float inverse = 1.0f / denominator[r];
      for_keys(a.dropout, a.sequence, q0 + r, a.head, n, [&](int64_t k, int64_t left, V factor) ELECTRA_LAMBDA {
        store_n(row + k, load_n(row + k, left) * inverse * factor, left);
      });
    }
  }
}

// dS = P ∘ (dP ∘ mask − rowsum(dO ∘ O)) / sqrt(D): with dropout too, the row sum of P ∘ mask ∘ dP is dO · O.
void softmax_backward(const SoftmaxBackwardRows& a) {
  const int64_t n = a.length;
  for (int64_t q = 0; q < n; ++q) {
    const float *context = a.context + q * a.stride, *dcontext = a.dcontext + q * a.stride;
    V product{};
    for_vectors(a.head_dim, [&](int64_t d, int64_t left) ELECTRA_LAMBDA {
      product += load_n(context + d, left) * load_n(dcontext + d, left);
    });
    const float delta = sum(product), lse = a.lse[q];
    float *row = a.scores + q * n, *drow = a.dprobs + q * n;
    for_keys(a.dropout, a.sequence, q, a.head, n, [&](int64_t k, int64_t left, V factor) ELECTRA_LAMBDA {
      const V p = exp(load_n(row + k, left) * a.scale - lse);
      store_n(drow + k, p * (load_n(drow + k, left) * factor - delta) * a.scale, left);
      store_n(row + k, p * factor, left);
    });
  }
}

}  // namespace

void fill_attention(VectorKernels& table) {
  table.softmax = softmax;
  table.softmax_backward = softmax_backward;
}

}  // namespace electra::cpu::ELECTRA_ISA
