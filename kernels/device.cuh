// The only header a kernel includes: launch, block, warp and tensor-core primitives, each with a CUDA body and a host body.
// Kernels are compiled by nvcc (sm_80, sm_90a, compute_90) and by the host compiler for the executor (kernels/simt), from the
// same source: no #if, asm, <<<>>>, __shared__ or CUDA header in a kernel. What Hopper adds stands in device_sm90.cuh.
//
// Also usable as they are: __global__, __device__, __launch_bounds__(threads), #pragma unroll, and the C functions of fp32
// (expf, logf, erff, sqrtf, fmaf, fmaxf, fminf, fabsf, ...).
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/core/bf16.h"
#include "kernels/core/philox.h"
#if defined(__CUDACC__)
#include "kernels/core/error.h"
#else
#include "kernels/simt/simt.h"
#endif

namespace electra {

#if defined(__CUDACC__)
struct Index3 {
  int x = 0, y = 0, z = 0;
};
struct Extent3 {
  int x = 1, y = 1, z = 1;
};
// Where a primitive was called: known to the executor only.
struct Site {
  __host__ __device__ static constexpr Site current() { return {}; }
};
#endif

constexpr int kWarpSize = 32;
constexpr uint32_t kAllLanes = 0xffffffffu;

template <class T>
__host__ __device__ constexpr T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}

// ---- launch

using Grid = Extent3;       // blocks
using BlockSize = Extent3;  // threads, at most 1024
using StreamHandle = void*; // a cudaStream_t; the executor runs a launch at once and needs none

// Runs `kernel` over `grid` blocks of `block` threads, each block with `shared_bytes` of shared memory (0, or sizeof the
// kernel's Shared struct). Arguments are passed by value: one struct of plain data. Throws DeviceError when the launch is refused.
// On the executor it returns when the kernel has finished and throws simt::KernelError for what it did wrong.
template <class... P, class... A>
void launch(void (*kernel)(P...), Grid grid, BlockSize block, size_t shared_bytes, StreamHandle stream, const A&... args) {
  static_assert((std::is_trivially_copyable_v<P> && ...), "kernel arguments are copied byte by byte");
#if defined(__CUDACC__)
  const auto check = [](cudaError_t status) {
    if (status != cudaSuccess) throw DeviceError("launch", cudaGetErrorString(status));
  };
  if (shared_bytes > 48 * 1024) {
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared_bytes)));
  }
  kernel<<<dim3(grid.x, grid.y, grid.z), dim3(block.x, block.y, block.z), shared_bytes, static_cast<cudaStream_t>(stream)>>>(
      args...);
  check(cudaGetLastError());
#else
  static_cast<void>(stream);
  simt::launch(kernel, grid, block, shared_bytes, args...);
#endif
}

// ---- indices

__device__ inline Index3 thread_index() {
#if defined(__CUDACC__)
  return {static_cast<int>(threadIdx.x), static_cast<int>(threadIdx.y), static_cast<int>(threadIdx.z)};
#else
  return simt::thread_index();
#endif
}
__device__ inline Index3 block_index() {
#if defined(__CUDACC__)
  return {static_cast<int>(blockIdx.x), static_cast<int>(blockIdx.y), static_cast<int>(blockIdx.z)};
#else
  return simt::block_index();
#endif
}
__device__ inline Extent3 block_size() {
#if defined(__CUDACC__)
  return {static_cast<int>(blockDim.x), static_cast<int>(blockDim.y), static_cast<int>(blockDim.z)};
#else
  return simt::block_size();
#endif
}
__device__ inline Extent3 grid_size() {
#if defined(__CUDACC__)
  return {static_cast<int>(gridDim.x), static_cast<int>(gridDim.y), static_cast<int>(gridDim.z)};
#else
  return simt::grid_size();
#endif
}
// Of blocks that extend along x only.
__device__ inline int lane_index() { return thread_index().x % kWarpSize; }
__device__ inline int warp_index() { return thread_index().x / kWarpSize; }

// ---- block

// The block's shared memory, laid out as S; one S a kernel, sizeof(S) at the launch. 1024-byte aligned at most.
template <class S>
__device__ inline S& block_shared() {
  static_assert(std::is_trivially_default_constructible_v<S> && alignof(S) <= 1024);
#if defined(__CUDACC__)
  extern __shared__ __align__(1024) unsigned char electra_shared_memory[];
  return *reinterpret_cast<S*>(electra_shared_memory);
#else
  return *static_cast<S*>(simt::block_shared(sizeof(S)));
#endif
}

// Waits for all threads of the block; orders their accesses to memory.
__device__ inline void sync_block([[maybe_unused]] Site at = Site::current()) {
#if defined(__CUDACC__)
  __syncthreads();
#else
  simt::sync_block(at);
#endif
}

// As sync_block, for the `threads` threads (a multiple of 32) that call it with the same id (1 to 15).
__device__ inline void sync_group(int id, int threads, [[maybe_unused]] Site at = Site::current()) {
#if defined(__CUDACC__)
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
#else
  simt::sync_group(id, threads, at);
#endif
}

// ---- warp. All 32 lanes must take part in each of these, at the same place in the source. None but sync_warp orders memory.

// Waits for the warp's lanes; orders their accesses to memory.
__device__ inline void sync_warp([[maybe_unused]] Site at = Site::current()) {
#if defined(__CUDACC__)
  __syncwarp();
#else
  simt::sync_warp(at);
#endif
}

#if defined(__CUDACC__)
// Applies a shuffle of 32-bit words to a value of 4, 8 or 16 bytes.
template <class T, class F>
__device__ inline T shuffle_words(T v, F shuffle) {
  static_assert(std::is_trivially_copyable_v<T> && (sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16));
  uint32_t word[sizeof(T) / 4];
  memcpy(word, &v, sizeof(T));
#pragma unroll
  for (uint32_t& w : word) w = shuffle(w);
  memcpy(&v, word, sizeof(T));
  return v;
}
#endif

// The value of lane `lane`.
template <class T>
__device__ inline T shfl(T v, int lane, [[maybe_unused]] Site at = Site::current()) {
#if defined(__CUDACC__)
  return shuffle_words(v, [=](uint32_t w) { return __shfl_sync(kAllLanes, w, lane); });
#else
  simt::shuffle(&v, sizeof(T), lane, "shfl", at);
  return v;
#endif
}
// The value of the lane whose index differs by `lane_mask`.
template <class T>
__device__ inline T shfl_xor(T v, int lane_mask, [[maybe_unused]] Site at = Site::current()) {
#if defined(__CUDACC__)
  return shuffle_words(v, [=](uint32_t w) { return __shfl_xor_sync(kAllLanes, w, lane_mask); });
#else
  simt::shuffle(&v, sizeof(T), lane_index() ^ lane_mask, "shfl_xor", at);
  return v;
#endif
}
// The value of the lane `delta` below; the lowest `delta` lanes keep theirs.
template <class T>
__device__ inline T shfl_up(T v, int delta, [[maybe_unused]] Site at = Site::current()) {
#if defined(__CUDACC__)
  return shuffle_words(v, [=](uint32_t w) { return __shfl_up_sync(kAllLanes, w, delta); });
#else
  const int lane = lane_index();
  simt::shuffle(&v, sizeof(T), lane < delta ? lane : lane - delta, "shfl_up", at);
  return v;
#endif
}

// Bit l is the predicate of lane l.
__device__ inline uint32_t ballot(bool predicate, [[maybe_unused]] Site at = Site::current()) {
#if defined(__CUDACC__)
  return __ballot_sync(kAllLanes, predicate);
#else
  return simt::ballot(predicate, at);
#endif
}
__device__ inline bool warp_any(bool predicate, Site at = Site::current()) { return ballot(predicate, at) != 0; }
__device__ inline bool warp_all(bool predicate, Site at = Site::current()) { return ballot(predicate, at) == kAllLanes; }
__device__ inline int count_bits(uint32_t mask) {
#if defined(__CUDACC__)
  return __popc(mask);
#else
  return __builtin_popcount(mask);
#endif
}
// Index of the lowest set bit of a mask that is not 0.
__device__ inline int lowest_bit(uint32_t mask) {
#if defined(__CUDACC__)
  return __ffs(static_cast<int>(mask)) - 1;
#else
  return __builtin_ctz(mask);
#endif
}
// The lanes below this one, as a mask for ballots.
__device__ inline uint32_t lanes_below() { return (1u << lane_index()) - 1; }

// Reductions over each group of kWidth neighbouring lanes (a power of two); every lane of the group gets the same result. The
// order of the additions is that of the butterfly: offsets kWidth / 2, ..., 1.
template <int kWidth = kWarpSize, class T>
__device__ inline T warp_sum(T v, [[maybe_unused]] Site at = Site::current()) {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, int>);
#if defined(__CUDACC__)
#pragma unroll
  for (int mask = kWidth / 2; mask > 0; mask /= 2) v += __shfl_xor_sync(kAllLanes, v, mask);
  return v;
#else
  return simt::warp_sum(v, kWidth, at);
#endif
}
template <int kWidth = kWarpSize, class T>
__device__ inline T warp_max(T v, [[maybe_unused]] Site at = Site::current()) {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, int>);
#if defined(__CUDACC__)
#pragma unroll
  for (int mask = kWidth / 2; mask > 0; mask /= 2) {
    const T other = __shfl_xor_sync(kAllLanes, v, mask);
    if constexpr (std::is_same_v<T, float>) {
      v = fmaxf(v, other);
    } else {
      v = v > other ? v : other;
    }
  }
  return v;
#else
  return simt::warp_max(v, kWidth, at);
#endif
}
// The largest value with its index; of equal values the one with the lowest index. No value may be NaN.
struct ArgMax {
  float value;
  int index;
};
__host__ __device__ inline ArgMax larger(ArgMax a, ArgMax b) {
  return b.value > a.value || (b.value == a.value && b.index < a.index) ? b : a;
}
template <int kWidth = kWarpSize>
__device__ inline ArgMax warp_arg_max(ArgMax v, [[maybe_unused]] Site at = Site::current()) {
#if defined(__CUDACC__)
#pragma unroll
  for (int mask = kWidth / 2; mask > 0; mask /= 2) v = larger(v, shfl_xor(v, mask));
#else
  simt::warp_arg_max(v.value, v.index, kWidth, at);
#endif
  return v;
}

// Sum over a block of kWarps whole warps, the same in every thread; the warps' sums are added in order. `scratch` lies in shared
// memory and may be used again after the call.
template <int kWarps, class T>
__device__ inline T block_sum(T v, T (&scratch)[kWarps], Site at = Site::current()) {
  v = warp_sum(v, at);
  if (lane_index() == 0) scratch[warp_index()] = v;
  sync_block(at);
  T sum = scratch[0];
#pragma unroll
  for (int w = 1; w < kWarps; ++w) sum += scratch[w];
  sync_block(at);
  return sum;
}
template <int kWarps>
__device__ inline float block_max(float v, float (&scratch)[kWarps], Site at = Site::current()) {
  v = warp_max(v, at);
  if (lane_index() == 0) scratch[warp_index()] = v;
  sync_block(at);
  float max = scratch[0];
#pragma unroll
  for (int w = 1; w < kWarps; ++w) max = fmaxf(max, scratch[w]);
  sync_block(at);
  return max;
}

// ---- atomics on integers, in global or shared memory: their order does not matter. Each returns the old value.

template <class T>
__device__ inline T atomic_add(T* p, T v, [[maybe_unused]] Site at = Site::current()) {
  static_assert(std::is_integral_v<T> && (sizeof(T) == 4 || sizeof(T) == 8));
#if defined(__CUDACC__)
  using Word = std::conditional_t<sizeof(T) == 4, unsigned int, unsigned long long>;
  return static_cast<T>(atomicAdd(reinterpret_cast<Word*>(p), static_cast<Word>(v)));
#else
  using Word = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  return static_cast<T>(simt::atomic_add(reinterpret_cast<Word*>(p), static_cast<Word>(v), at));
#endif
}
template <class T>
__device__ inline T atomic_max(T* p, T v, [[maybe_unused]] Site at = Site::current()) {
  static_assert(std::is_same_v<T, int32_t> || std::is_same_v<T, uint32_t>);
#if defined(__CUDACC__)
  return atomicMax(p, v);
#else
  return simt::atomic_max(p, v, at);
#endif
}
__device__ inline uint32_t atomic_or(uint32_t* p, uint32_t v, [[maybe_unused]] Site at = Site::current()) {
#if defined(__CUDACC__)
  return atomicOr(p, v);
#else
  return simt::atomic_or(p, v, at);
#endif
}

// ---- vectors in memory

// N values that lie side by side and move in one access of 2 to 16 bytes; their address is a multiple of their size.
template <class T, int N>
struct alignas(sizeof(T) * N) Vec {
  static_assert(sizeof(T) * N <= 16);
  T v[N];
  __host__ __device__ T& operator[](int i) { return v[i]; }
  __host__ __device__ const T& operator[](int i) const { return v[i]; }
};

// How an access treats the caches: normal; streamed (used once: first to be evicted); read_only (not written by this launch).
enum class Cache { normal, streamed, read_only };

#if defined(__CUDACC__)
template <int kBytes>
using VectorWord = std::conditional_t<kBytes == 16, uint4, std::conditional_t<kBytes == 8, uint2, std::conditional_t<kBytes == 4, uint32_t, uint16_t>>>;
#endif

template <int N, Cache kCache = Cache::normal, class T>
__device__ inline Vec<T, N> load_vec(const T* p, [[maybe_unused]] Site at = Site::current()) {
  Vec<T, N> result;
#if defined(__CUDACC__)
  using Word = VectorWord<sizeof(T) * N>;
  const Word* words = reinterpret_cast<const Word*>(p);
  Word word;
  if constexpr (kCache == Cache::streamed) {
    word = __ldcs(words);
  } else if constexpr (kCache == Cache::read_only) {
    word = __ldg(words);
  } else {
    word = *words;
  }
  memcpy(&result, &word, sizeof word);
#else
  simt::copy_vector(&result, p, sizeof result, false, at);
#endif
  return result;
}
template <Cache kCache = Cache::normal, class T, int N>
__device__ inline void store_vec(T* p, const Vec<T, N>& value, [[maybe_unused]] Site at = Site::current()) {
#if defined(__CUDACC__)
  using Word = VectorWord<sizeof(T) * N>;
  Word word;
  memcpy(&word, &value, sizeof word);
  if constexpr (kCache == Cache::streamed) {
    __stcs(reinterpret_cast<Word*>(p), word);
  } else {
    *reinterpret_cast<Word*>(p) = word;
  }
#else
  simt::copy_vector(p, &value, sizeof value, true, at);
#endif
}

// N values of T as fp32 registers, moved in accesses of 16 bytes (or all at once when they are fewer).
template <Cache kCache = Cache::normal, class T, int N>
__device__ inline void load_floats(float (&x)[N], const T* p, Site at = Site::current()) {
  constexpr int kVec = N * sizeof(T) < 16 ? N : 16 / static_cast<int>(sizeof(T));
  static_assert(N % kVec == 0);
#pragma unroll
  for (int i = 0; i < N; i += kVec) {
    const Vec<T, kVec> part = load_vec<kVec, kCache>(p + i, at);
#pragma unroll
    for (int j = 0; j < kVec; ++j) x[i + j] = to_float(part[j]);
  }
}
template <Cache kCache = Cache::normal, class T, int N>
__device__ inline void store_floats(T* p, const float (&x)[N], Site at = Site::current()) {
  constexpr int kVec = N * sizeof(T) < 16 ? N : 16 / static_cast<int>(sizeof(T));
  static_assert(N % kVec == 0);
#pragma unroll
  for (int i = 0; i < N; i += kVec) {
    Vec<T, kVec> part;
#pragma unroll
    for (int j = 0; j < kVec; ++j) part[j] = from_float<T>(x[i + j]);
    store_vec<kCache>(p + i, part, at);
  }
}

// ---- arithmetic. "approx": the device's fast instruction, with its error; the host computes the exact function.

__device__ inline float exp2_approx(float x) {  // 2 ulp; flushes subnormal numbers
#if defined(__CUDACC__)
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return exp2f(x);
#endif
}
__device__ inline float exp_approx(float x) { return exp2_approx(x * 1.4426950408889634f); }
__device__ inline float log2_approx(float x) {  // absolute error 2^-22
#if defined(__CUDACC__)
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return log2f(x);
#endif
}
__device__ inline float log_approx(float x) { return log2_approx(x) * 0.6931471805599453f; }
__device__ inline float rsqrt(float x) {  // 2 ulp
#if defined(__CUDACC__)
  return rsqrtf(x);
#else
  return 1.0f / sqrtf(x);
#endif
}
// Two fp32 numbers rounded to bf16, `lo` in the lower half.
__device__ inline uint32_t pack_bf16x2(float lo, float hi) {
#if defined(__CUDACC__) && defined(__CUDA_ARCH__)
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(hi), "f"(lo));
  return word;
#else
  return static_cast<uint32_t>(to_bf16(lo).bits) | static_cast<uint32_t>(to_bf16(hi).bits) << 16;
#endif
}
__device__ inline float low_bf16(uint32_t word) { return to_float(bf16{static_cast<uint16_t>(word)}); }
__device__ inline float high_bf16(uint32_t word) { return to_float(bf16{static_cast<uint16_t>(word >> 16)}); }

// ---- tensor core: D (16x8, fp32) = A (16x16, bf16) B (16x8, bf16) + C; PTX ISA, "Matrix fragments for mma.m16n8k16".
// Lane 4 g + t holds
//   A: r[i] = row g + 8 (i % 2), columns 2 t + 8 (i / 2) and the next      B: r[i] = k 2 t + 8 i and the next, column g
//   C: r[2 i + j] = row g + 8 i, column 2 t + j
// so that a C pair packed by pack_bf16x2 is an A fragment as it stands: two C of neighbouring columns make one A.

struct FragA {
  uint32_t r[4];
};
struct FragB {
  uint32_t r[2];
};
struct FragC {
  float r[4];
};

// c += a b
__device__ inline void mma_m16n8k16(FragC& c, const FragA& a, const FragB& b, [[maybe_unused]] Site at = Site::current()) {
#if defined(__CUDACC__)
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c.r[0]), "+f"(c.r[1]), "+f"(c.r[2]), "+f"(c.r[3])
      : "r"(a.r[0]), "r"(a.r[1]), "r"(a.r[2]), "r"(a.r[3]), "r"(b.r[0]), "r"(b.r[1]));
#else
  simt::mma_m16n8k16(c.r, a.r, b.r, at);
#endif
}

// Loads kCount (2 or 4) 8x8 matrices of 16-bit elements from shared memory: lane l passes the address (a multiple of 16 bytes)
// of row l % 8 of matrix l / 8, and gets in r[i] elements 2 (l % 4) and the next of row l / 4 of matrix i. With kTransposed
// each matrix is transposed on the way. Of kCount = 2 the addresses of lanes 16 to 31 are not used.
#if defined(__CUDACC__)
__device__ inline uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }
#endif
template <bool kTransposed = false>
__device__ inline void ldmatrix_x4(uint32_t (&r)[4], const void* row, [[maybe_unused]] Site at = Site::current()) {
#if defined(__CUDACC__)
  if constexpr (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row)) : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row)) : "memory");
  }
#else
  simt::ldmatrix(r, 4, kTransposed, row, at);
#endif
}
template <bool kTransposed = false>
__device__ inline void ldmatrix_x2(uint32_t (&r)[2], const void* row, [[maybe_unused]] Site at = Site::current()) {
#if defined(__CUDACC__)
  if constexpr (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1]) : "r"(shared_address(row)) : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1]) : "r"(shared_address(row)) : "memory");
  }
#else
  simt::ldmatrix(r, 2, kTransposed, row, at);
#endif
}

// ---- asynchronous copies from global to shared memory

// Starts to copy 16 bytes; both addresses are multiples of 16. Where `valid` is false 16 zero bytes are written and `from` is not
// read. The bytes may be used after copy_async_wait by this thread, and after a barrier by others.
__device__ inline void copy_async_16(void* to, const void* from, bool valid = true, [[maybe_unused]] Site at = Site::current()) {
#if defined(__CUDACC__)
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(valid ? 16 : 0)
               : "memory");
#else
  simt::copy_async_16(to, from, valid, at);
#endif
}
// Closes a group: the copies this thread has started since the last one.
__device__ inline void copy_async_commit() {
#if defined(__CUDACC__)
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  simt::copy_async_commit();
#endif
}
// Waits until at most kGroups of this thread's groups, the latest, are unfinished.
template <int kGroups>
__device__ inline void copy_async_wait() {
#if defined(__CUDACC__)
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
#else
  simt::copy_async_wait(kGroups);
#endif
}

}  // namespace electra
