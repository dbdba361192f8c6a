// Attention on tensor cores, bf16 with fp32 sums; the algorithm is that of FlashAttention-2 (Dao, 2023). docs/ops/attention.md has the
// mathematics. Sequences of at most 128 tokens take the short kernels, one block for a whole head, every operand across memory
// once; longer ones the streaming kernels, which walk through tiles of 64 rows in two buffers filled by cp.async; from 256 tokens and on
// compute capability 9.x those of attention_sm90.cu.
// Numerics: scores, softmax, sums and accumulators are fp32; P and dS are rounded to bf16 before they enter a product.
#include "kernels/core/gpu.h"
#include "kernels/cuda/attention.cuh"

namespace electra {
namespace {

using namespace cuda;
using namespace cuda::attention;

constexpr int kShortLen = 128;            // longest sequence of the short kernels
constexpr int kTile = 64;                 // rows of a streamed tile

using Args = attention::Args<bf16>;

// ---- tiles of a head in shared memory

// Where the rows of a tile lie. by_call: within 32 rows such that the columns of a product that one lane of a quad holds, 2 t and 2 t + 1 of
// four groups of eight, are rows 8 t to 8 t + 7: the keys of one call of draws. Row 8 a + 2 b + c lies at 8 b + 2 a + c.
enum class RowOrder { natural, by_call };
// The row of column 2 t + e of group n in that order.
__device__ constexpr int key_of(int n, int t, int e) { return 32 * (n / 4) + 8 * t + 2 * (n % 4) + e; }

// Where this thread's first chunk is, of rows that begin at `from`.
__device__ inline const bf16* thread_source(const bf16* from, int stride) {
  return from + thread_index().x / 8 * stride + thread_index().x % 8 * 8;
}
// Starts to copy `count` rows, at most kRows, from thread_source(…); those at or beyond `valid` become 0.
template <int kThreads, int kRows, RowOrder kOrder>
__device__ inline void load_rows(Row* tile, const bf16* source, int stride, int count, int valid) {
  constexpr int kStep = kThreads / 8;
  static_assert(kStep == 16 || kStep == 32);
  const int first = thread_index().x / 8, chunk = thread_index().x % 8;
  const int place = kOrder == RowOrder::natural ? first : first / 2 % 4 * 8 + first / 8 * 2 + first % 2;
  const int offset = place * kHeadDim + (chunk ^ place % 8) * 8;
#pragma unroll
  for (int row = 0; row < kRows; row += kStep) {
    // By call, rows 16 to 31 lie four after rows 0 to 15.
    const int at = kOrder == RowOrder::natural ? row * kHeadDim + offset
                                               : row / 32 * 32 * kHeadDim + (row % 32 == 0 ? offset : (offset ^ 32) + 4 * kHeadDim);
    if (count == kRows || first + row < count) copy_async_16(*tile + at, source + row * stride, first + row < valid);
  }
}

// The address this lane passes to ldmatrix for rows row0 to row0 + 15 and columns 16 k to 16 k + 15. Of the four 8 x 8 matrices the second
// is below the first (rows_first) or beside it.
template <bool kRowsFirst> __device__ inline const bf16* patch_address(const Row* tile, int row0, int k) {
  const int lane = lane_index(), half = lane / 8 % 2, other = lane / 16, r = lane % 8;
  const int row = r + 8 * (kRowsFirst ? half : other), chunk = kRowsFirst ? other : half;
  return *tile + (row0 * kHeadDim + (row * kHeadDim + ((chunk ^ r) * 8 ^ 16 * k)));
}
// Rows row0 to row0 + 15, columns 16 k to 16 k + 15, as the left operand.
__device__ inline FragA load_a(const Row* tile, int row0, int k) {
  FragA a;
  ldmatrix_x4(a.r, patch_address<true>(tile, row0, k));
  return a;
}
// The right operand of X Yᵀ: b[0], b[1] are rows row0 to row0 + 7 of Y and b[2], b[3] the next eight; columns 16 k to 16 k + 15.
__device__ inline void load_b(uint32_t (&b)[4], const Row* tile, int row0, int k) { ldmatrix_x4(b, patch_address<false>(tile, row0, k)); }
// The right operand of X Y: summands are rows row0 to row0 + 15; b[0], b[1] are columns 16 d to 16 d + 7 and b[2], b[3] the next eight.
__device__ inline void load_b_transposed(uint32_t (&b)[4], const Row* tile, int row0, int d) { ldmatrix_x4<true>(b, patch_address<true>(tile, row0, d)); }

// s += X Yᵀ for rows x_row0 to x_row0 + 15 of X and y_row0 to y_row0 + 8 kGroups - 1 of Y.
template <int kGroups>
__device__ inline void multiply_transposed(FragC (&s)[kGroups], const Row* x, int x_row0, const Row* y, int y_row0) {
#pragma unroll
  for (int k = 0; k < kHeadDim / 16; ++k) {
    const FragA a = load_a(x, x_row0, k);
#pragma unroll
    for (int n = 0; n < kGroups; n += 2) {
      uint32_t b[4];
      load_b(b, y, y_row0 + 8 * n, k);
      mma_m16n8k16(s[n], a, {{b[0], b[1]}});
      mma_m16n8k16(s[n + 1], a, {{b[2], b[3]}});
    }
  }
}
// Accumulators of groups 2 k and 2 k + 1 as the left operand of the next product.
__device__ inline FragA as_a(const FragC& lo, const FragC& hi) {
  return {{pack_bf16x2(lo.r[0], lo.r[1]), pack_bf16x2(lo.r[2], lo.r[3]), pack_bf16x2(hi.r[0], hi.r[1]), pack_bf16x2(hi.r[2], hi.r[3])}};
}
// out += a Y, where a's summands are rows row0 to row0 + 15 of Y.
__device__ inline void multiply_add(FragC (&out)[kHeadDim / 8], const FragA& a, const Row* y, int row0) {
#pragma unroll
  for (int d = 0; d < kHeadDim / 16; ++d) {
    uint32_t b[4];
    load_b_transposed(b, y, row0, d);
    mma_m16n8k16(out[2 * d], a, {{b[0], b[1]}});
    mma_m16n8k16(out[2 * d + 1], a, {{b[2], b[3]}});
  }
}

// Row `row` of the block's head in dqkv. Computed from the beginning, for use after a loop that has no register left to keep it in.
__device__ inline bf16* gradient_row(const Args& a, int row) {
  const Head h = head_of_block(a);
  return a.dqkv + qkv_offset(a, h) + static_cast<int64_t>(row) * (3 * a.heads * kHeadDim);
}

// ---- dropout

// Zeroes what is dropped of scores in `by_call` order: of query (row g of the fragments; g + 8 for half = 1) and `keys` keys from key0, in 32s.
template <int kGroups>
__device__ inline void drop(FragC (&p)[kGroups], int half, int query, int key0, int keys, const Draws& draws, uint32_t limit) {
  const int t = lane_index() % 4;
#pragma unroll
  for (int n = 0; n < kGroups; n += 4) {
    if (8 * n >= keys) continue;
    sync_warp();  // one call after the other: together they need too many registers
    const Bits128 bits = draws(query, (key0 + 8 * n) / 8 + t);
#pragma unroll
    for (int slot = 0; slot < 8; ++slot) {
      float& x = p[n + slot / 2].r[2 * half + slot % 2];
      x = keeps(bits, slot, limit) ? x : 0.0f;
    }
  }
}

// ---- forward, short: four warps; warp w takes queries 16 w and 64 + 16 w. Traffic: qkv once, context and lse once.

constexpr int kForwardThreads = 128;

struct ShortForwardShared {
  Row q[kShortLen], k[kShortLen], v[kShortLen];
  Draws draws;
};

template <bool kDrop> __global__ void __launch_bounds__(kForwardThreads, 3) attention_forward_short_kernel(Args a) {
  constexpr int kGroups = kShortLen / 8;
  auto& sm = block_shared<ShortForwardShared>();
  const Head h = head_of_block(a);
  const int lane = lane_index(), g = lane / 4, t = lane % 4, n = h.length;
  const int hidden = a.heads * kHeadDim, stride = 3 * hidden;
  const int padded = ceil_div(n, 32) * 32;  // keys
  const bf16* source = thread_source(a.qkv + qkv_offset(a, h), stride);
  load_rows<kForwardThreads, kShortLen, RowOrder::natural>(sm.q, source, stride, ceil_div(n, 16) * 16, n);
  load_rows<kForwardThreads, kShortLen, RowOrder::by_call>(sm.k, source + hidden, stride, padded, n);
  copy_async_commit();
  load_rows<kForwardThreads, kShortLen, RowOrder::by_call>(sm.v, source + 2 * hidden, stride, padded, n);
  copy_async_commit();
  clear_spare_context<kForwardThreads>(a, h);
  if (kDrop && thread_index().x == 0) sm.draws = Draws::of(a, h);
  copy_async_wait<1>();
  sync_block();

#pragma unroll 1
  for (int block = 0; block < n; block += kTile) {
    const int row0 = block + 16 * warp_index();
    FragC s[kGroups] = {};
    float sum[2], norm[2];
    if (row0 < n) {
#pragma unroll
      for (int k = 0; k < kHeadDim / 16; ++k) {
        const FragA x = load_a(sm.q, row0, k);
#pragma unroll
        for (int j = 0; j < kGroups; j += 2) {
          if (8 * j >= padded) continue;
          uint32_t b[4];
          load_b(b, sm.k, 8 * j, k);
          mma_m16n8k16(s[j], x, {{b[0], b[1]}});
          mma_m16n8k16(s[j + 1], x, {{b[2], b[3]}});
        }
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {  // rows g and g + 8
        float max = -INFINITY;
#pragma unroll
        for (int j = 0; j < kGroups; ++j)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& x = s[j].r[2 * i + e];
            if (key_of(j, t, e) >= n) x = -INFINITY;
            max = fmaxf(max, x);
          }
        max = warp_max<4>(max);
        sum[i] = 0;
#pragma unroll
        for (int j = 0; j < kGroups; ++j) {
          if (j / 4 * 32 >= padded) continue;
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& x = s[j].r[2 * i + e];
            x = exp2_approx(fmaf(x, kScaleLog2, -max * kScaleLog2));
            sum[i] += x;
          }
        }
        sum[i] = warp_sum<4>(sum[i]);
        norm[i] = (kDrop ? a.dropout.scale : 1.0f) / sum[i];
        const int row = row0 + g + 8 * i;
        if (t == 0 && row < n) a.lse[statistic_offset(a, h) + row] = max * kScale + log_approx(sum[i]);
      }
      if constexpr (kDrop) {
#pragma unroll
        for (int i = 0; i < 2; ++i) drop(s, i, row0 + g + 8 * i, 0, padded, sm.draws, keep_limit(a.dropout));
      }
    }
    if (block == 0) {  // V may arrive this late
      copy_async_wait<0>();
      sync_block();
    }
    if (row0 < n) {
      FragC o[kHeadDim / 8] = {};
#pragma unroll
      for (int k = 0; k < kShortLen / 16; ++k)
        if (16 * k < padded) multiply_add(o, as_a(s[2 * k], s[2 * k + 1]), sm.v, 16 * k);
      store_rows(o, norm, sm.q, row0, a.context + context_offset(a, h) + static_cast<int64_t>(row0) * hidden, hidden, n - row0,
                 GradMode::write);
    }
  }
}

// ---- forward, streaming: a block takes 128 queries, a warp 32 of them; K and V pass by in tiles of 64 keys.

constexpr int kForwardQueries = 128, kWarpQueries = 32;

struct ForwardShared {
  Row q[kForwardQueries];
  Row k[2 * kTile], v[2 * kTile];  // two tiles
  Draws draws;
};

template <bool kDrop> __global__ void __launch_bounds__(kForwardThreads, 2) attention_forward_kernel(Args a) {
  constexpr int kGroups = kTile / 8, kBlocks = kWarpQueries / 16;
  auto& sm = block_shared<ForwardShared>();
  const Head h = head_of_block(a);
  if (h.tile == 0) clear_spare_context<kForwardThreads>(a, h);
  const int lane = lane_index(), g = lane / 4, t = lane % 4, n = h.length, query0 = h.tile * kForwardQueries;
  if (query0 >= n) return;
  const int hidden = a.heads * kHeadDim, stride = 3 * hidden, row0 = kWarpQueries * warp_index();
  const bf16* source = thread_source(a.qkv + qkv_offset(a, h) + hidden, stride);  // of the next tile of K
  const auto load_tile = [&](int tile) {
    load_rows<kForwardThreads, kTile, RowOrder::by_call>(sm.k + tile % 2 * kTile, source, stride, kTile, n - tile * kTile);
    load_rows<kForwardThreads, kTile, RowOrder::by_call>(sm.v + tile % 2 * kTile, source + hidden, stride, kTile, n - tile * kTile);
    copy_async_commit();
    source += kTile * stride;
  };
  load_rows<kForwardThreads, kForwardQueries, RowOrder::natural>(sm.q, source - hidden + static_cast<int64_t>(query0) * stride, stride,
                                                                 kForwardQueries, n - query0);
  load_tile(0);
  if (kDrop && thread_index().x == 0) sm.draws = Draws::of(a, h);

  FragC o[kBlocks][kHeadDim / 8] = {};
  float max[kBlocks][2], sum[kBlocks][2] = {};
#pragma unroll
  for (int m = 0; m < kBlocks; ++m) max[m][0] = max[m][1] = -INFINITY;
#pragma unroll 1
  for (int tile = 0; tile * kTile < n; ++tile) {
    copy_async_wait<0>();
    sync_block();  // the tile is here, and nobody reads the other buffer any more
    if ((tile + 1) * kTile < n) load_tile(tile + 1);
    if (query0 + row0 >= n) continue;
    const int key0 = tile * kTile;

    FragC s[kBlocks][kGroups] = {};
#pragma unroll
    for (int k = 0; k < kHeadDim / 16; ++k) {
      FragA x[kBlocks];
#pragma unroll
      for (int m = 0; m < kBlocks; ++m) x[m] = load_a(sm.q, row0 + 16 * m, k);
#pragma unroll
      for (int j = 0; j < kGroups; j += 2) {
        uint32_t b[4];
        load_b(b, sm.k, tile % 2 * kTile + 8 * j, k);
#pragma unroll
        for (int m = 0; m < kBlocks; ++m) {
          mma_m16n8k16(s[m][j], x[m], {{b[0], b[1]}});
          mma_m16n8k16(s[m][j + 1], x[m], {{b[2], b[3]}});
        }
      }
    }
    if (key0 + kTile > n)
#pragma unroll
      for (int m = 0; m < kBlocks; ++m)
#pragma unroll
        for (int j = 0; j < kGroups; ++j)
#pragma unroll
          for (int e = 0; e < 4; ++e)
            if (key0 + key_of(j, t, e % 2) >= n) s[m][j].r[e] = -INFINITY;
#pragma unroll
    for (int m = 0; m < kBlocks; ++m)
#pragma unroll
      for (int i = 0; i < 2; ++i) {  // rows g and g + 8
        float top = max[m][i];
#pragma unroll
        for (int j = 0; j < kGroups; ++j) top = fmaxf(top, fmaxf(s[m][j].r[2 * i], s[m][j].r[2 * i + 1]));
        top = warp_max<4>(top);  // finite: every tile has a key
        const float correction = exp2_approx((max[m][i] - top) * kScaleLog2);
        max[m][i] = top;
        sum[m][i] *= correction;  // this lane's part of it
#pragma unroll
        for (int d = 0; d < kHeadDim / 8; ++d)
#pragma unroll
          for (int e = 0; e < 2; ++e) o[m][d].r[2 * i + e] *= correction;
#pragma unroll
        for (int j = 0; j < kGroups; ++j)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& x = s[m][j].r[2 * i + e];
            x = exp2_approx(fmaf(x, kScaleLog2, -top * kScaleLog2));
            sum[m][i] += x;
          }
        if constexpr (kDrop) drop(s[m], i, query0 + row0 + 16 * m + g + 8 * i, key0, kTile, sm.draws, keep_limit(a.dropout));
      }
#pragma unroll
    for (int k = 0; k < kTile / 16; ++k) {
      FragA p[kBlocks];
#pragma unroll
      for (int m = 0; m < kBlocks; ++m) p[m] = as_a(s[m][2 * k], s[m][2 * k + 1]);
#pragma unroll
      for (int d = 0; d < kHeadDim / 16; ++d) {
        uint32_t b[4];
        load_b_transposed(b, sm.v, tile % 2 * kTile + 16 * k, d);
#pragma unroll
        for (int m = 0; m < kBlocks; ++m) {
          mma_m16n8k16(o[m][2 * d], p[m], {{b[0], b[1]}});
          mma_m16n8k16(o[m][2 * d + 1], p[m], {{b[2], b[3]}});
        }
      }
    }
  }
#pragma unroll
  for (int m = 0; m < kBlocks; ++m) {
    const int first = query0 + row0 + 16 * m;
    if (first >= n) continue;
    float norm[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float total = warp_sum<4>(sum[m][i]);
      norm[i] = (kDrop ? a.dropout.scale : 1.0f) / total;
      if (t == 0 && first + g + 8 * i < n) a.lse[statistic_offset(a, h) + first + g + 8 * i] = max[m][i] * kScale + log_approx(total);
    }
    store_rows(o[m], norm, sm.q, row0 + 16 * m, a.context + context_offset(a, h) + static_cast<int64_t>(first) * hidden, hidden, n - first,
               GradMode::write);
  }
}

// ---- backward

constexpr int kBackwardThreads = 256, kBackwardRows = 128;

// Bits that say what dropout keeps, for queries in pairs: bit 16 e + b of mask[w][i] is query query0 + 2 i + e, key key0 + 16 w + b.
template <int kThreads, int kWarps, int kPairs>
__device__ inline void draw_mask(uint32_t (&mask)[kWarps][kPairs], int query0, int key0, int n, const Draws& draws, uint32_t limit) {
  for (int i = thread_index().x; i < kWarps * kPairs; i += kThreads) {
    const int w = i / kPairs, pair = i % kPairs, query = query0 + 2 * pair, key = key0 + 16 * w;
    uint32_t word = 0;
    if (query < n && key < n)
#pragma unroll 1
      for (int call = 0; call < 4; ++call)
        word |= kept_slots(draws, query + call / 2, key / 8 + call % 2, limit) << 8 * call;
    mask[w][pair] = word;
  }
}

// A warp's 16 keys against kQueries queries (16 or 32): adds to dK (without the factor kScale) and dV (without the keep scale), and leaves dSᵀ.
// Sᵀ = K Qᵀ has keys as rows, so that Pᵀ and dSᵀ are left operands as they stand.
struct KeyStep {
  Row *k, *v;               // the warp's keys: rows row0 to row0 + 15
  int row0;                 // where a row is no key its results are no numbers either
  const Row *q, *dout;      // the queries: rows query_row and on, and so with what follows
  int query_row;
  const float *lse, *delta;  // lse by log2(e), infinite where there is no query
  const uint32_t* mask;     // draw_mask's words of the warp's keys, for these queries
  float keep_scale;
};
template <int kQueries, bool kDrop>
__device__ inline void key_step(const KeyStep& step, FragC (&dk)[kHeadDim / 8], FragC (&dv)[kHeadDim / 8], FragA (&ds)[kQueries / 16]) {
  constexpr int kGroups = kQueries / 8;
  const int lane = lane_index(), g = lane / 4, t = lane % 4;
  FragC p[kGroups] = {}, dp[kGroups] = {};
  multiply_transposed(dp, step.v, step.row0, step.dout, step.query_row);
  multiply_transposed(p, step.k, step.row0, step.q, step.query_row);
#pragma unroll
  for (int j = 0; j < kGroups; ++j) {
    const Vec<float, 2> lse = load_vec<2>(step.lse + step.query_row + 8 * j + 2 * t), delta = load_vec<2>(step.delta + step.query_row + 8 * j + 2 * t);
    const uint32_t bits = kDrop ? step.mask[4 * j + t] >> g : 0;
#pragma unroll
    for (int i = 0; i < 2; ++i)  // keys g and g + 8
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float &x = p[j].r[2 * i + e], &y = dp[j].r[2 * i + e];
        const float probability = exp2_approx(fmaf(x, kScaleLog2, -lse[e]));
        const bool kept = !kDrop || (bits >> (16 * e + 8 * i) & 1) != 0;
        x = kept ? probability : 0.0f;
        y = probability * ((kept ? y * step.keep_scale : 0.0f) - delta[e]);
      }
  }
#pragma unroll
  for (int k = 0; k < kQueries / 16; ++k) multiply_add(dv, as_a(p[2 * k], p[2 * k + 1]), step.dout, step.query_row + 16 * k);
#pragma unroll
  for (int k = 0; k < kQueries / 16; ++k) {
    ds[k] = as_a(dp[2 * k], dp[2 * k + 1]);
    multiply_add(dk, ds[k], step.q, step.query_row + 16 * k);
  }
}

// Short: eight warps. Warp w takes keys 16 w against all queries, for dK and dV; dSᵀ meets in shared memory and the warp takes queries
// 16 w for dQ. Traffic: qkv, context, dcontext, lse once, dqkv once.
constexpr int kShortStep = 16;  // queries; more of them do not fit 128 registers

struct ShortBackwardShared {
  Row q[kShortLen], k[kShortLen], v[kShortLen], dout[kShortLen];
  bf16 ds[kShortLen][kShortLen];  // [key][query], swizzled as the others
  float lse[kShortLen], delta[kShortLen];
  uint32_t mask[kShortLen / 16][kShortLen / 2];
};

template <bool kDrop> __global__ void __launch_bounds__(kBackwardThreads, 2) attention_backward_short_kernel(Args a) {
  auto& sm = block_shared<ShortBackwardShared>();
  const Head h = head_of_block(a);
  const int lane = lane_index(), g = lane / 4, t = lane % 4, n = h.length, row0 = 16 * warp_index();
  const int hidden = a.heads * kHeadDim, stride = 3 * hidden;
  const int padded = ceil_div(n, kShortStep) * kShortStep;
  const bf16* source = thread_source(a.qkv + qkv_offset(a, h), stride);
  load_rows<kBackwardThreads, kBackwardRows, RowOrder::natural>(sm.dout, thread_source(a.dcontext + context_offset(a, h), hidden), hidden, padded, n);
  load_rows<kBackwardThreads, kBackwardRows, RowOrder::natural>(sm.q, source, stride, padded, n);
  load_rows<kBackwardThreads, kBackwardRows, RowOrder::natural>(sm.k, source + hidden, stride, padded, n);
  load_rows<kBackwardThreads, kBackwardRows, RowOrder::natural>(sm.v, source + 2 * hidden, stride, padded, n);
  copy_async_commit();
  RowDots dots;
  dots.load(a.context + context_offset(a, h) + static_cast<int64_t>(row0) * hidden, hidden, n - row0);
  for (int i = thread_index().x; i < padded; i += kBackwardThreads) sm.lse[i] = i < n ? a.lse[statistic_offset(a, h) + i] * kLog2E : INFINITY;
  clear_spare_gradient<kBackwardThreads>(a, h);
  if constexpr (kDrop) draw_mask<kBackwardThreads>(sm.mask, 0, 0, n, Draws::of(a, h), keep_limit(a.dropout));
  copy_async_wait<0>();
  sync_block();
  if (row0 < padded) dots.finish(sm.dout, row0, sm.delta + row0, nullptr, 0);
  sync_block();

  if (row0 < n) {
    FragC dk[kHeadDim / 8] = {}, dv[kHeadDim / 8] = {};
#pragma unroll 1
    for (int query0 = 0; query0 < n; query0 += kShortStep) {
      FragA ds[kShortStep / 16];
      key_step<kShortStep, kDrop>({.k = sm.k,
                       .v = sm.v,
                       .row0 = row0,
                       .q = sm.q,
                       .dout = sm.dout,
                       .query_row = query0,
                       .lse = sm.lse,
                       .delta = sm.delta,
                       .mask = sm.mask[warp_index()] + query0 / 2,
                       .keep_scale = a.dropout.scale},
                      dk, dv, ds);
#pragma unroll
      for (int j = 0; j < kShortStep / 8; ++j)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int key = row0 + g + 8 * i;
          const uint32_t pair = key < n ? ds[j / 2].r[j % 2 * 2 + i] : 0;
          store_pair(*sm.ds + (key * kShortLen + ((query0 / 8 + j) ^ g) * 8 + 2 * t), pair);
        }
    }
    store_rows(dk, {kScale, kScale}, sm.v, row0, gradient_row(a, row0) + hidden, stride, n - row0, a.mode);
    store_rows(dv, {a.dropout.scale, a.dropout.scale}, sm.v, row0, gradient_row(a, row0) + 2 * hidden, stride, n - row0, a.mode);
  }
  sync_block();
  if (row0 < n) {
    FragC dq[kHeadDim / 8] = {};
#pragma unroll 1
    for (int key0 = 0; key0 < n; key0 += 16) {
      FragA ds;
      const int key = key0 + lane / 16 * 8 + lane % 8;
      ldmatrix_x4<true>(ds.r, sm.ds[key] + ((row0 / 8 + lane / 8 % 2) ^ key % 8) * 8);
      multiply_add(dq, ds, sm.k, key0);
    }
    store_rows(dq, {kScale, kScale}, sm.q, row0, gradient_row(a, row0), stride, n - row0, a.mode);
  }
}

// Streaming, dQ: a block takes 64 queries, a warp 16 of them, and K and V pass by as in forward; 32 keys at a time. Also leaves delta.
constexpr int kQueryThreads = 128, kQueryRows = 64;

struct QueriesShared {
  Row q[kQueryRows], dout[kQueryRows];
  Row k[2 * kTile], v[2 * kTile];  // two tiles
  float delta[kQueryRows];
  Draws draws;
};

template <bool kDrop> __global__ void __launch_bounds__(kQueryThreads, 3) attention_backward_queries_kernel(Args a) {
  constexpr int kGroups = 4;
  auto& sm = block_shared<QueriesShared>();
  const Head h = head_of_block(a);
  if (h.tile == 0) clear_spare_gradient<kQueryThreads>(a, h);
  const int lane = lane_index(), g = lane / 4, t = lane % 4, n = h.length, query0 = h.tile * kQueryRows;
  if (query0 >= n) return;
  const int hidden = a.heads * kHeadDim, stride = 3 * hidden, row0 = 16 * warp_index(), first = query0 + row0;
  const bf16* source = thread_source(a.qkv + qkv_offset(a, h) + hidden, stride);  // of the next tile of K
  const auto load_tile = [&](int tile) {
    load_rows<kQueryThreads, kTile, RowOrder::by_call>(sm.k + tile % 2 * kTile, source, stride, kTile, n - tile * kTile);
    load_rows<kQueryThreads, kTile, RowOrder::by_call>(sm.v + tile % 2 * kTile, source + hidden, stride, kTile, n - tile * kTile);
    copy_async_commit();
    source += kTile * stride;
  };
  load_rows<kQueryThreads, kQueryRows, RowOrder::natural>(sm.q, source - hidden + static_cast<int64_t>(query0) * stride, stride, kQueryRows, n - query0);
  load_rows<kQueryThreads, kQueryRows, RowOrder::natural>(
      sm.dout, thread_source(a.dcontext + context_offset(a, h) + static_cast<int64_t>(query0) * hidden, hidden),
      hidden, kQueryRows, n - query0);
  copy_async_commit();
  load_tile(0);
  float lse[2], delta[2];
  {
    RowDots dots;
    dots.load(a.context + context_offset(a, h) + static_cast<int64_t>(first) * hidden, hidden, n - first);
#pragma unroll
    for (int i = 0; i < 2; ++i) lse[i] = first + g + 8 * i < n ? a.lse[statistic_offset(a, h) + first + g + 8 * i] * kLog2E : INFINITY;
    copy_async_wait<1>();
    sync_block();
    dots.finish(sm.dout, row0, sm.delta + row0, a.delta + statistic_offset(a, h) + first, n - first);
    sync_warp();
#pragma unroll
    for (int i = 0; i < 2; ++i) delta[i] = sm.delta[row0 + g + 8 * i];
  }
  if (kDrop && thread_index().x == 0) sm.draws = Draws::of(a, h);

  FragC dq[kHeadDim / 8] = {};
#pragma unroll 1
  for (int tile = 0; tile * kTile < n; ++tile) {
    copy_async_wait<0>();
    sync_block();  // the tile is here, and nobody reads the other buffer any more
    if ((tile + 1) * kTile < n) load_tile(tile + 1);
    if (first >= n) continue;
#pragma unroll 1
    for (int key0 = tile * kTile; key0 < n && key0 < (tile + 1) * kTile; key0 += 8 * kGroups) {
      const int key_row = tile % 2 * kTile + key0 % kTile;
      uint32_t kept = 0;  // bit 8 i + 2 j + e
      if constexpr (kDrop)
#pragma unroll 1
        for (int i = 0; i < 2; ++i) kept |= kept_slots(sm.draws, first + g + 8 * i, key0 / 8 + t, keep_limit(a.dropout)) << 8 * i;
      FragC s[kGroups] = {}, dp[kGroups] = {};
      multiply_transposed(s, sm.q, row0, sm.k, key_row);
      multiply_transposed(dp, sm.dout, row0, sm.v, key_row);
#pragma unroll
      for (int i = 0; i < 2; ++i)  // queries g and g + 8
#pragma unroll
        for (int j = 0; j < kGroups; ++j)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const int at = 2 * i + e;
            const float p = key0 + key_of(j, t, e) < n ? exp2_approx(fmaf(s[j].r[at], kScaleLog2, -lse[i])) : 0.0f;
            const bool keep = !kDrop || (kept >> (8 * i + 2 * j + e) & 1) != 0;
            s[j].r[at] = p * ((keep ? dp[j].r[at] * a.dropout.scale : 0.0f) - delta[i]);
          }
#pragma unroll
      for (int j = 0; j < kGroups / 2; ++j) multiply_add(dq, as_a(s[2 * j], s[2 * j + 1]), sm.k, key_row + 16 * j);
    }
  }
  if (first < n)
    store_rows(dq, {kScale, kScale}, sm.q, row0, gradient_row(a, first), stride, n - first, a.mode);
}

// Streaming, dK and dV: a block takes 64 keys, a warp 16 of them; Q, dO and their statistics pass by in tiles of 64 queries.
constexpr int kKeyThreads = 128, kKeyRows = 64, kKeyStep = 32;

struct KeysShared {
  Row k[kKeyRows], v[kKeyRows];
  Row q[2 * kTile], dout[2 * kTile];  // two tiles
  float lse[2 * kTile], delta[2 * kTile];
  uint32_t mask[2][kKeyRows / 16][kTile / 2];
  Draws draws;
};

template <bool kDrop> __global__ void __launch_bounds__(kKeyThreads, 3) attention_backward_keys_kernel(Args a) {
  auto& sm = block_shared<KeysShared>();
  const Head h = head_of_block(a);
  const int n = h.length, block_key0 = h.tile * kKeyRows;
  if (block_key0 >= n) return;
  const int hidden = a.heads * kHeadDim, stride = 3 * hidden, row0 = 16 * warp_index(), first = block_key0 + row0;
  if (kDrop && thread_index().x == 0) sm.draws = Draws::of(a, h);
  const bf16* q_source = thread_source(a.qkv + qkv_offset(a, h), stride);  // of the next tile
  const bf16* dout_source = thread_source(a.dcontext + context_offset(a, h), hidden);
  load_rows<kKeyThreads, kKeyRows, RowOrder::natural>(sm.k, q_source + hidden + static_cast<int64_t>(block_key0) * stride, stride, kKeyRows,
                                                n - block_key0);
  load_rows<kKeyThreads, kKeyRows, RowOrder::natural>(sm.v, q_source + 2 * hidden + static_cast<int64_t>(block_key0) * stride, stride, kKeyRows,
                                                n - block_key0);
  // Threads 0 to 63 bring lse, the next 64 delta.
  const int thread = thread_index().x;
  static_assert(kKeyThreads == 2 * kTile);
  const bool brings_lse = thread < kTile;
  const float* statistic = (brings_lse ? a.lse : a.delta) + statistic_offset(a, h) + thread % kTile;
  const auto load_statistic = [&](int tile) {
    return tile * kTile + thread % kTile < n ? statistic[tile * kTile] * (brings_lse ? kLog2E : 1.0f) : brings_lse ? INFINITY : 0.0f;
  };
  const auto keep_statistic = [&](int tile, float value) {
    float* const to = brings_lse ? sm.lse : sm.delta;  // not (… ? … : …)[…]: g++ 12 with -fsanitize=undefined writes to a copy
    to[tile % 2 * kTile + thread % kTile] = value;
  };
  const auto load_tile = [&](int tile) {
    const int query0 = tile * kTile;
    load_rows<kKeyThreads, kTile, RowOrder::natural>(sm.q + tile % 2 * kTile, q_source, stride, kTile, n - query0);
    load_rows<kKeyThreads, kTile, RowOrder::natural>(sm.dout + tile % 2 * kTile, dout_source, hidden, kTile, n - query0);
    copy_async_commit();
    q_source += kTile * stride;
    dout_source += kTile * hidden;
  };
  const auto draw_tile = [&](int tile, const Draws& draws) {
    if constexpr (kDrop) draw_mask<kKeyThreads>(sm.mask[tile % 2], tile * kTile, block_key0, n, draws, keep_limit(a.dropout));
  };
  load_tile(0);
  if constexpr (kDrop) draw_tile(0, Draws::of(a, h));
  keep_statistic(0, load_statistic(0));

  FragC dk[kHeadDim / 8] = {}, dv[kHeadDim / 8] = {};
#pragma unroll 1
  for (int tile = 0; tile * kTile < n; ++tile) {
    copy_async_wait<0>();
    sync_block();  // the tile is here, and nobody reads the other buffers any more
    const bool more = (tile + 1) * kTile < n;
    float next = 0;
    if (more) {
      next = load_statistic(tile + 1);
      load_tile(tile + 1);
      draw_tile(tile + 1, sm.draws);
      if (kDrop) keep_statistic(tile + 1, next);  // the draws have covered its latency
    }
    if (first < n)
#pragma unroll 1
      for (int query0 = 0; query0 < kTile && tile * kTile + query0 < n; query0 += kKeyStep) {
        FragA ds[kKeyStep / 16];
        key_step<kKeyStep, kDrop>({.k = sm.k,
                         .v = sm.v,
                         .row0 = row0,
                         .q = sm.q,
                         .dout = sm.dout,
                         .query_row = tile % 2 * kTile + query0,
                         .lse = sm.lse,
                         .delta = sm.delta,
                         .mask = sm.mask[tile % 2][warp_index()] + query0 / 2,
                         .keep_scale = a.dropout.scale},
                        dk, dv, ds);
      }
    if (!kDrop && more) keep_statistic(tile + 1, next);
  }
  if (first >= n) return;
  bf16* const dqkv = gradient_row(a, first);
  store_rows(dk, {kScale, kScale}, sm.k, row0, dqkv + hidden, stride, n - first, a.mode);
  store_rows(dv, {a.dropout.scale, a.dropout.scale}, sm.v, row0, dqkv + 2 * hidden, stride, n - first, a.mode);
}

// ---- launchers

bool on_hopper(const Args& args, int64_t max_seq_len) {
  return max_seq_len >= kLeastSm90 && args.rows > 0 && gpu::compute_capability() / 10 == 9;
}

void forward_bf16(Args args, int64_t max_seq_len, Stream& stream) {
  if (on_hopper(args, max_seq_len)) return forward_sm90(args, max_seq_len, gpu::multiprocessors(), stream);
  const bool is_short = max_seq_len <= kShortLen;
  args.tiles = is_short ? 1 : tiles_of(max_seq_len, kForwardQueries);
  const Grid grid = grid_of(args.sequences, args.tiles, args.heads);
  dispatch_bool(args.dropout.threshold != 0, [&]<bool kDrop>() {
    if (is_short) launch(attention_forward_short_kernel<kDrop>, grid, {kForwardThreads}, sizeof(ShortForwardShared), stream.handle(), args);
    else launch(attention_forward_kernel<kDrop>, grid, {kForwardThreads}, sizeof(ForwardShared), stream.handle(), args);
  });
}

void backward_bf16(Args args, int64_t max_seq_len, Stream& stream) {
  if (on_hopper(args, max_seq_len)) return backward_sm90(args, max_seq_len, gpu::multiprocessors(), stream);
  const bool is_short = max_seq_len <= kShortLen;
  args.tiles = is_short ? 1 : tiles_of(max_seq_len, kQueryRows);
  const Grid grid = grid_of(args.sequences, args.tiles, args.heads);
  dispatch_bool(args.dropout.threshold != 0, [&]<bool kDrop>() {
    if (is_short) {
      launch(attention_backward_short_kernel<kDrop>, grid, {kBackwardThreads}, sizeof(ShortBackwardShared), stream.handle(), args);
    } else {
      launch(attention_backward_queries_kernel<kDrop>, grid, {kQueryThreads}, sizeof(QueriesShared), stream.handle(), args);
      static_assert(kKeyRows == kQueryRows);
      launch(attention_backward_keys_kernel<kDrop>, grid, {kKeyThreads}, sizeof(KeysShared), stream.handle(), args);
    }
  });
}

template <class A> void check(const A& a) {
  const std::string op = "attention";
  const int64_t rows = a.qkv.rows(), hidden = a.qkv.cols() / 3;
  if (a.num_heads < 1 || a.qkv.cols() % (3 * a.num_heads) != 0)
    throw ShapeError(op, "qkv has shape " + a.qkv.shape.str() + ", expected columns divisible by 3 times " + std::to_string(a.num_heads) + " heads");
  if (hidden != a.num_heads * kHeadDim)
    throw ShapeError(op, "head_dim is " + std::to_string(hidden / a.num_heads) + ", expected " + std::to_string(kHeadDim) + " on this device");
  check_dtype(op, "sequence_offsets", a.sequence_offsets.dtype, DType::i32);
  if (a.sequence_offsets.size() < 1) throw ShapeError(op, "sequence_offsets is empty, expected at least one offset");
  check_shape(op, "context", a.context.shape, {rows, hidden});
  check_shape(op, "lse", a.lse.shape, {a.num_heads, rows});
  check_dtype(op, "context", a.context.dtype, a.qkv.dtype);
  check_dtype(op, "lse", a.lse.dtype, DType::f32);
  if (a.dropout.active() && a.state == nullptr) throw ConfigError(op, "expected a step state, got none");
  const size_t needed = attention_workspace<Backend::cuda>(rows, a.num_heads, kHeadDim, a.max_seq_len, 1, a.qkv.dtype);
  if (needed > 0 && a.workspace.bytes() < needed)
    throw ShapeError(op, "workspace has " + std::to_string(a.workspace.bytes()) + " bytes, expected at least " + std::to_string(needed));
}

template <class T, class A> attention::Args<T> arguments(const A& a) {
  attention::Args<T> args{};
  args.qkv = a.qkv.template as<T>();
  args.context = a.context.template as<T>();
  args.lse = a.lse.template as<float>();
  args.sequences = Sequences::of(a.sequence_offsets);
  args.state = a.state;
  args.dropout = DropoutArgs::of(a.dropout);
  args.rows = static_cast<int>(a.qkv.rows());
  args.heads = static_cast<int>(a.num_heads);
  return args;
}

}  // namespace

// delta, which the two kernels of a streaming backward share.
template <> size_t attention_workspace<Backend::cuda>(int64_t rows, int64_t num_heads, int64_t, int64_t max_seq_len, int, DType dtype) {
  return dtype == DType::bf16 && max_seq_len <= kShortLen ? 0 : static_cast<size_t>(rows * num_heads) * sizeof(float);
}

template <> void attention_forward<Backend::cuda>(const AttentionForward& args, Stream& stream) {
  check(args);
  dispatch_float("attention", args.qkv.dtype, [&]<class T>() {
    const attention::Args<T> a = arguments<T>(args);
    if constexpr (std::is_same_v<T, float>) forward_f32(a, args.max_seq_len, stream);
    else forward_bf16(a, args.max_seq_len, stream);
  });
}

template <> void attention_backward<Backend::cuda>(const AttentionBackward& args, Stream& stream) {
  check(args);
  check_shape("attention", "dcontext", args.dcontext.shape, args.context.shape);
  check_dtype("attention", "dcontext", args.dcontext.dtype, args.qkv.dtype);
  if (args.dqkv_mode == GradMode::none) return;
  check_shape("attention", "dqkv", args.dqkv.shape, args.qkv.shape);
  check_dtype("attention", "dqkv", args.dqkv.dtype, args.qkv.dtype);
  dispatch_float("attention", args.qkv.dtype, [&]<class T>() {
    attention::Args<T> a = arguments<T>(args);
    a.dcontext = args.dcontext.as<T>();
    a.dqkv = args.dqkv.as<T>();
    a.delta = args.workspace.as<float>();
    a.mode = args.dqkv_mode;
    if constexpr (std::is_same_v<T, float>) backward_f32(a, args.max_seq_len, stream);
    else backward_bf16(a, args.max_seq_len, stream);
  });
}

}  // namespace electra
