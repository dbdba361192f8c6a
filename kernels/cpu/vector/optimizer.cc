// Sums of squares and AdamW over contiguous ranges.
#include "kernels/cpu/vector/table.h"
#include "kernels/cpu/vector/vector.h"

namespace electra::cpu::ELECTRA_ISA {
namespace {

ELECTRA_INLINE V square_root(V v) {
  float lane[kLanes];
  store(lane, v);
  for (int i = 0; i < kLanes; ++i) lane[i] = __builtin_sqrtf(lane[i]);  // one instruction once vectorised (-fno-math-errno)
  return load(lane);
}

typedef double D __attribute__((vector_size(64)));
typedef float HalfV __attribute__((vector_size(32)));

// Squared and summed in double: no finite gradient overflows or vanishes.
double sum_of_squares(const float* x, int64_t n) {
  D low{}, high{};
  for (int64_t i = 0; i < n; i += kLanes) {
    const V v = load_n(x + i, n - i);
    HalfV half[2];
    memcpy(half, &v, sizeof v);
    const D a = __builtin_convertvector(half[0], D), b = __builtin_convertvector(half[1], D);
    low += a * a;
    high += b * b;
  }
  low += high;
  double total = 0;
  for (int i = 0; i < 8; ++i) total += low[i];
  return total;
}

void adamw(const AdamWRange& a) {
  for (int64_t i = 0; i < a.size; i += kLanes) {
    const int64_t n = a.size - i;
    const V g = load_n(a.grad + i, n) * a.factor;
    const V m = load_n(a.m + i, n) * a.beta1 + g * a.gain1;
    const V v = load_n(a.v + i, n) * a.beta2 + g * g * a.gain2;
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
