// A tile of a matrix product, computed by one block: what gemm_own.cu and binary_classifier.cu are built around.
// MmaTile runs on tensor cores (bf16, operands aligned to 16 bytes); FmaTile takes any type, layout and alignment. Both hand the
// product to the caller in the same way: each thread gets pieces of 8 neighbouring columns in fp32, all of the same 8 columns.
#pragma once
#include "kernels/cuda/common.cuh"

namespace electra::cuda {

// Whether vectors of 16 bytes may begin here.
inline bool is_aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// op(a) (m, k) times op(b) (k, n). a is stored (k, m) when transpose_a, b is stored (n, k) when transpose_b.
template <class T> struct Product {
  const T *a, *b;
  int m, n, k;
  int lda, ldb;  // elements between rows as stored
  bool transpose_a, transpose_b;
};

// Whether MmaTile can copy the operands: 16 bytes at a time.
template <class T> bool fits_mma(const Product<T>& p) {
  return std::is_same_v<T, bf16> && is_aligned(p.a) && is_aligned(p.b) && p.lda % 8 == 0 && p.ldb % 8 == 0;
}

// Part of a product that a block computes: rows and columns from (row, column) on, summed over [k_begin, k_end). k_begin is a
// multiple of 32; what lies beyond the matrices counts as 0.
struct TilePart {
  int row, column, k_begin, k_end;
};

// The first `count` of 8 neighbouring values, the others 0; in one access where vectors are allowed.
template <class T> __device__ inline void load8(float (&x)[8], const T* p, int count, bool vectors) {
  if (vectors && count >= 8) return load_floats(x, p);
#pragma unroll
  for (int i = 0; i < 8; ++i) x[i] = i < count ? to_float(p[i]) : 0.0f;
}
template <class T> __device__ inline void store8(T* p, const float (&x)[8], int count, bool vectors) {
  if (vectors && count >= 8) return store_floats(p, x);
#pragma unroll
  for (int i = 0; i < 8; ++i)
    if (i < count) p[i] = from_float<T>(x[i]);
}

// kWarpsM x kWarpsN warps, each of which owns kRows / kWarpsM rows and 32 columns. Piece i of a thread is row piece_row(i), columns
// piece_column() to + 7, counted from the tile's corner: a warp's pieces i are 8 whole rows of 32 columns.
template <int kRowsOfTile, int kWarpsM, int kWarpsN> struct TileShape {
  static constexpr int kRows = kRowsOfTile, kCols = 32 * kWarpsN;
  static constexpr int kWarpsDown = kWarpsM, kWarpsAcross = kWarpsN, kWarps = kWarpsM * kWarpsN, kThreads = kWarps * kWarpSize;
  static constexpr int kWarpRows = kRows / kWarpsM, kPieces = kWarpRows / 8;
  static_assert(kWarpRows % 16 == 0);
  __device__ static int warp_down() { return warp_index() / kWarpsN; }
  __device__ static int warp_across() { return warp_index() % kWarpsN; }
  __device__ static int piece_row(int i) { return warp_down() * kWarpRows + 8 * i + lane_index() / 4; }
  __device__ static int piece_column() { return warp_across() * 32 + lane_index() % 4 * 8; }
};

// ---- tensor cores

// Operands pass through a ring of kStages slices of kDepth columns of op(a) and rows of op(b) in shared memory, filled by cp.async
// kStages - 1 slices ahead. 16-byte groups are permuted inside a slice so that the 8 rows of one ldmatrix matrix lie in different
// banks. Sums in fp32, in the order of k.
template <class Shape, bool kTransposeA, bool kTransposeB> struct MmaTile : Shape {
  using Element = bf16;
  using Shape::kCols, Shape::kRows, Shape::kThreads, Shape::kWarpRows;
  static constexpr int kStages = 4, kDepth = 32;

  struct Ring {
    bf16 a[kStages][kRows * kDepth], b[kStages][kCols * kDepth];
  };
  union alignas(16) Shared {
    Ring ring;
    float pieces[Shape::kWarps][16 * 32];  // the product on its way from fragments to pieces
  };

  // Place of element (i, k) in a slice of kExtent rows of op(a) or columns of op(b); kAlongK: k runs along the stored rows.
  template <int kExtent, bool kAlongK> __device__ static int place(int i, int k) {
    if constexpr (kAlongK) return i * kDepth + (k / 8 ^ i / 2 % 4) * 8;
    else return k * kExtent + (i / 8 ^ k % 8) * 8;
  }

  // Place of columns 4 q to 4 q + 3 of a row of pieces. Neither the writes (8 rows of 8 columns, 8 bytes a thread) nor the reads (8
  // rows of 32 columns, 16 bytes a thread) of a warp meet in a bank.
  __device__ static int piece_place(int row, int q) { return row * 32 + (q ^ (row % 4 * 2 + row % 2)) * 4; }

  // Starts to copy a slice from column k of op(x) on. Where it leaves the matrix, zeros are written.
  template <int kExtent, bool kAlongK>
  __device__ static void start_copy(bf16* slice, const bf16* x, int ld, int first, int extent, int k, int k_end) {
    constexpr int kGroups = kExtent * kDepth / 8;
    static_assert(kGroups % kThreads == 0);
#pragma unroll
    for (int n = 0; n < kGroups / kThreads; ++n) {
      const int group = thread_index().x + n * kThreads;
      const int i = kAlongK ? group / (kDepth / 8) : group % (kExtent / 8) * 8;
      const int j = kAlongK ? group % (kDepth / 8) * 8 : group / (kExtent / 8);
      const bool valid = first + i < extent && k + j < k_end;
      const int64_t from = kAlongK ? static_cast<int64_t>(first + i) * ld + k + j : static_cast<int64_t>(k + j) * ld + first + i;
      copy_async_16(slice + place<kExtent, kAlongK>(i, j), valid ? x + from : x, valid);
    }
  }

  __device__ static void multiply(FragC (&c)[kWarpRows / 16][4], const bf16* a, const bf16* b) {
    const int lane = lane_index(), row = Shape::warp_down() * kWarpRows, column = Shape::warp_across() * 32;
#pragma unroll
    for (int k = 0; k < kDepth; k += 16) {
      FragA fa[kWarpRows / 16];
      FragB fb[4];
#pragma unroll
      for (int i = 0; i < kWarpRows / 16; ++i)
        ldmatrix_x4<kTransposeA>(fa[i].r, a + place<kRows, !kTransposeA>(row + 16 * i + (kTransposeA ? lane / 8 % 2 * 8 : lane % 16),
                                                                        k + lane / 16 * 8 + (kTransposeA ? lane % 8 : 0)));
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        uint32_t r[4];  // k 0 to 7 and 8 to 15 of columns 0 to 7, then of 8 to 15
        ldmatrix_x4<!kTransposeB>(r, b + place<kCols, kTransposeB>(column + 16 * j + lane / 16 * 8 + (kTransposeB ? lane % 8 : 0),
                                                                   k + lane / 8 % 2 * 8 + (kTransposeB ? 0 : lane % 8)));
        fb[2 * j] = {{r[0], r[1]}};
        fb[2 * j + 1] = {{r[2], r[3]}};
      }
#pragma unroll
      for (int i = 0; i < kWarpRows / 16; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) mma_m16n8k16(c[i][j], fa[i], fb[j]);
    }
  }

  // Calls each(i, x) for the thread's pieces in order, x a float (&)[8]. All threads of the block take part; sm is free again after
  // the next barrier.
  template <class F> __device__ static void run(Shared& sm, const Product<bf16>& p, const TilePart& part, F each) {
    FragC c[kWarpRows / 16][4];
#pragma unroll
    for (int i = 0; i < kWarpRows / 16; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) c[i][j] = {};
    const int slices = ceil_div(part.k_end - part.k_begin, kDepth);
    const auto start = [&](int slice) {
      if (slice < slices) {
        const int stage = slice % kStages, k = part.k_begin + slice * kDepth;
        start_copy<kRows, !kTransposeA>(sm.ring.a[stage], p.a, p.lda, part.row, p.m, k, part.k_end);
        start_copy<kCols, kTransposeB>(sm.ring.b[stage], p.b, p.ldb, part.column, p.n, k, part.k_end);
      }
      copy_async_commit();  // of nothing at the end, so that the count of groups behind a slice stays the same
    };
#pragma unroll
    for (int slice = 0; slice < kStages - 1; ++slice) start(slice);
    for (int slice = 0; slice < slices; ++slice) {
      copy_async_wait<kStages - 2>();
      sync_block();  // the slice has come, and all warps are done with the stage that is filled next
      start(slice + kStages - 1);
      multiply(c, sm.ring.a[slice % kStages], sm.ring.b[slice % kStages]);
    }
    copy_async_wait<0>();
    sync_block();

    // Fragments to pieces through shared memory, 16 rows of a warp at a time, so that memory is accessed 16 bytes a thread.
    float* const pieces = sm.pieces[warp_index()];
    const int lane = lane_index();
#pragma unroll
    for (int i = 0; i < kWarpRows / 16; ++i) {
      sync_warp();
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          store_vec(pieces + piece_place(lane / 4 + 8 * half, 2 * j + lane % 4 / 2) + lane % 2 * 2,
                    Vec<float, 2>{{c[i][j].r[2 * half], c[i][j].r[2 * half + 1]}});
      sync_warp();
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const Vec<float, 4> low = load_vec<4>(pieces + piece_place(lane / 4 + 8 * half, lane % 4 * 2)),
                            high = load_vec<4>(pieces + piece_place(lane / 4 + 8 * half, lane % 4 * 2 + 1));
        float x[8] = {low[0], low[1], low[2], low[3], high[0], high[1], high[2], high[3]};
        each(2 * i + half, x);
      }
    }
  }
};

// ---- plain arithmetic: fp32, and bf16 that is not aligned

template <class T, class Shape> struct FmaTile : Shape {
  using Element = T;
  using Shape::kCols, Shape::kPieces, Shape::kRows, Shape::kThreads;
  static constexpr int kDepth = 16;
  struct alignas(16) Shared {
    float a[kDepth][kRows], b[kDepth][kCols];
  };

  // x[k][i] = op(x), read along its stored rows.
  template <int kExtent>
  __device__ static void load(float (&slice)[kDepth][kExtent], const T* x, int ld, bool along_k, int first, int extent, int k, int k_end) {
    for (int n = thread_index().x; n < kDepth * kExtent; n += kThreads) {
      const int i = along_k ? n / kDepth : n % kExtent, j = along_k ? n % kDepth : n / kExtent;
      const bool valid = first + i < extent && k + j < k_end;
      const int64_t from = along_k ? static_cast<int64_t>(first + i) * ld + k + j : static_cast<int64_t>(k + j) * ld + first + i;
      slice[j][i] = valid ? to_float(x[from]) : 0.0f;
    }
  }

  // As MmaTile::run.
  template <class F> __device__ static void run(Shared& sm, const Product<T>& p, const TilePart& part, F each) {
    float c[kPieces][8] = {};
    for (int k = part.k_begin; k < part.k_end; k += kDepth) {
      load(sm.a, p.a, p.lda, !p.transpose_a, part.row, p.m, k, part.k_end);
      load(sm.b, p.b, p.ldb, p.transpose_b, part.column, p.n, k, part.k_end);
      sync_block();
      for (int j = 0; j < kDepth; ++j) {
        float b[8];
        load_floats(b, &sm.b[j][Shape::piece_column()]);
#pragma unroll
        for (int i = 0; i < kPieces; ++i) {
          const float a = sm.a[j][Shape::piece_row(i)];
#pragma unroll
          for (int n = 0; n < 8; ++n) c[i][n] += a * b[n];
        }
      }
      sync_block();
    }
#pragma unroll
    for (int i = 0; i < kPieces; ++i) each(i, c[i]);
  }
};

}  // namespace electra::cuda
