// bfloat16, a storage type: the upper half of a float. Arithmetic is done in float.
#pragma once
#include <cstdint>
#include <cstring>

#if !defined(__CUDACC__) && !defined(__host__)
#define __host__
#define __device__
#endif

namespace electra {

struct bf16 {
  uint16_t bits;
};

__host__ __device__ inline float to_float(bf16 x) {
  const uint32_t u = static_cast<uint32_t>(x.bits) << 16;
  float f;
  memcpy(&f, &u, sizeof f);
  return f;
}

// Round to nearest, ties to even; any NaN becomes 0x7fff, as the hardware's conversion does.
__host__ __device__ inline bf16 to_bf16(float f) {
  uint32_t u;
  memcpy(&u, &f, sizeof u);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>(0x7fff)};
  return {static_cast<uint16_t>((u + 0x7fffu + (u >> 16 & 1u)) >> 16)};
}

}  // namespace electra
