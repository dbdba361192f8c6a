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

// The rows beyond the last offset, shared out among the sequences: zeroes columns [0, kHeadDim) of this one's part.
struct SpareRows {
  int begin, end;
};
template <class T> __device__ inline SpareRows spare_rows(const Args<T>& a, const Head& h) {
  const int used = a.sequences.offsets[a.sequences.count], count = a.sequences.count > 0 ? a.sequences.count : 1;
  const int64_t spare = a.rows - used;
  return {used + static_cast<int>(spare * h.sequence / count), used + static_cast<int>(spare * (h.sequence + 1) / count)};
}
template <int kThreads, class T> __device__ inline void clear_columns(T* columns, int64_t stride, const SpareRows& rows) {
  constexpr int kVec = 16 / sizeof(T), kVecs = kHeadDim / kVec;
#pragma unroll 1
  for (int row = rows.begin + thread_index().x / kVecs; row < rows.end; row += kThreads / kVecs)
    store_vec(columns + row * stride + thread_index().x % kVecs * kVec, Vec<T, kVec>{});
}
template <int kThreads, class T> __device__ inline void clear_spare_context(const Args<T>& a, const Head& h) {
  const SpareRows rows = spare_rows(a, h);
  clear_columns<kThreads>(a.context + h.head * kHeadDim, static_cast<int64_t>(a.heads) * kHeadDim, rows);
  for (int i = rows.begin + thread_index().x; i < rows.end; i += kThreads) a.lse[static_cast<int64_t>(h.head) * a.rows + i] = 0;
}
template <int kThreads, class T> __device__ inline void clear_spare_gradient(const Args<T>& a, const Head& h) {
  if (a.mode != GradMode::write) return;
  const SpareRows rows = spare_rows(a, h);
  for (int part = 0; part < 3; ++part)
    clear_columns<kThreads>(a.dqkv + (part * a.heads + h.head) * kHeadDim, static_cast<int64_t>(a.heads) * 3 * kHeadDim, rows);
}

// The fp32 kernels, attention_f32.cu: for tests.
void forward_f32(Args<float> args, int64_t max_seq_len, Stream& stream);
void backward_f32(Args<float> args, int64_t max_seq_len, Stream& stream);

}  // namespace electra::cuda::attention
