// Sums of squares and AdamW over contiguous ranges.
#include "kernels/cpu/vector/table.h"
#include "kernels/cpu/vector/vector.h"

namespace electra::cpu::ELECTRA_ISA {
namespace {

ELECTRA_INLINE V square_root(V v) {
  float lane[kLanes];
  store(lane, v);
  for (int i = 0; i < kLanes; ++i) lane[i] = __builtin_sqrtf(lane[i]);  // one instruction once vectorised
  return load(lane);
}

// fp32 within 256 elements, double between them.
double sum_of_squares(const float* x, int64_t n) {
  double total = 0;
  for (int64_t i0 = 0; i0 < n; i0 += 256) {
    const int64_t end = n - i0 < 256 ? n : i0 + 256;
    V part{};
    int64_t i = i0;
    for (; i + kLanes <= end; i += kLanes) part += load(x + i) * load(x + i);
    if (i < end) part += load_first(x + i, end - i) * load_first(x + i, end - i);
    total += static_cast<double>(sum(part));
  }
  return total;
}

void adamw(const AdamWRange& a) {
  for (int64_t i = 0; i < a.size; i += kLanes) {
    const int64_t n = a.size - i;
    const V g = load_n(a.grad + i, n) * a.factor;
    const V m = load_n(a.m + i, n) * a.beta1 + g * (1.0f - a.beta1);
    const V v = load_n(a.v + i, n) * a.beta2 + g * g * (1.0f - a.beta2);
    const V p = load_n(a.param + i, n);
    const V update = (m * a.inverse_correction1) / (square_root(v * a.inverse_correction2) + a.eps) + p * a.weight_decay;
    store_n(a.m + i, m, n);
    store_n(a.v + i, v, n);
    store_n(a.param + i, p - update * a.learning_rate, n);
  }
}

}  // namespace

void fill_optimizer(VectorKernels& table) {
  table.sum_of_squares = sum_of_squares;
  table.adamw = adamw;
}

}  // namespace electra::cpu::ELECTRA_ISA
