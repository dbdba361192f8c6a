// What the attention kernels share: their arguments, where a block works, the draws of dropout, rows that no sequence owns.
#pragma once
#include "kernels/attention.h"
#include "kernels/cuda/common.cuh"

namespace electra::cuda::attention {

constexpr int kHeadDim = 64;

// One struct for both directions; forward leaves dcontext, dqkv and delta empty. hidden = heads * kHeadDim.
template <class T> struct Args {
  const T* qkv;        // (rows, 3 hidden)
  T* context;          // (rows, hidden)
  float* lse;          // (heads, rows), natural logarithm
  const T* dcontext;   // (rows, hidden)
  T* dqkv;             // (rows, 3 hidden)
  float* delta;        // (heads, rows): rowsum(dcontext context), between the two kernels of backward
  Sequences sequences;
  const StepState* state;
  DropoutArgs dropout;
  int rows, heads;
  int tiles;           // blocks a head
  GradMode mode;       // of dqkv
};

// 1 / sqrt(kHeadDim)
constexpr float kScale = 0.125f;
constexpr float kLog2E = 1.4426950408889634f;
constexpr float kScaleLog2 = kScale * kLog2E;  // of raw scores, for exp2

// The head of a sequence that a block works on, and which of its tiles. Grids are (sequences * tiles, heads): the tiles of a
// head run next to each other and find its rows in the second-level cache.
struct Head {
  int sequence, tile, head;
  int begin, length;  // rows
};
template <class T> __device__ inline Head head_of_block(const Args<T>& a) {
  Head h{};
  h.sequence = block_index().x / a.tiles;
  h.tile = block_index().x % a.tiles;
  h.head = block_index().y;
  h.begin = a.sequences.offsets[h.sequence];
  // A batch of no sequences has one block.
  h.length = h.sequence < a.sequences.count ? a.sequences.offsets[h.sequence + 1] - h.begin : 0;
  return h;
}
// At least one, whose block clears spare rows.
inline int tiles_of(int64_t max_seq_len, int64_t tile) { return static_cast<int>(max_seq_len > tile ? ceil_div(max_seq_len, tile) : 1); }
inline Grid grid_of(const Sequences& sequences, int tiles, int heads) { return {(sequences.count > 0 ? sequences.count : 1) * tiles, heads}; }

// Places of the head's first row in the tensors.
template <class T> __device__ inline int64_t context_offset(const Args<T>& a, const Head& h) {
  return (static_cast<int64_t>(h.begin) * a.heads + h.head) * kHeadDim;
}
template <class T> __device__ inline int64_t qkv_offset(const Args<T>& a, const Head& h) {
  return (static_cast<int64_t>(h.begin) * 3 * a.heads + h.head) * kHeadDim;
}
template <class T> __device__ inline int64_t statistic_offset(const Args<T>& a, const Head& h) {
  return static_cast<int64_t>(h.head) * a.rows + h.begin;
}

// The draws of a head: one call for a query and eight keys. Kernels keep it in shared memory: read there for each call, neither it nor
// Philox's twenty round keys, which the compiler would compute once, occupy registers through a loop.
struct Draws {
  uint64_t key;
  uint32_t step, sequence, first_group;
  template <class T> __device__ static Draws of(const Args<T>& a, const Head& h) {
    return {a.state->seed ^ a.dropout.site, a.state->step, a.state->first_sequence + static_cast<uint32_t>(h.sequence),
            static_cast<uint32_t>(h.head) << 16};
  }
  __device__ Bits128 operator()(int query, int key_group) const {
    return philox(key, {step, sequence, static_cast<uint32_t>(query), first_group + static_cast<uint32_t>(key_group)});
  }
};

// The rows beyond the last offset, in equal parts.
struct SpareRows {
  int begin, end;
};
template <class T> __device__ inline SpareRows spare_rows(const Args<T>& a, int part, int parts) {
  const int used = a.sequences.offsets[a.sequences.count];
  const int64_t spare = a.rows - used;
  return {used + static_cast<int>(spare * part / parts), used + static_cast<int>(spare * (part + 1) / parts)};
}
// Each sequence has a part.
template <class T> __device__ inline SpareRows spare_rows(const Args<T>& a, const Head& h) {
  return spare_rows(a, h.sequence, a.sequences.count > 0 ? a.sequences.count : 1);
}
template <int kThreads, class T> __device__ inline void clear_columns(T* columns, int64_t stride, const SpareRows& rows) {
  constexpr int kVec = 16 / sizeof(T), kVecs = kHeadDim / kVec;
#pragma unroll 1
  for (int row = rows.begin + thread_index().x / kVecs; row < rows.end; row += kThreads / kVecs)
    store_vec(columns + row * stride + thread_index().x % kVecs * kVec, Vec<T, kVec>{});
}
// Zeroes a head's columns of these rows.
template <int kThreads, class T> __device__ inline void clear_context(const Args<T>& a, int head, const SpareRows& rows) {
  clear_columns<kThreads>(a.context + head * kHeadDim, static_cast<int64_t>(a.heads) * kHeadDim, rows);
  for (int i = rows.begin + thread_index().x; i < rows.end; i += kThreads) a.lse[static_cast<int64_t>(head) * a.rows + i] = 0;
}
template <int kThreads, class T> __device__ inline void clear_gradient(const Args<T>& a, int head, const SpareRows& rows) {
  for (int part = 0; part < 3; ++part)
    clear_columns<kThreads>(a.dqkv + (part * a.heads + head) * kHeadDim, static_cast<int64_t>(a.heads) * 3 * kHeadDim, rows);
}
template <int kThreads, class T> __device__ inline void clear_spare_context(const Args<T>& a, const Head& h) {
  clear_context<kThreads>(a, h.head, spare_rows(a, h));
}
template <int kThreads, class T> __device__ inline void clear_spare_gradient(const Args<T>& a, const Head& h) {
  if (a.mode != GradMode::write) return;
  clear_gradient<kThreads>(a, h.head, spare_rows(a, h));
}

// ---- bf16 tiles of a head in shared memory: rows of 128 bytes, 8 chunks of 16. Chunk c of row r lies at place c ^ (r % 8), so that the
// eight rows of an ldmatrix and the eight chunks of a row lie in different banks.

using Row = bf16[kHeadDim];

__device__ inline bf16* chunk_at(Row* tile, int row, int chunk) { return tile[row] + (chunk ^ row % 8) * 8; }

__device__ inline void store_pair(bf16* p, uint32_t pair) {
  Vec<bf16, 2> v;
  memcpy(&v, &pair, sizeof v);
  store_vec(p, v);
}

// Element e (as in FragC) of columns 8 d to 8 d + 7 of a warp's 16 x 64 accumulators, those of mma or of wgmma.
__device__ inline float element(const FragC (&x)[kHeadDim / 8], int d, int e) { return x[d].r[e]; }
__device__ inline float element(const float (&x)[kHeadDim / 2], int d, int e) { return x[4 * d + e]; }

// A warp's 16 x 64 accumulators, row g + 8 i times factor[i], as rows of 128 bytes from `to`, the first `valid` of them. They pass through rows
// row0 to row0 + 15 of `tile`, which no other warp uses any more.
template <class Accumulators>
__device__ inline void store_rows(const Accumulators& x, const float (&factor)[2], Row* tile, int row0, bf16* to, int64_t stride, int valid,
                                  GradMode mode) {
  const int lane = lane_index(), g = lane / 4, t = lane % 4;
  sync_warp();
#pragma unroll
  for (int d = 0; d < kHeadDim / 8; ++d)
#pragma unroll
    for (int i = 0; i < 2; ++i)
      store_pair(chunk_at(tile, row0 + g + 8 * i, d) + 2 * t, pack_bf16x2(element(x, d, 2 * i) * factor[i], element(x, d, 2 * i + 1) * factor[i]));
  sync_warp();
#pragma unroll
  for (int pass = 0; pass < 4; ++pass) {
    const int row = 4 * pass + lane / 8, chunk = lane % 8;
    if (row >= valid) continue;
    bf16* const out = to + row * stride + chunk * 8;
    const Vec<bf16, 8> value = load_vec<8>(chunk_at(tile, row0 + row, chunk));
    if (mode == GradMode::accumulate) {
      float sum[8];
      load_floats(sum, out);
#pragma unroll
      for (int i = 0; i < 8; ++i) sum[i] += to_float(value[i]);
      store_floats(out, sum);
    } else {
      store_vec(out, value);
    }
  }
}

// ---- dropout

// Draw `slot` is below the threshold: one comparison, without taking the halves of a word apart. limit = 65536 threshold - 1.
__device__ inline uint32_t keep_limit(const DropoutArgs& dropout) { return (dropout.threshold << 16) - 1; }
__device__ inline bool keeps(const Bits128& bits, int slot, uint32_t limit) {
  const uint32_t word = bits.word[slot / 2];
  return (slot % 2 ? word : word << 16) <= limit;
}

// What one call keeps, bit by slot.
__device__ inline uint32_t kept_slots(const Draws& draws, int query, int key_group, uint32_t limit) {
  const Bits128 bits = draws(query, key_group);
  uint32_t kept = 0;
#pragma unroll
  for (int slot = 0; slot < 8; ++slot) kept |= keeps(bits, slot, limit) ? 1u << slot : 0u;
  return kept;
}

// delta = rowsum(dcontext context) of a warp's 16 rows, eight lanes a row; `valid` of them exist. The loads of context are issued early.
struct RowDots {
  Vec<bf16, 8> context[4];
  __device__ void load(const bf16* from, int64_t stride, int valid) {
    const int lane = lane_index();
#pragma unroll
    for (int pass = 0; pass < 4; ++pass) {
      const int row = 4 * pass + lane / 8;
      context[pass] = row < valid ? load_vec<8, Cache::read_only>(from + row * stride + lane % 8 * 8) : Vec<bf16, 8>{};
    }
  }
  // With rows row0 to row0 + 15 of dcontext in shared memory; writes delta[0..15], and those that exist to global memory where it is not null.
  __device__ void finish(Row* dout, int row0, float* delta, float* global, int valid) const {
    const int lane = lane_index();
#pragma unroll
    for (int pass = 0; pass < 4; ++pass) {
      const int row = 4 * pass + lane / 8;
      const Vec<bf16, 8> d = load_vec<8>(chunk_at(dout, row0 + row, lane % 8));
      float sum = 0;
#pragma unroll
      for (int i = 0; i < 8; ++i) sum = fmaf(to_float(context[pass][i]), to_float(d[i]), sum);
      sum = warp_sum<8>(sum);
      if (lane % 8 != 0) continue;
      delta[row] = sum;
      if (global != nullptr && row < valid) global[row] = sum;
    }
  }
};

// The fp32 kernels, attention_f32.cu: for tests.
void forward_f32(Args<float> args, int64_t max_seq_len, Stream& stream);
void backward_f32(Args<float> args, int64_t max_seq_len, Stream& stream);

// The bf16 kernels for compute capability 9.x, attention_sm90.cu; `multiprocessors` of the device. There is at least one row.
constexpr int kLeastSm90 = 256;  // max_seq_len from which they are used
void forward_sm90(Args<bf16> args, int64_t max_seq_len, int multiprocessors, Stream& stream);
void backward_sm90(Args<bf16> args, int64_t max_seq_len, int multiprocessors, Stream& stream);

}  // namespace electra::cuda::attention
