// The operations of a warp, asynchronous copies, atomics and vector accesses.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/simt/schedule.h"

namespace electra::simt {

namespace {

__attribute__((noinline, cold)) void diverged(const Warp& warp, const char* what, Site at) {
  fail("divergent warp: this lane is at %s, %s:%d, while lanes %08x of its warp are at %s, %s:%d", what, at.file, at.line,
       warp.arrived, warp.what, warp.site.file, warp.site.line);
}

// Where the lanes of a warp meet. Each leaves its operands by `put`; the last one to arrive performs `run` on all of them.
// Returns the parity of the buffers used: results stay in them until the lane's next operation.
template <class Put, class Run>
inline __attribute__((always_inline)) uint32_t meet(const char* what, Site at, Put put, Run run) {
  Lane* me = self();
  Warp& warp = *me->warp;
  if (warp.arrived == 0) {
    warp.what = what;
    warp.site = at;
  } else if (__builtin_expect(warp.site.line != at.line || warp.what != what, 0)) {
    diverged(warp, what, at);
  }
  const uint32_t parity = warp.parity;
  put(warp.in[parity], me->lane);
  warp.arrived |= 1u << me->lane;
  ++me->epoch;
  if (warp.arrived != ~0u) {
    park(what, at);
  } else {
    run(warp, warp.in[parity], warp.out[parity]);
    release_warp(*warp.worker, warp, me);
  }
  return parity;
}

// The operand is a value, the 32 of them an array.
template <class In, class Run>
inline __attribute__((always_inline)) uint32_t warp_op(const char* what, Site at, const In& in, Run run) {
  static_assert(sizeof(In) <= 64);
  return meet(
      what, at, [&](char* to, int lane) { std::memcpy(to + static_cast<size_t>(lane) * sizeof(In), &in, sizeof(In)); },
      [&](Warp& warp, char* from, char* out) { run(warp, reinterpret_cast<const In*>(from), out); });
}

}  // namespace

void sync_warp(Site at) {
  warp_op("sync_warp", at, char{0}, [](Warp& warp, const char*, char*) {
    if (!checker) return;
    Lane* lanes[kLanes];
    for (int l = 0; l < kLanes; ++l) lanes[l] = warp.lanes + l;
    checker->join(lanes, kLanes);
  });
}

void shuffle(void* value, int bytes, int source_lane, const char* what, Site at) {
  struct alignas(16) Any { char byte[16]; } any;
  if (bytes == 4) {
    std::memcpy(any.byte, value, 4);
  } else {
    std::memcpy(any.byte, value, static_cast<size_t>(bytes));
  }
  Lane* me = self();
  const uint32_t parity = warp_op(what, at, any, [](Warp&, const Any*, char*) {});
  const char* from = me->warp->in[parity] + (source_lane & (kLanes - 1)) * 16;
  if (bytes == 4) {
    std::memcpy(value, from, 4);
  } else {
    std::memcpy(value, from, static_cast<size_t>(bytes));
  }
}

uint32_t ballot(bool predicate, Site at) {
  Lane* me = self();
  const uint32_t parity = warp_op("ballot", at, uint8_t{predicate}, [](Warp&, const uint8_t* in, char* out) {
    uint32_t mask = 0;
    for (int l = 0; l < kLanes; ++l) mask |= static_cast<uint32_t>(in[l]) << l;
    std::memcpy(out, &mask, sizeof mask);
  });
  uint32_t mask;
  std::memcpy(&mask, me->warp->out[parity], sizeof mask);
  return mask;
}

namespace {

// The butterfly of shuffles that the CUDA bodies perform, all lanes at once.
template <class T, class F>
inline __attribute__((always_inline)) T butterfly(const char* what, T v, int width, Site at, F combine) {
  struct In {
    T value;
    int width;
  };
  Lane* me = self();
  const uint32_t parity = warp_op(what, at, In{v, width}, [combine](Warp&, const In* in, char* out) {
    T a[kLanes], b[kLanes];
    for (int l = 0; l < kLanes; ++l) a[l] = in[l].value;
    for (int mask = in[0].width / 2; mask > 0; mask /= 2) {
      for (int l = 0; l < kLanes; ++l) b[l] = combine(a[l], a[l ^ mask]);
      std::memcpy(a, b, sizeof a);
    }
    std::memcpy(out, a, sizeof a);
  });
  T result;
  std::memcpy(&result, me->warp->out[parity] + static_cast<size_t>(me->lane) * sizeof(T), sizeof(T));
  return result;
}

}  // namespace

float warp_sum(float v, int width, Site at) {
  return butterfly("warp_sum", v, width, at, [](float a, float b) { return a + b; });
}
int warp_sum(int v, int width, Site at) {
  return butterfly("warp_sum", v, width, at, [](int a, int b) {
    return static_cast<int>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b));
  });
}
float warp_max(float v, int width, Site at) {
  return butterfly("warp_max", v, width, at, [](float a, float b) { return std::fmax(a, b); });
}
int warp_max(int v, int width, Site at) {
  return butterfly("warp_max", v, width, at, [](int a, int b) { return std::max(a, b); });
}
void warp_arg_max(float& value, int& index, int width, Site at) {
  struct Pair {
    float value;
    int index;
  };
  const Pair best = butterfly("warp_arg_max", Pair{value, index}, width, at, [](Pair a, Pair b) {
    return b.value > a.value || (b.value == a.value && b.index < a.index) ? b : a;
  });
  value = best.value;
  index = best.index;
}

// ---- vectors and atomics

namespace {

void check_readable([[maybe_unused]] const void* p, [[maybe_unused]] int bytes, [[maybe_unused]] Site at) {
#if defined(ELECTRA_SIMT_ASAN)
  if (const void* bad = __asan_region_is_poisoned(const_cast<void*>(p), static_cast<size_t>(bytes))) {
    fail("access of %d bytes at %s:%d: byte %td lies outside its allocation", bytes, at.file, at.line,
         static_cast<const char*>(bad) - static_cast<const char*>(p));
  }
#endif
}

}  // namespace

void copy_vector(void* to, const void* from, int bytes, bool is_store, Site at) {
  const void* memory = is_store ? to : from;
  if (reinterpret_cast<uintptr_t>(memory) % static_cast<uintptr_t>(bytes)) {
    fail("misaligned %s at %s:%d: expected an address that is a multiple of %d, got %p", is_store ? "store_vec" : "load_vec",
         at.file, at.line, bytes, memory);
  }
  check_readable(memory, bytes, at);
  note_access(memory, static_cast<size_t>(bytes), is_store ? kWrite : kRead, at);
  if (bytes == 16) {
    std::memcpy(to, from, 16);
  } else {
    std::memcpy(to, from, static_cast<size_t>(bytes));
  }
}

namespace {

// Real atomics: blocks may run on several operating-system threads.
template <class T, class F>
T modify(T* p, Site at, F f) {
  if (reinterpret_cast<uintptr_t>(p) % sizeof(T)) fail("misaligned atomic operation at %s:%d", at.file, at.line);
  check_readable(p, sizeof(T), at);
  note_access(p, sizeof(T), kAtomic, at);
  T old = __atomic_load_n(p, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(p, &old, f(old), true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return old;
}

}  // namespace

uint32_t atomic_add(uint32_t* p, uint32_t v, Site at) { return modify(p, at, [v](uint32_t old) { return old + v; }); }
uint64_t atomic_add(uint64_t* p, uint64_t v, Site at) { return modify(p, at, [v](uint64_t old) { return old + v; }); }
uint32_t atomic_max(uint32_t* p, uint32_t v, Site at) { return modify(p, at, [v](uint32_t old) { return std::max(old, v); }); }
int32_t atomic_max(int32_t* p, int32_t v, Site at) { return modify(p, at, [v](int32_t old) { return std::max(old, v); }); }
uint32_t atomic_or(uint32_t* p, uint32_t v, Site at) { return modify(p, at, [v](uint32_t old) { return old | v; }); }

// ---- tensor core

namespace {

using Float8 = float __attribute__((vector_size(32)));
using Word8 = uint32_t __attribute__((vector_size(32)));

// Operands in 1,280 bytes, each lane 4 g + t writing its part: A as four 8x8 quadrants of pairs, B as [k pair t][g], C as rows.
struct MmaOperands {
  uint32_t a[4][kLanes];
  uint32_t b[2][4][8];
  float c[16][8];
};
static_assert(sizeof(MmaOperands) <= sizeof(Warp::in[0]));

// c += a b. Products of bf16 numbers are exact in fp32; the hardware's order of summation is its own.
ELECTRA_CLONES void multiply(MmaOperands& m) {
  Float8 b[16];
  for (int half = 0; half < 2; ++half) {
    for (int t = 0; t < 4; ++t) {
      Word8 pairs;
      std::memcpy(&pairs, m.b[half][t], 32);
      const Word8 low = pairs << 16, high = pairs & 0xffff0000u;
      std::memcpy(&b[half * 8 + 2 * t], &low, 32);
      std::memcpy(&b[half * 8 + 2 * t + 1], &high, 32);
    }
  }
  float a[16][16];
  for (int quadrant = 0; quadrant < 4; ++quadrant) {
    for (int l = 0; l < kLanes; ++l) {
      const uint32_t pair = m.a[quadrant][l], low = pair << 16, high = pair & 0xffff0000u;
      float* to = &a[quadrant % 2 * 8 + l / 4][quadrant / 2 * 8 + l % 4 * 2];
      std::memcpy(to, &low, 4);
      std::memcpy(to + 1, &high, 4);
    }
  }
  for (int i = 0; i < 16; ++i) {
    Float8 c;
    std::memcpy(&c, m.c[i], 32);
    Float8 sum[4];
    for (int k = 0; k < 4; ++k) sum[k] = b[k] * a[i][k];
    for (int k = 4; k < 16; ++k) sum[k % 4] += b[k] * a[i][k];
    c += (sum[0] + sum[1]) + (sum[2] + sum[3]);
    std::memcpy(m.c[i], &c, 32);
  }
}

}  // namespace

void mma_m16n8k16(float* c, const uint32_t* a, const uint32_t* b, Site at) {
  Lane* me = self();
  const int g = me->lane / 4, t = me->lane % 4;
  const uint32_t parity = meet(
      "mma_m16n8k16", at,
      [&](char* to, int l) {
        auto& m = *reinterpret_cast<MmaOperands*>(to);
        for (int i = 0; i < 4; ++i) m.a[i][l] = a[i];
        for (int i = 0; i < 2; ++i) m.b[i][t][g] = b[i];
        for (int i = 0; i < 2; ++i) std::memcpy(&m.c[g + 8 * i][2 * t], c + 2 * i, 8);
      },
      [](Warp& warp, char* operands, char*) {
        multiply(*reinterpret_cast<MmaOperands*>(operands));
        ++warp.worker->counters.mma;
      });
  const auto& m = *reinterpret_cast<const MmaOperands*>(me->warp->in[parity]);
  for (int i = 0; i < 2; ++i) std::memcpy(c + 2 * i, &m.c[g + 8 * i][2 * t], 8);
}

void ldmatrix(uint32_t* r, int matrices, bool transposed, const void* row, Site at) {
  const char* what = matrices == 4 ? (transposed ? "ldmatrix_x4<true>" : "ldmatrix_x4") : (transposed ? "ldmatrix_x2<true>" : "ldmatrix_x2");
  Lane* me = self();
  const int l = me->lane;
  if (l < matrices * 8) {
    shared_range(row, 16, 16, what, at);
    note_access(row, 16, kRead | kUncounted, at);
  }
  const uint32_t parity = warp_op(what, at, row, [matrices](Warp&, const void* const* rows, char* out) {
    for (int i = 0; i < matrices * 8; ++i) std::memcpy(out + i * 16, rows[i], 16);
    if (!checker) return;
    for (int m = 0; m < matrices; ++m) {  // 8 rows of 16 bytes take one cycle when they lie in the 8 different groups of 4 banks
      int in_group[8] = {}, cycles = 0;
      for (int i = 0; i < 8; ++i) {
        const bool repeated = std::find(rows + m * 8, rows + m * 8 + i, rows[m * 8 + i]) != rows + m * 8 + i;
        if (!repeated) cycles = std::max(cycles, ++in_group[reinterpret_cast<uintptr_t>(rows[m * 8 + i]) / 16 % 8]);
      }
      checker->count_conflicts(cycles - 1, false);
    }
  });
  const char* out = me->warp->out[parity];
  for (int m = 0; m < matrices; ++m) {
    if (!transposed) {
      std::memcpy(&r[m], out + (m * 8 + l / 4) * 16 + l % 4 * 4, 4);
    } else {
      uint16_t element[2];
      for (int i = 0; i < 2; ++i) std::memcpy(&element[i], out + (m * 8 + l % 4 * 2 + i) * 16 + l / 4 * 2, 2);
      r[m] = static_cast<uint32_t>(element[0]) | static_cast<uint32_t>(element[1]) << 16;
    }
  }
}

// ---- asynchronous copies

namespace {

void land(const PendingCopy& copy) {
  if (checker) {
    if (copy.from) checker->access(*self(), copy.from, 16, kRead | kUncounted, {});
    checker->access(*self(), copy.to, 16, kWrite | kUncounted, {});
  }
  if (copy.from) {
    std::memcpy(copy.to, copy.from, 16);
  } else {
    std::memset(copy.to, 0, 16);
  }
}

}  // namespace

void copy_async_16(void* to, const void* from, bool valid, Site at) {
  Lane* me = self();
  char* shared = shared_range(to, 16, 16, "copy_async_16", at);
  if (valid) {
    if (reinterpret_cast<uintptr_t>(from) % 16) {
      fail("copy_async_16 at %s:%d: expected a global address that is a multiple of 16, got %p", at.file, at.line, from);
    }
    check_readable(from, 16, at);
    note_access(from, 16, kRead, at);
  }
  PendingCopy copy{shared, valid ? from : nullptr, me->copy_group, worker->options.async == Async::eager};
  if (copy.landed) {
    if (checker) checker->access(*me, shared, 16, kWrite, {nullptr, at});
    land(copy);
  } else {
    note_access(shared, 16, kWrite | kInFlight, at);
    std::memset(shared, kNaN, 16);
  }
  me->copies.push_back(copy);
}

void copy_async_commit() { ++self()->copy_group; }

void copy_async_wait(int groups) {
  Lane* me = self();
  size_t done = 0;
  while (done < me->copies.size() && me->copies[done].group + static_cast<uint32_t>(groups) < me->copy_group) {
    if (!me->copies[done].landed) land(me->copies[done]);
    ++done;
  }
  me->copies.erase(me->copies.begin(), me->copies.begin() + static_cast<std::ptrdiff_t>(done));
}

}  // namespace electra::simt
