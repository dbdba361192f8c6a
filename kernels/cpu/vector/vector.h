// Sixteen floats at a time, through the compilers' vector extension. Included only by the files in this folder, which are
// compiled once for each instruction set into a namespace of their own; everything is static, so that no function compiled
// for a newer processor can be picked by the linker for an older one. Accuracy figures: against double, whole range.
#pragma once
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/vector/kernels.h"

#define ELECTRA_INLINE static inline __attribute__((always_inline, unused))
// Of the bodies that loops inline: vectors are never passed through a call.
#define ELECTRA_LAMBDA __attribute__((always_inline))

namespace electra::cpu::ELECTRA_ISA {

constexpr int kLanes = 16;
typedef float V __attribute__((vector_size(64)));
typedef int32_t VI __attribute__((vector_size(64)));
typedef uint32_t VU __attribute__((vector_size(64)));
typedef uint64_t VL __attribute__((vector_size(64)));

ELECTRA_INLINE V splat(float x) { return x - V{}; }
ELECTRA_INLINE VU splat(uint32_t x) { return x - VU{}; }
ELECTRA_INLINE V load(const float* p) {
  V v;
  memcpy(&v, p, sizeof v);
  return v;
}
ELECTRA_INLINE void store(float* p, V v) { memcpy(p, &v, sizeof v); }
// The first n of sixteen lanes; the others are 0 and are not stored.
ELECTRA_INLINE V load_first(const float* p, int64_t n) {
  V v{};
  memcpy(&v, p, static_cast<size_t>(n) * sizeof(float));
  return v;
}
ELECTRA_INLINE void store_first(float* p, V v, int64_t n) { memcpy(p, &v, static_cast<size_t>(n) * sizeof(float)); }

// The same with n ≥ 16 for a whole vector: the tail of a row.
ELECTRA_INLINE V load_n(const float* p, int64_t n) { return n >= kLanes ? load(p) : load_first(p, n); }
ELECTRA_INLINE void store_n(float* p, V v, int64_t n) {
  if (n >= kLanes) store(p, v);
  else store_first(p, v, n);
}
ELECTRA_INLINE VI lanes() { return VI{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}; }
// v in the first n lanes (all for n ≥ 16), other in the rest.
ELECTRA_INLINE V first_lanes(V v, int64_t n, float other) {
  return lanes() < static_cast<int32_t>(n < kLanes ? n : kLanes) ? v : splat(other);
}

ELECTRA_INLINE V max(V a, V b) { return a > b ? a : b; }
ELECTRA_INLINE V min(V a, V b) { return a < b ? a : b; }
ELECTRA_INLINE V abs(V x) { return (V)((VU)x & 0x7fffffffu); }

// Horizontal reductions in one fixed order: lanes 8, 4, 2 and 1 apart.
ELECTRA_INLINE float sum(V v) {
  v += __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
  v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
  v += __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
  return v[0] + v[1];
}
ELECTRA_INLINE float maximum(V v) {
  v = max(v, __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
  v = max(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
  v = max(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
  return v[0] > v[1] ? v[0] : v[1];
}

// Calls body(index, lanes) for every sixteen of n elements; lanes is the constant 16 but in the last call.
template <class Body>
ELECTRA_INLINE void for_vectors(int64_t n, Body body) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, int64_t{kLanes});
  if (i < n) body(i, n - i);
}

// e^x, relative error below 2e-7 for x in [-87, 88]; 0 below, infinity above, NaN of NaN (a step that went wrong must show).
// e^x = 2^n e^r, |r| ≤ ln 2 / 2, e^r by a degree-7 minimax polynomial of our own fit.
ELECTRA_INLINE V exp(V x) {
  const V clamped = max(min(x, splat(88.5f)), splat(-87.5f));
  const V shifted = clamped * 1.44269504089f + 12582912.0f;  // 1.5 2^23: the sum's low bits are round(x / ln 2)
  const V n = shifted - 12582912.0f;
  const V r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;  // ln 2 in two parts
  V p = splat(0.00019857795f);
  p = p * r + 0.0013933597f;
  p = p * r + 0.0083333608f;
  p = p * r + 0.0416664667f;
  p = p * r + 0.1666666716f;
  p = p * r + 0.5f;
  p = (p * r) * r + r + 1.0f;
  const VI exponent = (VI)shifted << 23;  // n in the exponent field
  const V scaled = (V)((VI)p + exponent);
  return x < -87.3f ? V{} : x <= 88.4f ? scaled : x * __builtin_inff();
}

// ln x for normal positive x, relative error below 2e-7 (absolute near 1). x = 2^e m, m in [sqrt ½, sqrt 2); ln m = f − f²/2 + f³ q(f).
ELECTRA_INLINE V log(V x) {
  const VI bits = (VI)x;
  const VI e = (bits - 0x3f3504f3) >> 23;  // floor of log2 with the cut at sqrt ½
  const V m = (V)(bits - (e << 23));
  const V f = m - 1.0f;
  const V n = __builtin_convertvector(e, V);
  V q = splat(0.07037586f);
  q = q * f + -0.115145579f;
  q = q * f + 0.116770111f;
  q = q * f + -0.124201491f;
  q = q * f + 0.142493218f;
  q = q * f + -0.166680574f;
  q = q * f + 0.200007141f;
  q = q * f + -0.24999994f;
  q = q * f + 0.333333313f;
  const V f2 = f * f;
  return (q * f2 * f + n * -2.12194440e-4f) - 0.5f * f2 + f + n * 0.693359375f;
}

// Φ(x) and the normal density φ(x), relative error of Φ below 5e-7 + 3e-8 x² (rounding x² before the exponential) for
// |x| ≤ 12.5. Φ(−|x|) = e^(−x²/2) M(|x|), where M, a Mills ratio, is a degree-8 polynomial in 1 / (1 + 0.3 |x|) of our own fit.
struct Normal {
  V cdf, density;
};
ELECTRA_INLINE Normal normal(V x) {
  const V a = min(abs(x), splat(13.0f));
  const V e = exp(a * a * -0.5f);
  const V t = 1.0f / (1.0f + 0.3f * a);
  V p = splat(0.0383784026f);
  p = p * t + -0.169166639f;
  p = p * t + 0.22866109f;
  p = p * t + -0.0765075535f;
  p = p * t + 0.142536208f;
  p = p * t + 0.0946832597f;
  p = p * t + 0.121920399f;
  p = p * t + 0.11948768f;
  p = p * t + 7.16925342e-6f;
  const V tail = e * p;
  return {x < 0.0f ? tail : 1.0f - tail, e * 0.39894228f};
}
ELECTRA_INLINE V gelu(V x) { return x * normal(x).cdf; }
ELECTRA_INLINE V gelu_slope(V x) {
  const Normal n = normal(x);
  return n.cdf + x * n.density;
}

// Sixteen Philox4x32-10 calls, bit-identical to kernels/core/philox.h: counters (step, sequence, position, group + lane).
struct Philox16 {
  VU word[4];
};
ELECTRA_INLINE VU multiply_high(VU a, uint32_t b, VU& low) {
  const VL even = ((VL)a & 0xffffffffu) * static_cast<uint64_t>(b), odd = ((VL)a >> 32) * static_cast<uint64_t>(b);
  low = (VU)((even & 0xffffffffu) | (odd << 32));
  return (VU)((even >> 32) | (odd & 0xffffffff00000000u));
}
ELECTRA_INLINE Philox16 philox16(uint64_t key, uint32_t step, uint32_t sequence, uint32_t position, uint32_t group) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  VU c0 = splat(step), c1 = splat(sequence), c2 = splat(position);
  VU c3 = splat(group) + VU{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  for (int round = 0; round < 10; ++round) {
    VU low0, low2;
    const VU high0 = multiply_high(c0, 0xD2511F53u, low0), high2 = multiply_high(c2, 0xCD9E8D57u, low2);
    c0 = high2 ^ c1 ^ k0;
    c2 = high0 ^ c3 ^ k1;
    c1 = low2;
    c3 = low0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

ELECTRA_INLINE VU zip_low(VU a, VU b) {
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
ELECTRA_INLINE VU zip_high(VU a, VU b) {
  return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}
ELECTRA_INLINE VU zip_pairs_low(VU a, VU b) {
  return __builtin_shufflevector(a, b, 0, 1, 16, 17, 2, 3, 18, 19, 4, 5, 20, 21, 6, 7, 22, 23);
}
ELECTRA_INLINE VU zip_pairs_high(VU a, VU b) {
  return __builtin_shufflevector(a, b, 8, 9, 24, 25, 10, 11, 26, 27, 12, 13, 28, 29, 14, 15, 30, 31);
}
// The 64 words in the order of their calls: draw[i] holds words 16 i … 16 i + 15 (call = word / 4).
ELECTRA_INLINE void in_order(const Philox16& bits, VU draw[4]) {
  const VU a0 = zip_low(bits.word[0], bits.word[1]), a1 = zip_high(bits.word[0], bits.word[1]);
  const VU b0 = zip_low(bits.word[2], bits.word[3]), b1 = zip_high(bits.word[2], bits.word[3]);
  draw[0] = zip_pairs_low(a0, b0);
  draw[1] = zip_pairs_high(a0, b0);
  draw[2] = zip_pairs_low(a1, b1);
  draw[3] = zip_pairs_high(a1, b1);
}

// Dropout factors (0 or scale) of 128 consecutive elements whose first belongs to slot 0 of `group`.
ELECTRA_INLINE void keep_factors(V factor[8], uint64_t key, uint32_t step, uint32_t sequence, uint32_t position, uint32_t group,
                                 uint32_t threshold, float scale) {
  VU draw[4];
  in_order(philox16(key, step, sequence, position, group), draw);
  for (int i = 0; i < 4; ++i) {
    const VU even = draw[i] & 0xffffu, odd = draw[i] >> 16;
    const VU first = zip_low(even, odd), second = zip_high(even, odd);
    factor[2 * i] = first < threshold ? splat(scale) : V{};
    factor[2 * i + 1] = second < threshold ? splat(scale) : V{};
  }
}

// Calls body(index, lanes, factor) for every sixteen of n elements at (sequence, position) whose first belongs to slot 0 of
// `group`; lanes as in for_vectors.
template <class Body>
ELECTRA_INLINE void for_kept(const DropoutRows& d, uint32_t sequence, uint32_t position, uint32_t group, int64_t n, Body body) {
  constexpr int64_t kDraws = 128;  // elements that one call of keep_factors covers
  for (int64_t i0 = 0; i0 < n; i0 += kDraws) {
    V factor[8];
    keep_factors(factor, d.key, d.step, sequence, position, group + static_cast<uint32_t>(i0 / 8), d.threshold, d.scale);
    for_vectors(n - i0 < kDraws ? n - i0 : kDraws, [&](int64_t i, int64_t left) ELECTRA_LAMBDA { body(i0 + i, left, factor[i / kLanes]); });
  }
}

}  // namespace electra::cpu::ELECTRA_ISA
