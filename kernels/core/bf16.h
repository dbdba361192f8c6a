// bf16: the upper half of an fp32 number. Storage only; arithmetic is done in fp32.
#pragma once
#include <cstdint>
#include <cstring>

#include "kernels/core/dtype.h"

#if !defined(__CUDACC__) && !defined(__host__)
#define __host__
#define __device__
#endif

namespace electra {

struct bf16 {
  uint16_t bits;
};
template <> struct DTypeOf<bf16> { static constexpr DType value = DType::bf16; };

__host__ __device__ inline float to_float(bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

// Rounds to nearest, ties to even; every NaN becomes 0x7fff, as cvt.rn.bf16.f32 does.
__host__ __device__ inline bf16 to_bf16(float x) {
#if defined(__CUDA_ARCH__)
  bf16 result;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(x));
  return result;
#else
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16)};
#endif
}

// The same two names for fp32, so that a kernel can be a template over its storage type.
__host__ __device__ inline float to_float(float x) { return x; }
template <class T> __host__ __device__ T from_float(float x);
template <> __host__ __device__ inline float from_float<float>(float x) { return x; }
template <> __host__ __device__ inline bf16 from_float<bf16>(float x) { return to_bf16(x); }

}  // namespace electra
