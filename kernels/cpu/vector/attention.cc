// Softmax of one head of one sequence, with dropout drawn by coordinates: the draw of (query, key) of head h has position
// query and group h 2^16 + key / 8.
#include "kernels/cpu/vector/table.h"
#include "kernels/cpu/vector/vector.h"

namespace electra::cpu::ELECTRA_ISA {
namespace {

constexpr int64_t kDraws = 128;

// Calls body(key, lanes left, factor) for every sixteen keys of one query.
template <class Body>
ELECTRA_INLINE void for_keys(const DropoutRows& d, uint32_t sequence, uint32_t query, uint32_t head, int64_t length, Body body) {
  for (int64_t k0 = 0; k0 < length; k0 += kDraws) {
    V factor[8];
    if (d.threshold != 0) {
      keep_factors(factor, d.key, d.step, sequence, query, (head << 16) + static_cast<uint32_t>(k0 / 8), d.threshold, d.scale);
    } else {
      for (V& f : factor) f = splat(1.0f);
    }
    for (int i = 0; i < 8 && k0 + i * kLanes < length; ++i) body(k0 + i * kLanes, length - k0 - i * kLanes, factor[i]);
  }
}

void softmax(const SoftmaxRows& a) {
  const int64_t n = a.length;
  for (int64_t q = 0; q < n; ++q) {
    float* row = a.scores + q * n;
    V largest = splat(-__builtin_inff());
    for (int64_t k = 0; k < n; k += kLanes) largest = max(largest, first_lanes(load_n(row + k, n - k), n - k, -__builtin_inff()));
    const float top = maximum(largest);  // of the unscaled scores
    V total{};
    for (int64_t k = 0; k < n; k += kLanes) {
      const V e = first_lanes(exp((load_n(row + k, n - k) - top) * a.scale), n - k, 0.0f);
      store_n(row + k, e, n - k);
      total += e;
    }
    const float denominator = sum(total);
    a.lse[q] = top * a.scale + __builtin_logf(denominator);
    const float inverse = 1.0f / denominator;
    for_keys(a.dropout, a.sequence, static_cast<uint32_t>(q), a.head, n,
             [&](int64_t k, int64_t left, V factor) __attribute__((always_inline)) {
               store_n(row + k, load_n(row + k, left) * inverse * factor, left);
             });
  }
}

// dS = P ∘ (dP ∘ mask − rowsum(dO ∘ O)) / sqrt(D): with dropout too, the row sum of P ∘ mask ∘ dP is dO · O.
void softmax_backward(const SoftmaxBackwardRows& a) {
  const int64_t n = a.length;
  for (int64_t q = 0; q < n; ++q) {
    V product{};
    for (int64_t d = 0; d < a.head_dim; d += kLanes)
      product += load_n(a.context + q * a.stride + d, a.head_dim - d) * load_n(a.dcontext + q * a.stride + d, a.head_dim - d);
    const float delta = sum(product), lse = a.lse[q];
    float *row = a.scores + q * n, *drow = a.dprobs + q * n;
    for_keys(a.dropout, a.sequence, static_cast<uint32_t>(q), a.head, n,
             [&](int64_t k, int64_t left, V factor) __attribute__((always_inline)) {
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
