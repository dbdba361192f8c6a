// What Hopper (sm_90a) adds to device.cuh: mbarriers, bulk copies by the tensor memory accelerator, and wgmma. For kernels in
// files named *_sm90.cu, which are compiled for sm_90a alone and chosen at run time.
//
// The usual shape: one producer warp starts copies into a ring of buffers, a warpgroup (4 warps, 128 threads) multiplies; two
// mbarriers a buffer, `full` and `empty`, pass it between them.
#pragma once
#include "kernels/device.cuh"
#include "kernels/tensor_map.h"
#if !defined(__CUDACC__)
#include "kernels/simt/hopper.h"
#endif

namespace electra {

constexpr int kWarpgroupSize = 128;

// ---- mbarrier: a barrier in shared memory that counts arrivals and bytes. A phase ends when `arrivals` threads have arrived and
// all expected bytes are there; the next begins at once. Phases have parities 0, 1, 0, ...

struct alignas(8) MBarrier {
  uint64_t opaque;
};

// By one thread; then mbarrier_fence_init by the same thread, and sync_block.
__device__ inline void mbarrier_init(MBarrier& barrier, int arrivals, [[maybe_unused]] Site at = Site::current()) {
#if defined(__CUDACC__)
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&barrier)), "r"(arrivals) : "memory");
#else
  simt::mbarrier_init(&barrier, arrivals, at);
#endif
}
__device__ inline void mbarrier_fence_init() {
#if defined(__CUDACC__)
  asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async;" ::: "memory");
#endif
}
__device__ inline void mbarrier_arrive(MBarrier& barrier, [[maybe_unused]] Site at = Site::current()) {
#if defined(__CUDACC__)
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&barrier)) : "memory");
#else
  simt::mbarrier_arrive(&barrier, 0, at);
#endif
}
// Arrives, and lets the phase also wait for `bytes` bytes of copies.
__device__ inline void mbarrier_arrive_expect(MBarrier& barrier, int bytes, [[maybe_unused]] Site at = Site::current()) {
#if defined(__CUDACC__)
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&barrier)), "r"(bytes) : "memory");
#else
  simt::mbarrier_arrive(&barrier, bytes, at);
#endif
}
// Waits for the end of the running phase if that has this parity; else returns at once. So waiting for parity 1 of a fresh
// barrier does not wait.
__device__ inline void mbarrier_wait(MBarrier& barrier, int parity, [[maybe_unused]] Site at = Site::current()) {
#if defined(__CUDACC__)
  uint32_t done = 0;
  while (!done) {
    asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.b32 %0, 1, 0, p;\n}"
                 : "=r"(done) : "r"(shared_address(&barrier)), "r"(parity) : "memory");
  }
#else
  simt::mbarrier_wait(&barrier, parity, at);
#endif
}

// ---- bulk copies, started by one thread; their bytes are counted by `barrier`

// Copies the box whose first element is (row, column) to `to` (1024-byte aligned): row r at byte 128 r, its 16-byte pieces
// swizzled as by swizzle_128. What lies outside the matrix is zero, and is counted in bytes all the same.
__device__ inline void tma_load(void* to, const TensorMap& map, int column, int row, MBarrier& barrier,
                                [[maybe_unused]] Site at = Site::current()) {
#if defined(__CUDACC__)
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
          shared_address(to)),
      "l"(&map), "r"(shared_address(&barrier)), "r"(column), "r"(row)
      : "memory");
#else
  simt::tma_load(to, &map, column, row, &barrier, at);
#endif
}
// Copies `bytes` neighbouring bytes, a multiple of 16; both addresses are multiples of 16.
__device__ inline void bulk_load(void* to, const void* from, int bytes, MBarrier& barrier, [[maybe_unused]] Site at = Site::current()) {
#if defined(__CUDACC__)
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(to)),
               "l"(from), "r"(bytes), "r"(shared_address(&barrier))
               : "memory");
#else
  simt::bulk_load(to, from, bytes, &barrier, at);
#endif
}
// Byte offset of element (row, column) of a tile of bf16 rows of 128 bytes: the 16-byte pieces of a row are permuted by its number.
__host__ __device__ constexpr int swizzle_128(int row, int column) {
  return row * 128 + ((column / 8) ^ (row % 8)) * 16 + column % 8 * 2;
}
// Between ordinary writes to shared memory and wgmma or bulk copies that use them; then a barrier.
__device__ inline void fence_async_proxy() {
#if defined(__CUDACC__)
  asm volatile("fence.proxy.async;" ::: "memory");
#endif
}

// ---- wgmma: D (64xN, fp32) = A (64x16, bf16) B (16xN, bf16) + D, by the 128 threads of a warpgroup together, asynchronously.
// Thread t of warp w holds in d[4 j + 2 i + c] row 16 w + t % 32 / 4 + 8 i, column 8 j + 2 (t % 4) + c. A in registers is laid out
// as FragA of the warp's 16 rows.
// Order: wgmma_fence, some wgmma_m64k16, wgmma_commit, wgmma_wait; until the wait d belongs to the tensor core, and the tiles in
// shared memory may not change.

// Describes a tile in shared memory with rows of 128 bytes, swizzled, in groups of 8 rows that are `stride` bytes apart (1024 when
// they are neighbours). Rows are A's rows or B's columns; 16 elements further along k is 32 bytes further. For kTransposedB rows
// are B's rows (k), of 64 columns; 16 further along k is 2048 bytes further, and `columns_stride` is the distance in bytes from
// one 64 columns wide tile to the next.
__device__ inline uint64_t matrix_descriptor(const void* tile, int stride = 1024, int columns_stride = 16) {
#if defined(__CUDACC__)
  const uint32_t address = shared_address(tile);
#else
  const uint32_t address = simt::shared_offset(tile);
#endif
  return static_cast<uint64_t>((address & 0x3ffff) >> 4) | static_cast<uint64_t>(columns_stride >> 4) << 16 |
         static_cast<uint64_t>(stride >> 4) << 32 | uint64_t{1} << 62;
}

// Before the first wgmma, and after registers that it uses have changed.
__device__ inline void wgmma_fence([[maybe_unused]] Site at = Site::current()) {
#if defined(__CUDACC__)
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#else
  simt::wgmma_fence(at);
#endif
}
__device__ inline void wgmma_commit([[maybe_unused]] Site at = Site::current()) {
#if defined(__CUDACC__)
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#else
  simt::wgmma_commit(at);
#endif
}
// Until at most kGroups groups, the latest, are unfinished.
template <int kGroups>
__device__ inline void wgmma_wait([[maybe_unused]] Site at = Site::current()) {
#if defined(__CUDACC__)
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kGroups) : "memory");
#else
  simt::wgmma_wait(kGroups, at);
#endif
}
// Keeps the compiler from moving uses of d across wgmma_fence and wgmma_wait.
template <int kCount>
__device__ inline void register_fence([[maybe_unused]] float (&d)[kCount]) {
#if defined(__CUDACC__)
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
#endif
}

// d = a b + d, or a b where `accumulate` is false. a and b by matrix_descriptor; N is 64 or 128.
#if defined(__CUDACC__)
#define ELECTRA_D8(i) \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#endif
template <int N, bool kTransposedB = false>
__device__ inline void wgmma_m64k16(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate,
                                    [[maybe_unused]] Site at = Site::current()) {
  static_assert(N == 64 || N == 128);
#if defined(__CUDACC__)
  if constexpr (N == 64) {
    if constexpr (kTransposedB) {
      asm volatile(
          "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
          "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
          "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
          "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, "
          "%32, %33, p, 1, 1, 0, 1;\n}"
          : ELECTRA_D8(0), ELECTRA_D8(8), ELECTRA_D8(16), ELECTRA_D8(24)
          : "l"(a), "l"(b), "r"(accumulate ? 1 : 0) : "memory");
    } else {
      asm volatile(
          "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
          "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
          "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
          "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, "
          "%32, %33, p, 1, 1, 0, 0;\n}"
          : ELECTRA_D8(0), ELECTRA_D8(8), ELECTRA_D8(16), ELECTRA_D8(24)
          : "l"(a), "l"(b), "r"(accumulate ? 1 : 0) : "memory");
    }
  } else if constexpr (N == 128) {
    if constexpr (kTransposedB) {
      asm volatile(
          "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
          "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
          "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
          "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
          "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
          "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, "
          "%64, %65, p, 1, 1, 0, 1;\n}"
          : ELECTRA_D8(0), ELECTRA_D8(8), ELECTRA_D8(16), ELECTRA_D8(24),
            ELECTRA_D8(32), ELECTRA_D8(40), ELECTRA_D8(48), ELECTRA_D8(56)
          : "l"(a), "l"(b), "r"(accumulate ? 1 : 0) : "memory");
    } else {
      asm volatile(
          "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
          "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
          "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
          "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
          "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
          "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, "
          "%64, %65, p, 1, 1, 0, 0;\n}"
          : ELECTRA_D8(0), ELECTRA_D8(8), ELECTRA_D8(16), ELECTRA_D8(24),
            ELECTRA_D8(32), ELECTRA_D8(40), ELECTRA_D8(48), ELECTRA_D8(56)
          : "l"(a), "l"(b), "r"(accumulate ? 1 : 0) : "memory");
    }
  }
#else
  simt::wgmma(d, N, nullptr, a, b, kTransposedB, accumulate, at);
#endif
}
// The same with A in registers.
template <int N, bool kTransposedB = false>
__device__ inline void wgmma_m64k16(float (&d)[N / 2], const FragA& a, uint64_t b, bool accumulate,
                                    [[maybe_unused]] Site at = Site::current()) {
  static_assert(N == 64 || N == 128);
#if defined(__CUDACC__)
  if constexpr (N == 64) {
    if constexpr (kTransposedB) {
      asm volatile(
          "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
          "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
          "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
          "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, "
          "{%32,%33,%34,%35}, %36, p, 1, 1, 1;\n}"
          : ELECTRA_D8(0), ELECTRA_D8(8), ELECTRA_D8(16), ELECTRA_D8(24)
          : "r"(a.r[0]), "r"(a.r[1]), "r"(a.r[2]), "r"(a.r[3]), "l"(b), "r"(accumulate ? 1 : 0) : "memory");
    } else {
      asm volatile(
          "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
          "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
          "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
          "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, "
          "{%32,%33,%34,%35}, %36, p, 1, 1, 0;\n}"
          : ELECTRA_D8(0), ELECTRA_D8(8), ELECTRA_D8(16), ELECTRA_D8(24)
          : "r"(a.r[0]), "r"(a.r[1]), "r"(a.r[2]), "r"(a.r[3]), "l"(b), "r"(accumulate ? 1 : 0) : "memory");
    }
  } else if constexpr (N == 128) {
    if constexpr (kTransposedB) {
      asm volatile(
          "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
          "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
          "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
          "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
          "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
          "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, "
          "{%64,%65,%66,%67}, %68, p, 1, 1, 1;\n}"
          : ELECTRA_D8(0), ELECTRA_D8(8), ELECTRA_D8(16), ELECTRA_D8(24),
            ELECTRA_D8(32), ELECTRA_D8(40), ELECTRA_D8(48), ELECTRA_D8(56)
          : "r"(a.r[0]), "r"(a.r[1]), "r"(a.r[2]), "r"(a.r[3]), "l"(b), "r"(accumulate ? 1 : 0) : "memory");
    } else {
      asm volatile(
          "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
          "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
          "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
          "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
          "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
          "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, "
          "{%64,%65,%66,%67}, %68, p, 1, 1, 0;\n}"
          : ELECTRA_D8(0), ELECTRA_D8(8), ELECTRA_D8(16), ELECTRA_D8(24),
            ELECTRA_D8(32), ELECTRA_D8(40), ELECTRA_D8(48), ELECTRA_D8(56)
          : "r"(a.r[0]), "r"(a.r[1]), "r"(a.r[2]), "r"(a.r[3]), "l"(b), "r"(accumulate ? 1 : 0) : "memory");
    }
  }
#else
  simt::wgmma(d, N, a.r, 0, b, kTransposedB, accumulate, at);
#endif
}
#if defined(__CUDACC__)
#undef ELECTRA_D8
#endif

// Gives registers back, or takes those that other warpgroups have given back: kCount (24 to 256, a multiple of 8) a thread. By all
// warps of a warpgroup.
template <int kCount>
__device__ inline void give_registers() {
#if defined(__CUDACC__)
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
#endif
}
template <int kCount>
__device__ inline void take_registers() {
#if defined(__CUDACC__)
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
#endif
}

}  // namespace electra
