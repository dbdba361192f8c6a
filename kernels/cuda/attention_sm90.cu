// Attention on Hopper, bf16 with fp32 sums, for max_seq_len from 256: the same mathematics and draws as attention.cu. Compiled for sm_90a alone.
//
// A grid of one block a multiprocessor takes items: 128 rows of a head (queries; keys in the kernel of dK and dV). A block has three warpgroups. Two
// multiply with wgmma, 64 rows each: the item's rows are the left operand, tiles of the other side, which pass by, the right one. Of the third one warp
// copies, by TMA into rings of buffers, through items without a pause, and the rest only gives up its registers. P and dS leave the accumulators in the layout of a
// left operand and stay in registers. The products of a step run while the warpgroup computes the exponentials of another.
//
// A TMA box may take rows beyond the sequence's end: those of its neighbour, of nobody, or (zero) beyond the matrix. Where they are rows of an
// output they are not stored; where they are summands the copying warp overwrites them with 0, so that not even a NaN in them is seen.
//
// Traffic, in operands of n rows (128 n bytes) a head: forward reads Q once, K and V n / 128 times, writes O once. Backward reads Q, dO, O once
// and K, V n / 128 times for dQ; K, V once and Q, dO n / 128 times for dK, dV; writes three. What is read again comes from the second-level cache.
#include <algorithm>

#include "kernels/cuda/attention.cuh"
#include "kernels/device_sm90.cuh"

namespace electra::cuda::attention {
namespace {

constexpr int kWarpgroups = 2, kWarps = 4 * kWarpgroups;  // that multiply; the next warp copies
constexpr int kMultiplyThreads = kWarpgroups * kWarpgroupSize, kThreads = kMultiplyThreads + kWarpgroupSize;
// Registers a thread: at most 168 when the block starts; the last warpgroup, of which one warp works, gives most of its own to the others.
constexpr int kCopyRegisters = 40, kMultiplyRegisters = 232;
static_assert(kCopyRegisters + kWarpgroups * kMultiplyRegisters <= 3 * 168);
constexpr int kGroupRows = 64, kItemRows = kWarpgroups * kGroupRows;
constexpr int kBoxRows = 64;  // of the tensor maps
constexpr int kStages = 3, kItems = 2;  // buffers of the rings of tiles and of items
constexpr int kForwardKeys = 128, kBackwardTile = 64;  // rows of a tile

// ---- rings of buffers

// A ring's barriers: `full` counts one arrival and bytes, `empty` the warps that multiply.
template <int kCount> struct Ring {
  MBarrier full[kCount], empty[kCount];
  __device__ void init() {
    for (int i = 0; i < kCount; ++i) {
      mbarrier_init(full[i], 1);
      mbarrier_init(empty[i], kWarps);
    }
  }
};
// The buffer that is next, and the parity of its phase.
template <int kCount> struct Turn {
  int at = 0, parity = 0;
  __device__ void next() {
    if (++at < kCount) return;
    at = 0;
    parity ^= 1;
  }
};
// Waits for a buffer: to read it; to fill it.
template <int kCount> __device__ inline void wait_full(Ring<kCount>& ring, const Turn<kCount>& turn, Site at = Site::current()) {
  mbarrier_wait(ring.full[turn.at], turn.parity, at);
}
template <int kCount> __device__ inline void wait_empty(Ring<kCount>& ring, const Turn<kCount>& turn, Site at = Site::current()) {
  mbarrier_wait(ring.empty[turn.at], turn.parity ^ 1, at);
}
// By a warp that multiplies: it has read the buffer.
template <int kCount> __device__ inline void release(Ring<kCount>& ring, const Turn<kCount>& turn, Site at = Site::current()) {
  sync_warp(at);
  if (lane_index() == 0) mbarrier_arrive(ring.empty[turn.at], at);
}

template <class Shared> __device__ inline void start_block(Shared& sm) {
  if (thread_index().x == 0) {
    sm.init();
    mbarrier_fence_init();
  }
  sync_block();
}

struct Item {
  Head head;  // length 0: there is none
  Draws draws;
};

// ---- the warp that copies

// The block's items in order: those of a head run next to each other, so that they find its rows in the second-level cache.
template <class Body> __device__ inline void for_items(const Args<bf16>& a, Body body) {
  const int count = a.sequences.count * a.heads * a.tiles;
#pragma unroll 1
  for (int i = block_index().x; i < count; i += grid_size().x) {
    Head h{};
    h.tile = i % a.tiles;
    h.head = i / a.tiles % a.heads;
    h.sequence = i / a.tiles / a.heads;
    h.begin = a.sequences.offsets[h.sequence];
    h.length = a.sequences.offsets[h.sequence + 1] - h.begin;
    if (h.tile * kItemRows < h.length) body(h);
  }
}
// By one lane: starts to copy kRows rows of 64 columns.
template <int kRows> __device__ inline void copy_rows(Row* to, const TensorMap& map, int column, int row, MBarrier& barrier) {
#pragma unroll
  for (int r = 0; r < kRows; r += kBoxRows) tma_load(to + r, map, column, row + r, barrier);
}
// Zeroes rows first to count - 1, which a copy has filled.
__device__ inline void clear_rows(Row* tile, int first, int count) {
  for (int i = first * 8 + lane_index(); i < count * 8; i += kWarpSize) store_vec(tile[i / 8] + i % 8 * 8, Vec<bf16, 8>{});
}
// What a copy arrives at that is not yet for the others to see.
struct Tail {
  MBarrier& landed;
  int parity = 0;
};
// Fills a buffer: start(barrier) starts copies of `bytes` bytes, write() writes to the buffer what is not copied. Unless the tile is `whole`, finish()
// then overwrites a part of what has come. Bytes may come before they are expected: the phase cannot end before the arrival.
template <class Start, class Write, class Finish>
__device__ inline void fill(MBarrier& full, Tail& tail, int bytes, bool whole, Start start, Write write, Finish finish) {
  if (lane_index() == 0) {
    if (!whole) mbarrier_arrive_expect(tail.landed, bytes);
    start(whole ? full : tail.landed);
  }
  write();
  if (!whole) {
    mbarrier_wait(tail.landed, tail.parity);
    tail.parity ^= 1;
    finish();
    fence_async_proxy();
  }
  sync_warp();
  if (lane_index() != 0) return;
  if (whole) mbarrier_arrive_expect(full, bytes);
  else mbarrier_arrive(full);
}
// Hands over an item: start(buffer, barrier) starts the copies of its rows, `bytes` bytes.
template <class Start>
__device__ inline void hand_over(Ring<kItems>& ring, Turn<kItems>& turn, Item (&items)[kItems], const Item& item, int bytes, Start start) {
  wait_empty(ring, turn);
  if (lane_index() == 0) {
    items[turn.at] = item;
    if (bytes > 0) mbarrier_arrive_expect(ring.full[turn.at], bytes);
    else mbarrier_arrive(ring.full[turn.at]);
    start(turn.at, ring.full[turn.at]);
  }
  turn.next();
}
template <bool kDrop> __device__ inline Item item_of(const Args<bf16>& a, const Head& h) {
  Item item{h, {}};
  if constexpr (kDrop) item.draws = Draws::of(a, h);
  return item;
}
__device__ inline void hand_over_the_end(Ring<kItems>& ring, Turn<kItems>& turn, Item (&items)[kItems]) {
  hand_over(ring, turn, items, Item{}, 0, [](int, MBarrier&) {});
}

// ---- the warpgroups that multiply

// d = X Yᵀ over 64 columns: the warpgroup's 64 rows of X, N rows of Y. A group of its own.
template <int N> __device__ inline void start_product(float (&d)[N / 2], const Row* x, const Row* y) {
  register_fence(d);
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < kHeadDim; k += 16) wgmma_m64k16<N>(d, matrix_descriptor(&x[0][k]), matrix_descriptor(&y[0][k]), k > 0);
  wgmma_commit();
}
// d += A Y: A is 64 x 16 kSteps, in registers; Y has 16 kSteps rows of 64 columns. A group of its own.
template <int kSteps> __device__ inline void start_sum(float (&d)[kHeadDim / 2], const FragA (&a)[kSteps], const Row* y) {
  register_fence(d);
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < kSteps; ++k) wgmma_m64k16<kHeadDim, true>(d, a[k], matrix_descriptor(y[16 * k]), true);
  wgmma_commit();
}
// Accumulators as the left operand of the next product.
template <int kSteps> __device__ inline void as_a(FragA (&a)[kSteps], const float (&d)[8 * kSteps]) {
#pragma unroll
  for (int k = 0; k < kSteps; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i) a[k].r[i] = pack_bf16x2(d[8 * k + 2 * i], d[8 * k + 2 * i + 1]);
}

// What dropout keeps where queries are rows. A call serves eight keys, hence the four lanes that share a row: lane t draws for key groups t, t + 4, …
// of its two rows, and bit 8 m + slot of word i is group 4 m + t of row g + 8 i.
template <int kKeys> __device__ inline void draw_keys(uint32_t (&kept)[2], const Draws& draws, int query, int key0, uint32_t limit) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    kept[i] = 0;
#pragma unroll 1
    for (int m = 0; m < kKeys / 32; ++m) kept[i] |= kept_slots(draws, query + 8 * i, key0 / 8 + 4 * m + lane_index() % 4, limit) << 8 * m;
  }
}
// f(index of an accumulator, whether it is kept), for each of them.
template <int kKeys, class F> __device__ inline void for_kept(const uint32_t (&kept)[2], F f) {
  const int lane = lane_index(), t = lane % 4;
#pragma unroll
  for (int owner = 0; owner < 4; ++owner)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t word = shfl(kept[i], lane - t + owner) >> 2 * t;
#pragma unroll
      for (int m = 0; m < kKeys / 32; ++m)
#pragma unroll
        for (int e = 0; e < 2; ++e) f(4 * (4 * m + owner) + 2 * i + e, (word >> (8 * m + e) & 1) != 0);
    }
}

// The same where keys are rows: the calls of the warp's 16 keys from key0 and of two queries, the lane's pair of the tile. Bit 16 e + b is query + e, key0 + b.
__device__ inline uint32_t draw_queries(const Draws& draws, int query, int key0, uint32_t limit) {
  uint32_t kept = 0;
#pragma unroll 1
  for (int call = 0; call < 4; ++call) kept |= kept_slots(draws, query + call / 2, key0 / 8 + call % 2, limit) << 8 * call;
  return kept;
}

// Sets the scores of columns at or beyond `valid`.
template <int kCount> __device__ inline void set_beyond(float (&s)[kCount], int valid, float value) {
  if (valid >= 2 * kCount) return;
#pragma unroll
  for (int j = 0; j < kCount / 4; ++j)
#pragma unroll
    for (int e = 0; e < 4; ++e)
      if (8 * j + lane_index() % 4 * 2 + e % 2 >= valid) s[4 * j + e] = value;
}

// ---- forward

struct ForwardShared {
  alignas(1024) Row q[kItems][kItemRows];
  alignas(1024) Row k[kStages][kForwardKeys], v[kStages][kForwardKeys];
  Item item[kItems];
  Ring<kItems> items;
  Ring<kStages> keys, values;
  MBarrier tail;
  __device__ void init() {
    items.init();
    keys.init();
    values.init();
    mbarrier_init(tail, 1);
  }
};

template <bool kDrop> __device__ inline void copy_forward(ForwardShared& sm, const TensorMap& qkv, const Args<bf16>& a) {
  const int hidden = a.heads * kHeadDim;
  Turn<kItems> item;
  Turn<kStages> tile;
  Tail tail{sm.tail};
  for_items(a, [&](const Head& h) {
    const int column = h.head * kHeadDim;
    hand_over(sm.items, item, sm.item, item_of<kDrop>(a, h), sizeof sm.q[0], [&](int at, MBarrier& full) {
      copy_rows<kItemRows>(sm.q[at], qkv, column, h.begin + h.tile * kItemRows, full);
    });
#pragma unroll 1
    for (int key0 = 0; key0 < h.length; key0 += kForwardKeys, tile.next()) {
      const int row = h.begin + key0, valid = h.length - key0;
      wait_empty(sm.keys, tile);
      if (lane_index() == 0) {
        mbarrier_arrive_expect(sm.keys.full[tile.at], sizeof sm.k[0]);
        copy_rows<kForwardKeys>(sm.k[tile.at], qkv, hidden + column, row, sm.keys.full[tile.at]);
      }
      wait_empty(sm.values, tile);
      fill(
          sm.values.full[tile.at], tail, sizeof sm.v[0], valid >= kForwardKeys,
          [&](MBarrier& barrier) { copy_rows<kForwardKeys>(sm.v[tile.at], qkv, 2 * hidden + column, row, barrier); }, [] {},
          [&] { clear_rows(sm.v[tile.at], valid, kForwardKeys); });
    }
  });
  hand_over_the_end(sm.items, item, sm.item);
}

// The online softmax of a tile: scores become exp(score - max), `correction` is the factor of all sums so far. `sum` is this lane's part of it.
__device__ inline void softmax_step(float (&s)[kForwardKeys / 2], float (&max)[2], float (&sum)[2], float (&correction)[2]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {  // rows g and g + 8
    float top = max[i];
#pragma unroll
    for (int j = 0; j < kForwardKeys / 8; ++j) top = fmaxf(top, fmaxf(s[4 * j + 2 * i], s[4 * j + 2 * i + 1]));
    top = warp_max<4>(top);  // finite: every tile has a key
    correction[i] = exp2_approx((max[i] - top) * kScaleLog2);
    max[i] = top;
    sum[i] *= correction[i];
#pragma unroll
    for (int j = 0; j < kForwardKeys / 8; ++j)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& x = s[4 * j + 2 * i + e];
        x = exp2_approx(fmaf(x, kScaleLog2, -top * kScaleLog2));
        sum[i] += x;
      }
  }
}

template <bool kDrop> __device__ inline void multiply_forward(ForwardShared& sm, const Args<bf16>& a) {
  for (int head = 0; head < a.heads; ++head) clear_context<kMultiplyThreads>(a, head, spare_rows(a, block_index().x, grid_size().x));

  const int lane = lane_index(), g = lane / 4, t = lane % 4, group = warp_index() / 4, row0 = 16 * warp_index(), hidden = a.heads * kHeadDim;
  Turn<kItems> item;
  Turn<kStages> key_turn, value_turn;
  float s[kForwardKeys / 2] = {}, o[kHeadDim / 2];
#pragma unroll 1
  for (;; item.next()) {
    wait_full(sm.items, item);
    const Head h = sm.item[item.at].head;
    if (h.length == 0) return;
    const int n = h.length, first = h.tile * kItemRows + row0;
    if (h.tile * kItemRows + group * kGroupRows >= n) {  // no query: the tiles pass by
#pragma unroll 1
      for (int key0 = 0; key0 < n; key0 += kForwardKeys, key_turn.next(), value_turn.next()) {
        wait_full(sm.keys, key_turn);
        release(sm.keys, key_turn);
        wait_full(sm.values, value_turn);
        release(sm.values, value_turn);
      }
      release(sm.items, item);
      continue;
    }
    const Row* const q = sm.q[item.at] + group * kGroupRows;
    FragA p[kForwardKeys / 16];
    float max[2] = {-INFINITY, -INFINITY}, sum[2] = {}, correction[2];
    uint32_t kept[2];
    const auto draw = [&](int key0) {
      if constexpr (kDrop) draw_keys<kForwardKeys>(kept, sm.item[item.at].draws, first + g, key0, keep_limit(a.dropout));
    };
    const auto drop = [&] {
      if constexpr (kDrop) for_kept<kForwardKeys>(kept, [&](int i, bool keep) { s[i] = keep ? s[i] : 0.0f; });
    };
#pragma unroll
    for (float& x : o) x = 0;

    wait_full(sm.keys, key_turn);
    start_product<kForwardKeys>(s, q, sm.k[key_turn.at]);
    draw(0);
    wgmma_wait<0>();
    register_fence(s);
    release(sm.keys, key_turn);
    key_turn.next();
    set_beyond(s, n, -INFINITY);
    softmax_step(s, max, sum, correction);
    drop();
    as_a(p, s);
#pragma unroll 1
    for (int key0 = kForwardKeys; key0 < n; key0 += kForwardKeys) {
      wait_full(sm.keys, key_turn);
      start_product<kForwardKeys>(s, q, sm.k[key_turn.at]);
      wait_full(sm.values, value_turn);
      start_sum(o, p, sm.v[value_turn.at]);
      draw(key0);
      wgmma_wait<1>();  // the scores; the sum of the tile before goes on
      register_fence(s);
      release(sm.keys, key_turn);
      key_turn.next();
      set_beyond(s, n - key0, -INFINITY);
      softmax_step(s, max, sum, correction);
      drop();
      wgmma_wait<0>();
      register_fence(o);
      release(sm.values, value_turn);
      value_turn.next();
#pragma unroll
      for (int i = 0; i < kHeadDim / 2; ++i) o[i] *= correction[i / 2 % 2];
      as_a(p, s);
    }
    wait_full(sm.values, value_turn);
    start_sum(o, p, sm.v[value_turn.at]);
    wgmma_wait<0>();
    register_fence(o);
    release(sm.values, value_turn);
    value_turn.next();

    float norm[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float total = warp_sum<4>(sum[i]);
      norm[i] = (kDrop ? a.dropout.scale : 1.0f) / total;
      if (t == 0 && first + g + 8 * i < n) a.lse[statistic_offset(a, h) + first + g + 8 * i] = max[i] * kScale + log_approx(total);
    }
    sync_group(1 + group, kWarpgroupSize);  // Q has been read
    if (first < n)
      store_rows(o, norm, sm.q[item.at], row0, a.context + context_offset(a, h) + static_cast<int64_t>(first) * hidden, hidden, n - first,
                 GradMode::write);
    fence_async_proxy();  // before the copy that overwrites it
    release(sm.items, item);
  }
}

template <bool kDrop>
__global__ void __launch_bounds__(kThreads, 1) attention_forward_sm90_kernel(const __grid_constant__ TensorMap qkv, const Args<bf16> a) {
  auto& sm = block_shared<ForwardShared>();
  start_block(sm);
  if (thread_index().x >= kMultiplyThreads) {
    give_registers<kCopyRegisters>();
    if (warp_index() == kWarps) copy_forward<kDrop>(sm, qkv, a);
  } else {
    take_registers<kMultiplyRegisters>();
    multiply_forward<kDrop>(sm, a);
  }
}

// ---- backward, dQ: as forward, in tiles of 64 keys. Also leaves delta for the kernel below.

struct QueriesShared {
  alignas(1024) Row q[kItems][kItemRows], dout[kItems][kItemRows];
  alignas(1024) Row k[kStages][kBackwardTile], v[kStages][kBackwardTile];
  float delta[kItemRows];
  Item item[kItems];
  Ring<kItems> items;
  Ring<kStages> tiles;
  MBarrier tail;
  __device__ void init() {
    items.init();
    tiles.init();
    mbarrier_init(tail, 1);
  }
};

template <bool kDrop>
__device__ inline void copy_for_queries(QueriesShared& sm, const TensorMap& qkv, const TensorMap& dcontext, const Args<bf16>& a) {
  const int hidden = a.heads * kHeadDim;
  Turn<kItems> item;
  Turn<kStages> tile;
  Tail tail{sm.tail};
  for_items(a, [&](const Head& h) {
    const int column = h.head * kHeadDim, row0 = h.begin + h.tile * kItemRows;
    hand_over(sm.items, item, sm.item, item_of<kDrop>(a, h), sizeof sm.q[0] + sizeof sm.dout[0], [&](int at, MBarrier& full) {
      copy_rows<kItemRows>(sm.q[at], qkv, column, row0, full);
      copy_rows<kItemRows>(sm.dout[at], dcontext, column, row0, full);
    });
#pragma unroll 1
    for (int key0 = 0; key0 < h.length; key0 += kBackwardTile, tile.next()) {
      const int valid = h.length - key0;
      wait_empty(sm.tiles, tile);
      fill(
          sm.tiles.full[tile.at], tail, sizeof sm.k[0] + sizeof sm.v[0], valid >= kBackwardTile,
          [&](MBarrier& barrier) {
            copy_rows<kBackwardTile>(sm.k[tile.at], qkv, hidden + column, h.begin + key0, barrier);
            copy_rows<kBackwardTile>(sm.v[tile.at], qkv, 2 * hidden + column, h.begin + key0, barrier);
          },
          [] {}, [&] { clear_rows(sm.k[tile.at], valid, kBackwardTile); });
    }
  });
  hand_over_the_end(sm.items, item, sm.item);
}

template <bool kDrop> __device__ inline void multiply_for_queries(QueriesShared& sm, const Args<bf16>& a) {
  if (a.mode == GradMode::write)
    for (int head = 0; head < a.heads; ++head) clear_gradient<kMultiplyThreads>(a, head, spare_rows(a, block_index().x, grid_size().x));
  const int lane = lane_index(), g = lane / 4, group = warp_index() / 4, row0 = 16 * warp_index(), hidden = a.heads * kHeadDim;
  Turn<kItems> item;
  Turn<kStages> turn;
  float s[kBackwardTile / 2] = {}, dp[kBackwardTile / 2] = {}, dq[kHeadDim / 2];
#pragma unroll 1
  for (;; item.next()) {
    wait_full(sm.items, item);
    const Head h = sm.item[item.at].head;
    if (h.length == 0) return;
    const int n = h.length, first = h.tile * kItemRows + row0;
    if (h.tile * kItemRows + group * kGroupRows >= n) {  // no query: the tiles pass by
#pragma unroll 1
      for (int key0 = 0; key0 < n; key0 += kBackwardTile, turn.next()) {
        wait_full(sm.tiles, turn);
        release(sm.tiles, turn);
      }
      release(sm.items, item);
      continue;
    }
    float lse[2], delta[2];
    {
      RowDots dots;
      dots.load(a.context + context_offset(a, h) + static_cast<int64_t>(first) * hidden, hidden, n - first);
#pragma unroll
      for (int i = 0; i < 2; ++i) lse[i] = first + g + 8 * i < n ? a.lse[statistic_offset(a, h) + first + g + 8 * i] * kLog2E : INFINITY;
      dots.finish(sm.dout[item.at], row0, sm.delta + row0, a.delta + statistic_offset(a, h) + first, n - first);
      sync_warp();
#pragma unroll
      for (int i = 0; i < 2; ++i) delta[i] = sm.delta[row0 + g + 8 * i];
    }
    const Row *const q = sm.q[item.at] + group * kGroupRows, *const dout = sm.dout[item.at] + group * kGroupRows;
    FragA ds[kBackwardTile / 16];
    uint32_t kept[2];
#pragma unroll
    for (float& x : dq) x = 0;
    Turn<kStages> last = turn;  // the buffer that the running sum reads
#pragma unroll 1
    for (int key0 = 0; key0 < n; key0 += kBackwardTile) {
      wait_full(sm.tiles, turn);
      start_product<kBackwardTile>(s, q, sm.k[turn.at]);
      start_product<kBackwardTile>(dp, dout, sm.v[turn.at]);
      if constexpr (kDrop) draw_keys<kBackwardTile>(kept, sm.item[item.at].draws, first + g, key0, keep_limit(a.dropout));
      wgmma_wait<1>();  // the scores, and the sum of the tile before
      register_fence(s);
      register_fence(dq);
      if (key0 > 0) release(sm.tiles, last);
#pragma unroll
      for (int i = 0; i < kBackwardTile / 2; ++i) s[i] = exp2_approx(fmaf(s[i], kScaleLog2, -lse[i / 2 % 2]));
      wgmma_wait<0>();
      register_fence(dp);
      if constexpr (kDrop) for_kept<kBackwardTile>(kept, [&](int i, bool keep) { dp[i] = keep ? dp[i] * a.dropout.scale : 0.0f; });
#pragma unroll
      for (int i = 0; i < kBackwardTile / 2; ++i) s[i] *= dp[i] - delta[i / 2 % 2];
      set_beyond(s, n - key0, 0);
      as_a(ds, s);
      start_sum(dq, ds, sm.k[turn.at]);
      last = turn;
      turn.next();
    }
    wgmma_wait<0>();
    register_fence(dq);
    release(sm.tiles, last);
    sync_group(1 + group, kWarpgroupSize);  // Q has been read
    if (first < n)
      store_rows(dq, {kScale, kScale}, sm.q[item.at], row0, a.dqkv + qkv_offset(a, h) + static_cast<int64_t>(first) * (3 * hidden), 3 * hidden,
                 n - first, a.mode);
    fence_async_proxy();  // before the copy that overwrites it
    release(sm.items, item);
  }
}

template <bool kDrop>
__global__ void __launch_bounds__(kThreads, 1)
    attention_backward_queries_sm90_kernel(const __grid_constant__ TensorMap qkv, const __grid_constant__ TensorMap dcontext, const Args<bf16> a) {
  auto& sm = block_shared<QueriesShared>();
  start_block(sm);
  if (thread_index().x >= kMultiplyThreads) {
    give_registers<kCopyRegisters>();
    if (warp_index() == kWarps) copy_for_queries<kDrop>(sm, qkv, dcontext, a);
  } else {
    take_registers<kMultiplyRegisters>();
    multiply_for_queries<kDrop>(sm, a);
  }
}

// ---- backward, dK and dV: the item's rows are keys; Q, dO and their statistics pass by in tiles of 64 queries. Sᵀ = K Qᵀ has keys as rows, so that
// Pᵀ and dSᵀ are left operands as they stand.

struct KeysShared {
  alignas(1024) Row k[kItems][kItemRows], v[kItems][kItemRows];
  alignas(1024) Row q[kStages][kBackwardTile], dout[kStages][kBackwardTile];
  float lse[kStages][kBackwardTile], delta[kStages][kBackwardTile];  // lse by log2(e), infinite where there is no query
  Item item[kItems];
  Ring<kItems> items;
  Ring<kStages> tiles;
  MBarrier tail;
  __device__ void init() {
    items.init();
    tiles.init();
    mbarrier_init(tail, 1);
  }
};

template <bool kDrop>
__device__ inline void copy_for_keys(KeysShared& sm, const TensorMap& qkv, const TensorMap& dcontext, const Args<bf16>& a) {
  const int hidden = a.heads * kHeadDim;
  Turn<kItems> item;
  Turn<kStages> tile;
  Tail tail{sm.tail};
  for_items(a, [&](const Head& h) {
    const int column = h.head * kHeadDim, row0 = h.begin + h.tile * kItemRows;
    hand_over(sm.items, item, sm.item, item_of<kDrop>(a, h), sizeof sm.k[0] + sizeof sm.v[0], [&](int at, MBarrier& full) {
      copy_rows<kItemRows>(sm.k[at], qkv, hidden + column, row0, full);
      copy_rows<kItemRows>(sm.v[at], qkv, 2 * hidden + column, row0, full);
    });
#pragma unroll 1
    for (int query0 = 0; query0 < h.length; query0 += kBackwardTile, tile.next()) {
      const int valid = h.length - query0;
      wait_empty(sm.tiles, tile);
      fill(
          sm.tiles.full[tile.at], tail, sizeof sm.q[0] + sizeof sm.dout[0], valid >= kBackwardTile,
          [&](MBarrier& barrier) {
            copy_rows<kBackwardTile>(sm.q[tile.at], qkv, column, h.begin + query0, barrier);
            copy_rows<kBackwardTile>(sm.dout[tile.at], dcontext, column, h.begin + query0, barrier);
          },
          [&] {
            const int64_t at = statistic_offset(a, h) + query0;
#pragma unroll
            for (int r = 0; r < kBackwardTile; r += kWarpSize) {
              const int i = r + lane_index();
              sm.lse[tile.at][i] = i < valid ? a.lse[at + i] * kLog2E : INFINITY;
              sm.delta[tile.at][i] = i < valid ? a.delta[at + i] : 0.0f;
            }
          },
          [&] {
            clear_rows(sm.q[tile.at], valid, kBackwardTile);
            clear_rows(sm.dout[tile.at], valid, kBackwardTile);
          });
    }
  });
  hand_over_the_end(sm.items, item, sm.item);
}

template <bool kDrop> __device__ inline void multiply_for_keys(KeysShared& sm, const Args<bf16>& a) {
  const int lane = lane_index(), g = lane / 4, t = lane % 4, group = warp_index() / 4, row0 = 16 * warp_index(), stride = 3 * a.heads * kHeadDim;
  Turn<kItems> item;
  Turn<kStages> turn;
  float p[kBackwardTile / 2] = {}, dp[kBackwardTile / 2] = {}, dk[kHeadDim / 2], dv[kHeadDim / 2];
#pragma unroll 1
  for (;; item.next()) {
    wait_full(sm.items, item);
    const Head h = sm.item[item.at].head;
    if (h.length == 0) return;
    const int n = h.length, first = h.tile * kItemRows + row0;
    if (h.tile * kItemRows + group * kGroupRows >= n) {  // no key: the tiles pass by
#pragma unroll 1
      for (int query0 = 0; query0 < n; query0 += kBackwardTile, turn.next()) {
        wait_full(sm.tiles, turn);
        release(sm.tiles, turn);
      }
      release(sm.items, item);
      continue;
    }
    Row *const k = sm.k[item.at], *const v = sm.v[item.at];
    FragA p_operand[kBackwardTile / 16], ds[kBackwardTile / 16];
#pragma unroll
    for (float& x : dk) x = 0;
#pragma unroll
    for (float& x : dv) x = 0;
    Turn<kStages> last = turn;  // the buffer that the running sums read
#pragma unroll 1
    for (int query0 = 0; query0 < n; query0 += kBackwardTile) {
      wait_full(sm.tiles, turn);
      start_product<kBackwardTile>(p, k + group * kGroupRows, sm.q[turn.at]);
      start_product<kBackwardTile>(dp, v + group * kGroupRows, sm.dout[turn.at]);
      uint32_t drawn = 0;
      if constexpr (kDrop) drawn = draw_queries(sm.item[item.at].draws, query0 + 2 * lane, first, keep_limit(a.dropout));
      wgmma_wait<1>();  // the scores, and the sums of the tile before
      register_fence(p);
      register_fence(dk);
      register_fence(dv);
      if (query0 > 0) release(sm.tiles, last);
#pragma unroll
      for (int j = 0; j < kBackwardTile / 8; ++j) {
        const Vec<float, 2> lse = load_vec<2>(sm.lse[turn.at] + 8 * j + 2 * t);
#pragma unroll
        for (int e = 0; e < 4; ++e) p[4 * j + e] = exp2_approx(fmaf(p[4 * j + e], kScaleLog2, -lse[e % 2]));
      }
      uint32_t kept[kBackwardTile / 8] = {};  // bit 16 c + 8 i of word j: column 2 t + c of group j, row g + 8 i
      if constexpr (kDrop) {
#pragma unroll
        for (int j = 0; j < kBackwardTile / 8; ++j) kept[j] = shfl(drawn, 4 * j + t) >> g;
      }
      const auto keeps_element = [&](int i) { return !kDrop || (kept[i / 4] >> (16 * (i % 2) + 8 * (i / 2 % 2)) & 1) != 0; };
#pragma unroll
      for (int m = 0; m < kBackwardTile / 16; ++m)
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          const int i = 8 * m + 2 * r;
          p_operand[m].r[r] = pack_bf16x2(keeps_element(i) ? p[i] : 0.0f, keeps_element(i + 1) ? p[i + 1] : 0.0f);
        }
      start_sum(dv, p_operand, sm.dout[turn.at]);
      wgmma_wait<1>();
      register_fence(dp);
#pragma unroll
      for (int j = 0; j < kBackwardTile / 8; ++j) {
        const Vec<float, 2> delta = load_vec<2>(sm.delta[turn.at] + 8 * j + 2 * t);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int i = 4 * j + e;
          p[i] *= (keeps_element(i) ? dp[i] * a.dropout.scale : 0.0f) - delta[e % 2];
        }
      }
      as_a(ds, p);
      start_sum(dk, ds, sm.q[turn.at]);
      last = turn;
      turn.next();
    }
    wgmma_wait<0>();
    register_fence(dk);
    register_fence(dv);
    release(sm.tiles, last);
    sync_group(1 + group, kWarpgroupSize);  // K and V have been read
    if (first < n) {
      bf16* const to = a.dqkv + qkv_offset(a, h) + static_cast<int64_t>(first) * stride + a.heads * kHeadDim;
      store_rows(dk, {kScale, kScale}, k, row0, to, stride, n - first, a.mode);
      store_rows(dv, {a.dropout.scale, a.dropout.scale}, v, row0, to + a.heads * kHeadDim, stride, n - first, a.mode);
    }
    fence_async_proxy();  // before the copies that overwrite them
    release(sm.items, item);
  }
}

template <bool kDrop>
__global__ void __launch_bounds__(kThreads, 1)
    attention_backward_keys_sm90_kernel(const __grid_constant__ TensorMap qkv, const __grid_constant__ TensorMap dcontext, const Args<bf16> a) {
  auto& sm = block_shared<KeysShared>();
  start_block(sm);
  if (thread_index().x >= kMultiplyThreads) {
    give_registers<kCopyRegisters>();
    if (warp_index() == kWarps) copy_for_keys<kDrop>(sm, qkv, dcontext, a);
  } else {
    take_registers<kMultiplyRegisters>();
    multiply_for_keys<kDrop>(sm, a);
  }
}

// ---- launchers

Grid grid_sm90(const Args<bf16>& a, int multiprocessors) { return {std::clamp(a.sequences.count * a.heads * a.tiles, 1, multiprocessors)}; }
TensorMap map_sm90(const bf16* base, const Args<bf16>& a, int columns) { return make_tensor_map(base, a.rows, columns, columns, kBoxRows); }

}  // namespace

void forward_sm90(Args<bf16> args, int64_t max_seq_len, int multiprocessors, Stream& stream) {
  args.tiles = tiles_of(max_seq_len, kItemRows);
  const TensorMap qkv = map_sm90(args.qkv, args, 3 * args.heads * kHeadDim);
  dispatch_bool(args.dropout.threshold != 0, [&]<bool kDrop>() {
    launch(attention_forward_sm90_kernel<kDrop>, grid_sm90(args, multiprocessors), {kThreads}, sizeof(ForwardShared), stream.handle(), qkv, args);
  });
}

void backward_sm90(Args<bf16> args, int64_t max_seq_len, int multiprocessors, Stream& stream) {
  args.tiles = tiles_of(max_seq_len, kItemRows);
  const Grid grid = grid_sm90(args, multiprocessors);
  const TensorMap qkv = map_sm90(args.qkv, args, 3 * args.heads * kHeadDim), dcontext = map_sm90(args.dcontext, args, args.heads * kHeadDim);
  dispatch_bool(args.dropout.threshold != 0, [&]<bool kDrop>() {
    launch(attention_backward_queries_sm90_kernel<kDrop>, grid, {kThreads}, sizeof(QueriesShared), stream.handle(), qkv, dcontext, args);
    launch(attention_backward_keys_sm90_kernel<kDrop>, grid, {kThreads}, sizeof(KeysShared), stream.handle(), qkv, dcontext, args);
  });
}

}  // namespace electra::cuda::attention
