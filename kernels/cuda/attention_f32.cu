// Attention in fp32 throughout, for tests of the algorithm and of whole models; training uses the bf16 kernels of attention.cu.
// A block takes 32 rows of a head (queries, or keys in the dK dV kernel) and walks through tiles of 32 of the other side in shared
// memory. Four neighbouring threads share a row: each computes the scores of 8 columns, one call of draws, and 16 of the 64
// output columns. Online softmax (Dao, FlashAttention-2, 2023), exponentials by expf.
#include "kernels/cuda/attention.cuh"

namespace electra::cuda::attention {
namespace {

constexpr int kTile = 32, kParts = 4, kThreads = kTile * kParts;
constexpr int kKeysPerThread = kTile / kParts, kColumnsPerThread = kHeadDim / kParts;
constexpr int kStride = kHeadDim + 4;  // floats: the rows that eight lanes read begin in different banks

using Tile = float[kTile][kStride];

// Rows at or beyond `valid` become 0.
__device__ inline void load_tile(Tile& tile, const float* from, int64_t stride, int valid) {
  for (int i = thread_index().x; i < kTile * kHeadDim / 4; i += kThreads) {
    const int row = i / (kHeadDim / 4), column = i % (kHeadDim / 4) * 4;
    store_vec(&tile[row][column], row < valid ? load_vec<4>(from + row * stride + column) : Vec<float, 4>{});
  }
}
__device__ inline float dot(const float* a, const float* b) {
  float sum = 0;
  for (int d = 0; d < kHeadDim; ++d) sum = fmaf(a[d], b[d], sum);
  return sum;
}
// out += sum of weight[r] rows[r][columns of the thread]
__device__ inline void add_rows(float (&out)[kColumnsPerThread], const float* weight, const Tile& rows, int part) {
  for (int r = 0; r < kTile; ++r)
#pragma unroll
    for (int d = 0; d < kColumnsPerThread; ++d) out[d] = fmaf(weight[r], rows[r][part * kColumnsPerThread + d], out[d]);
}
__device__ inline float keep_factor(const Bits128& bits, int slot, const DropoutArgs& dropout) {
  return draw16(bits, slot) < dropout.threshold ? dropout.scale : 0.0f;
}
__device__ inline void put_columns(float* to, const float (&x)[kColumnsPerThread], GradMode mode) {
#pragma unroll
  for (int d = 0; d < kColumnsPerThread; ++d) put(to + d, x[d], mode);
}

struct ForwardShared {
  Tile q, k, v;
  float p[kTile][kTile + 1];
};

template <bool kDrop> __global__ void __launch_bounds__(kThreads) attention_forward_f32_kernel(Args<float> a) {
  auto& sm = block_shared<ForwardShared>();
  const Head h = head_of_block(a);
  if (h.tile == 0) clear_spare_context<kThreads>(a, h);
  const int row = thread_index().x / kParts, part = thread_index().x % kParts, query0 = h.tile * kTile;
  if (query0 >= h.length) return;
  const int stride = 3 * a.heads * kHeadDim, hidden = a.heads * kHeadDim;
  const float* q = a.qkv + qkv_offset(a, h);
  Draws draws{};
  if constexpr (kDrop) draws = Draws::of(a, h);

  load_tile(sm.q, q + static_cast<int64_t>(query0) * stride, stride, h.length - query0);
  float o[kColumnsPerThread] = {}, max = -INFINITY, sum = 0;
  for (int key0 = 0; key0 < h.length; key0 += kTile) {
    sync_block();
    const float* k = q + hidden + static_cast<int64_t>(key0) * stride;
    load_tile(sm.k, k, stride, h.length - key0);
    load_tile(sm.v, k + hidden, stride, h.length - key0);
    sync_block();
    float s[kKeysPerThread], tile_max = max;
#pragma unroll
    for (int i = 0; i < kKeysPerThread; ++i) {
      const int key = part * kKeysPerThread + i;
      s[i] = key0 + key < h.length ? dot(sm.q[row], sm.k[key]) * kScale : -INFINITY;
      tile_max = fmaxf(tile_max, s[i]);
    }
    tile_max = warp_max<kParts>(tile_max);
    const float correction = expf(max - tile_max);
    max = tile_max;
    float tile_sum = 0;
    Bits128 bits{};
    if constexpr (kDrop) bits = draws(query0 + row, key0 / 8 + part);
#pragma unroll
    for (int i = 0; i < kKeysPerThread; ++i) {
      const float p = expf(s[i] - max);
      tile_sum += p;
      sm.p[row][part * kKeysPerThread + i] = kDrop ? p * keep_factor(bits, i, a.dropout) : p;
    }
    sum = sum * correction + warp_sum<kParts>(tile_sum);
    sync_warp();
#pragma unroll
    for (int d = 0; d < kColumnsPerThread; ++d) o[d] *= correction;
    add_rows(o, sm.p[row], sm.v, part);
  }
  const int query = query0 + row;
  if (query >= h.length) return;
#pragma unroll
  for (int d = 0; d < kColumnsPerThread; ++d) o[d] /= sum;
  store_floats(a.context + context_offset(a, h) + static_cast<int64_t>(query) * hidden + part * kColumnsPerThread, o);
  if (part == 0) a.lse[statistic_offset(a, h) + query] = max + logf(sum);
}

struct BackwardQueriesShared {
  Tile q, dout, k, v;
  float ds[kTile][kTile + 1];
};

// dQ of 32 queries, and delta of them for the kernel below.
template <bool kDrop> __global__ void __launch_bounds__(kThreads) attention_backward_queries_f32_kernel(Args<float> a) {
  auto& sm = block_shared<BackwardQueriesShared>();
  const Head h = head_of_block(a);
  if (h.tile == 0) clear_spare_gradient<kThreads>(a, h);
  const int row = thread_index().x / kParts, part = thread_index().x % kParts, query0 = h.tile * kTile, query = query0 + row;
  if (query0 >= h.length) return;
  const int stride = 3 * a.heads * kHeadDim, hidden = a.heads * kHeadDim;
  const float* q = a.qkv + qkv_offset(a, h);
  const int64_t at = context_offset(a, h) + static_cast<int64_t>(query0) * hidden;
  Draws draws{};
  if constexpr (kDrop) draws = Draws::of(a, h);

  load_tile(sm.q, q + static_cast<int64_t>(query0) * stride, stride, h.length - query0);
  load_tile(sm.dout, a.dcontext + at, hidden, h.length - query0);
  sync_block();
  float delta = 0, lse = INFINITY;
  if (query < h.length) {
    for (int d = part * kColumnsPerThread; d < (part + 1) * kColumnsPerThread; ++d)
      delta = fmaf(a.context[at + static_cast<int64_t>(row) * hidden + d], sm.dout[row][d], delta);
    lse = a.lse[statistic_offset(a, h) + query];
  }
  delta = warp_sum<kParts>(delta);
  if (query < h.length && part == 0) a.delta[statistic_offset(a, h) + query] = delta;

  float dq[kColumnsPerThread] = {};
  for (int key0 = 0; key0 < h.length; key0 += kTile) {
    sync_block();
    const float* k = q + hidden + static_cast<int64_t>(key0) * stride;
    load_tile(sm.k, k, stride, h.length - key0);
    load_tile(sm.v, k + hidden, stride, h.length - key0);
    sync_block();
    Bits128 bits{};
    if constexpr (kDrop) bits = draws(query, key0 / 8 + part);
#pragma unroll
    for (int i = 0; i < kKeysPerThread; ++i) {
      const int key = part * kKeysPerThread + i;
      const float p = key0 + key < h.length ? expf(dot(sm.q[row], sm.k[key]) * kScale - lse) : 0.0f;
      const float dp = dot(sm.dout[row], sm.v[key]) * (kDrop ? keep_factor(bits, i, a.dropout) : 1.0f);
      sm.ds[row][key] = p * (dp - delta) * kScale;
    }
    sync_warp();
    add_rows(dq, sm.ds[row], sm.k, part);
  }
  if (query >= h.length) return;
  put_columns(a.dqkv + qkv_offset(a, h) + static_cast<int64_t>(query) * stride + part * kColumnsPerThread, dq, a.mode);
}

struct BackwardKeysShared {
  Tile k, v, q, dout;
  float lse[kTile], delta[kTile];
  float p[kTile][kTile + 1], ds[kTile][kTile + 1];  // [key][query]
};

// dK and dV of 32 keys. A call of draws serves eight keys, hence eight threads' scores; here each makes its own.
template <bool kDrop> __global__ void __launch_bounds__(kThreads) attention_backward_keys_f32_kernel(Args<float> a) {
  auto& sm = block_shared<BackwardKeysShared>();
  const Head h = head_of_block(a);
  const int row = thread_index().x / kParts, part = thread_index().x % kParts, key0 = h.tile * kTile, key = key0 + row;
  if (key0 >= h.length) return;
  const int stride = 3 * a.heads * kHeadDim, hidden = a.heads * kHeadDim;
  const float* q = a.qkv + qkv_offset(a, h);
  Draws draws{};
  if constexpr (kDrop) draws = Draws::of(a, h);

  load_tile(sm.k, q + hidden + static_cast<int64_t>(key0) * stride, stride, h.length - key0);
  load_tile(sm.v, q + 2 * hidden + static_cast<int64_t>(key0) * stride, stride, h.length - key0);
  float dk[kColumnsPerThread] = {}, dv[kColumnsPerThread] = {};
  for (int query0 = 0; query0 < h.length; query0 += kTile) {
    sync_block();
    load_tile(sm.q, q + static_cast<int64_t>(query0) * stride, stride, h.length - query0);
    load_tile(sm.dout, a.dcontext + context_offset(a, h) + static_cast<int64_t>(query0) * hidden, hidden, h.length - query0);
    if (thread_index().x < kTile) {
      const int query = query0 + thread_index().x;
      sm.lse[thread_index().x] = query < h.length ? a.lse[statistic_offset(a, h) + query] : INFINITY;
      sm.delta[thread_index().x] = query < h.length ? a.delta[statistic_offset(a, h) + query] : 0.0f;
    }
    sync_block();
#pragma unroll
    for (int i = 0; i < kKeysPerThread; ++i) {
      const int query = part * kKeysPerThread + i;
      const float p = expf(dot(sm.q[query], sm.k[row]) * kScale - sm.lse[query]);
      const float factor = kDrop ? keep_factor(draws(query0 + query, key / 8), key % 8, a.dropout) : 1.0f;
      sm.p[row][query] = p * factor;
      sm.ds[row][query] = p * (dot(sm.dout[query], sm.v[row]) * factor - sm.delta[query]) * kScale;
    }
    sync_warp();
    add_rows(dv, sm.p[row], sm.dout, part);
    add_rows(dk, sm.ds[row], sm.q, part);
  }
  if (key >= h.length) return;
  float* to = a.dqkv + qkv_offset(a, h) + static_cast<int64_t>(key) * stride + part * kColumnsPerThread;
  put_columns(to + hidden, dk, a.mode);
  put_columns(to + 2 * hidden, dv, a.mode);
}

}  // namespace

void forward_f32(Args<float> args, int64_t max_seq_len, Stream& stream) {
  args.tiles = tiles_of(max_seq_len, kTile);
  const Grid grid = grid_of(args.sequences, args.tiles, args.heads);
  dispatch_bool(args.dropout.threshold != 0, [&]<bool kDrop>() {
    launch(attention_forward_f32_kernel<kDrop>, grid, {kThreads}, sizeof(ForwardShared), stream.handle(), args);
  });
}

void backward_f32(Args<float> args, int64_t max_seq_len, Stream& stream) {
  args.tiles = tiles_of(max_seq_len, kTile);
  const Grid grid = grid_of(args.sequences, args.tiles, args.heads);
  dispatch_bool(args.dropout.threshold != 0, [&]<bool kDrop>() {
    launch(attention_backward_queries_f32_kernel<kDrop>, grid, {kThreads}, sizeof(BackwardQueriesShared), stream.handle(), args);
    launch(attention_backward_keys_f32_kernel<kDrop>, grid, {kThreads}, sizeof(BackwardKeysShared), stream.handle(), args);
  });
}

}  // namespace electra::cuda::attention
