// Randomness as a function of coordinates: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11).
// key = seed xor fnv1a64(site), counter = (step, sequence in the step's global batch, position, element group). Nothing is
// stored and nothing depends on threads, tiles, micro-batches or devices.
#pragma once
#include <cmath>
#include <cstdint>
#include <string_view>

#if !defined(__CUDACC__) && !defined(__host__)
#define __host__
#define __device__
#endif

namespace electra {

struct Bits128 {
  uint32_t word[4];
};

struct RandomCoordinates {
  uint32_t step = 0;
  uint32_t sequence = 0;
  uint32_t position = 0;
  uint32_t group = 0;
};

constexpr uint64_t fnv1a64(std::string_view text) {
  uint64_t h = 0xcbf29ce484222325u;
  for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return h;
}

__host__ __device__ inline Bits128 philox(uint64_t key, const RandomCoordinates& at) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  uint32_t c0 = at.step, c1 = at.sequence, c2 = at.position, c3 = at.group;
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = static_cast<uint64_t>(0xD2511F53u) * c0, p1 = static_cast<uint64_t>(0xCD9E8D57u) * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// One of the eight 16-bit draws of a call: slot 0 is the low half of word 0.
__host__ __device__ inline uint32_t draw16(const Bits128& bits, int slot) {
  return bits.word[slot / 2] >> (slot % 2 * 16) & 0xffffu;
}

// Uniform in (0, 1): ((draw >> 9) + 1/2) 2^-23, so that neither logarithm of the Gumbel noise overflows in fp32.
__host__ __device__ inline float uniform_open(uint32_t draw) {
  return (static_cast<float>(draw >> 9) + 0.5f) * 0x1p-23f;
}

// Dropout keeps an element iff draw16 < keep_threshold and scales it by keep_scale: the expectation is exact.
struct Dropout {
  double drop_p = 0;   // probability of dropping; 0 switches the op's dropout off
  uint64_t site = 0;   // fnv1a64 of the op's scope name
  bool active() const { return drop_p > 0; }
  uint32_t keep_threshold() const { return static_cast<uint32_t>(std::lround(65536.0 * (1.0 - drop_p))); }
  double keep_scale() const { return 65536.0 / keep_threshold(); }
};
// Throws ConfigError unless drop_p is from 0 to 1 − 2^−17: above, not one of the 65,536 draws keeps an element.
void check_dropout(std::string_view where, const Dropout& dropout);

}  // namespace electra
