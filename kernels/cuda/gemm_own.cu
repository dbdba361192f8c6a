// Matrix products with bias and GELU (erf), hand-written: bf16 on tensor cores (mma.sync, sums in fp32) and a plain form for fp32
// and for operands that are not aligned. The comparison and the fallback for cuBLASLt.
//
// Threads: a block computes a tile of c, 128 x 128 by 8 warps, or 64 x 64 by 4 where the large tiles would not fill a GPU
// (gemm_tile.cuh). Tiles of one row of tiles run side by side, so that a comes from HBM once and b stays in L2.
// Where the tiles are few and the sum is long (weight gradients) the sum is split over blocks, which write fp32 partial products;
// a second kernel adds them in order. The split depends on the shape alone.
// Traffic: tiles re-read a ceil(n / 128) and b ceil(m / 128) times, through L2; c is written once. A split into s parts writes and
// reads 4 s m n bytes more.
#include "kernels/cuda/gemm_own.h"

#include <algorithm>

#include "kernels/cuda/gemm_tile.cuh"

namespace electra::cuda {
namespace {

constexpr int kEnoughBlocks = 96;     // most of a wave of a GPU with 108 to 132 multiprocessors
constexpr int kSplitBlocks = 264;     // two for each of 132 multiprocessors
constexpr int kLeastSplit = 512;      // length of a sum worth a block
constexpr int kSplitUnit = 32;        // a slice of the tensor-core tile

using LargeShape = TileShape<128, 2, 4>;
using SmallShape = TileShape<64, 2, 2>;

// How many parts the sum of a product is split into.
int64_t splits_of(int64_t m, int64_t n, int64_t k) {
  const int64_t tiles = ceil_div<int64_t>(m, LargeShape::kRows) * ceil_div<int64_t>(n, LargeShape::kCols);
  return tiles == 0 ? 1 : std::max<int64_t>(1, std::min(kSplitBlocks / tiles, k / kLeastSplit));
}

template <class T> struct GemmArgs {
  Product<T> product;
  T* c;         // one of c and c_float is present
  float* c_float;
  const T* bias;
  T* u;
  int k_per_split;      // c_float is (splits, m, n)
  bool accumulate;
  bool vectors;         // rows of c, u and bias are aligned to 16 bytes
};

template <class Tile, bool kGelu> __global__ void __launch_bounds__(Tile::kThreads, 512 / Tile::kThreads)
gemm_kernel(GemmArgs<typename Tile::Element> args) {
  auto& sm = block_shared<typename Tile::Shared>();
  const auto& p = args.product;
  const int split = block_index().z, row = block_index().y * Tile::kRows, tile_column = block_index().x * Tile::kCols;
  const int k_begin = split * args.k_per_split, k_end = k_begin + args.k_per_split < p.k ? k_begin + args.k_per_split : p.k;
  const int column = tile_column + Tile::piece_column(), count = p.n - column;
  Tile::run(sm, p, {row, tile_column, k_begin, k_end}, [&](int i, float(&x)[8]) {
    const int r = row + Tile::piece_row(i);
    if (r >= p.m || count <= 0) return;
    const int64_t at = static_cast<int64_t>(r) * p.n + column;
    float other[8];
    if (args.bias) {
      load8(other, args.bias + column, count, args.vectors);
#pragma unroll
      for (int j = 0; j < 8; ++j) x[j] += other[j];
    }
    if constexpr (kGelu) {
      if (args.u) store8(args.u + at, x, count, args.vectors);
#pragma unroll
      for (int j = 0; j < 8; ++j) x[j] = gelu(x[j]);
    }
    const auto finish = [&](auto* c) {
      if (args.accumulate) {
        load8(other, c, count, args.vectors);
#pragma unroll
        for (int j = 0; j < 8; ++j) x[j] += other[j];
      }
      store8(c, x, count, args.vectors);
    };
    if (args.c_float) finish(args.c_float + static_cast<int64_t>(split) * p.m * p.n + at);
    else finish(args.c + at);
  });
}

constexpr int kReduceThreads = 256;

// c (+)= sum of the parts, in order. A thread adds 4 neighbouring elements.
template <class T> struct ReduceArgs {
  const float* parts;  // (splits, size)
  T* c;
  int64_t size;
  int splits;
  bool accumulate;
};
template <class T> __global__ void __launch_bounds__(kReduceThreads) gemm_reduce_kernel(ReduceArgs<T> args) {
  const int64_t first = (static_cast<int64_t>(block_index().x) * kReduceThreads + thread_index().x) * 4;
  const GradMode mode = args.accumulate ? GradMode::accumulate : GradMode::write;
  if (args.size % 4 == 0 && first < args.size) {
    float sum[4] = {};
    for (int s = 0; s < args.splits; ++s) {
      const Vec<float, 4> part = load_vec<4, Cache::streamed>(args.parts + s * args.size + first);
#pragma unroll
      for (int j = 0; j < 4; ++j) sum[j] += part[j];
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) put(args.c + first + j, sum[j], mode);
  } else {
    for (int64_t i = first; i < first + 4 && i < args.size; ++i) {
      float sum = 0;
      for (int s = 0; s < args.splits; ++s) sum += args.parts[s * args.size + i];
      put(args.c + i, sum, mode);
    }
  }
}

// kHasGelu: the tile has a form with GELU; the plain one serves all else.
template <class Tile, bool kHasGelu = false, class T> void run(const GemmArgs<T>& args, int splits, bool gelu, Stream& stream) {
  const Product<T>& p = args.product;
  auto* kernel = gemm_kernel<Tile, false>;
  if constexpr (kHasGelu)
    if (gelu) kernel = gemm_kernel<Tile, true>;
  launch(kernel, {ceil_div(p.n, Tile::kCols), ceil_div(p.m, Tile::kRows), splits}, {Tile::kThreads}, sizeof(typename Tile::Shared),
         stream.handle(), args);
}

template <class Shape> void run_mma(const GemmArgs<bf16>& args, int splits, bool gelu, Stream& stream) {
  const auto& p = args.product;
  if (!p.transpose_a && p.transpose_b) run<MmaTile<Shape, false, true>, true>(args, splits, gelu, stream);
  else if (!p.transpose_a) run<MmaTile<Shape, false, false>>(args, splits, gelu, stream);
  else if (p.transpose_b) run<MmaTile<Shape, true, true>>(args, splits, gelu, stream);
  else run<MmaTile<Shape, true, false>>(args, splits, gelu, stream);
}

}  // namespace

size_t own_gemm_workspace(int64_t m, int64_t n, int64_t k) {
  const int64_t splits = splits_of(m, n, k);
  return splits > 1 ? Scratch::bytes<float>(splits * m * n) : 0;
}

void own_gemm(const OwnGemm& args, Stream& stream) {
  const Gemm& g = args.gemm;
  const int64_t m = g.c.rows(), n = g.c.cols(), k = g.transpose_a ? g.a.rows() : g.a.cols();
  if (m == 0 || n == 0) return;
  if (args.gelu && (g.transpose_a || !g.transpose_b)) throw ShapeError("gemm", "expected op(A) = A and op(B) = Bᵀ with GELU");
  const bool plain = !args.bias && !args.gelu && g.workspace;
  const auto splits = static_cast<int>(plain ? splits_of(m, n, k) : 1);
  dispatch_float("gemm", g.a.dtype, [&]<class T>() {
    const auto is_float = g.c.dtype == DType::f32;
    GemmArgs<T> kernel{.product = {g.a.as<T>(), g.b.as<T>(), static_cast<int>(m), static_cast<int>(n), static_cast<int>(k),
                                   static_cast<int>(g.a.cols()), static_cast<int>(g.b.cols()), g.transpose_a, g.transpose_b},
                       .c = is_float ? nullptr : g.c.as<T>(),
                       .c_float = is_float ? g.c.as<float>() : nullptr,
                       .bias = args.bias.as<T>(),
                       .u = args.u.as<T>(),
                       .k_per_split = static_cast<int>(ceil_div<int64_t>(ceil_div<int64_t>(k, splits), kSplitUnit) * kSplitUnit),
                       .accumulate = g.accumulate,
                       .vectors = n % 8 == 0 && is_aligned(g.c.data) && is_aligned(args.bias.data) && is_aligned(args.u.data)};
    if (splits > 1) {
      kernel.c = nullptr;
      kernel.c_float = Scratch(g.workspace).take<float>(splits * m * n);
      kernel.accumulate = false;
      kernel.vectors = n % 8 == 0;
    }
    const int64_t large_blocks = ceil_div<int64_t>(m, LargeShape::kRows) * ceil_div<int64_t>(n, LargeShape::kCols) * splits;
    if constexpr (std::is_same_v<T, bf16>) {
      if (!fits_mma(kernel.product)) run<FmaTile<bf16, SmallShape>, true>(kernel, splits, args.gelu, stream);
      else if (large_blocks >= kEnoughBlocks && m > SmallShape::kRows && n > SmallShape::kCols)
        run_mma<LargeShape>(kernel, splits, args.gelu, stream);
      else run_mma<SmallShape>(kernel, splits, args.gelu, stream);
    } else {
      run<FmaTile<float, SmallShape>, true>(kernel, splits, args.gelu, stream);
    }
    if (splits == 1) return;
    const auto reduce = [&]<class Out>(Out* c) {
      const auto blocks = static_cast<int>(ceil_div<int64_t>(m * n, kReduceThreads * 4));
      launch(gemm_reduce_kernel<Out>, {blocks}, {kReduceThreads}, 0, stream.handle(),
             ReduceArgs<Out>{kernel.c_float, c, m * n, splits, g.accumulate});
    };
    if (is_float) reduce(g.c.as<float>());
    else reduce(g.c.as<T>());
  });
}

}  // namespace electra::cuda
