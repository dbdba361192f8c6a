// Least significant digit first, 8 bits a pass (Satish, Harris and Garland, "Designing efficient sorting algorithms for manycore
// GPUs", 2009): each pass counts the digits of every block's rows, then moves the rows to where the counts say. Two launches a
// pass, two passes for a vocabulary of 30,522.
#include "kernels/cuda/sort_rows.cuh"

#include <bit>

namespace electra::cuda {
namespace {

constexpr int kDigits = 256;
constexpr int kDigitBits = 8;
constexpr int kThreads = kDigits;  // thread d also works for digit d
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kFewestRowsOfWarp = 64;
constexpr int kMostBlocks = 64;  // whose counts a block adds up by itself

struct PassArgs {
  const int32_t *keys, *rows;  // rows: null in the first pass, where they are in order
  int32_t *sorted_keys = nullptr, *sorted_rows = nullptr;
  int32_t* counts;  // (blocks, 256)
  Sequences sequences;
  int rows_of_warp = 0, shift = 0;
};

__device__ inline int digit_of(int32_t key, int shift) { return static_cast<int>(static_cast<uint32_t>(key) >> shift) % kDigits; }

struct CountShared {
  int32_t counts[kDigits];
};

__global__ void __launch_bounds__(kThreads) count_digits_kernel(PassArgs a) {
  auto& sm = block_shared<CountShared>();
  const int thread = thread_index().x, rows_of_block = kWarps * a.rows_of_warp, first = block_index().x * rows_of_block;
  const int used = a.sequences.used_rows(), end = first + rows_of_block < used ? first + rows_of_block : used;
  sm.counts[thread] = 0;
  sync_block();
  for (int i = first + thread; i < end; i += kThreads) atomic_add(&sm.counts[digit_of(a.keys[i], a.shift)], 1);
  sync_block();
  a.counts[block_index().x * kDigits + thread] = sm.counts[thread];
}

struct MoveShared {
  int32_t next[kWarps][kDigits];  // where the warp's next row of a digit goes
  int32_t scan[kWarps];
};

// The lanes of `active` whose digit is this lane's.
__device__ inline uint32_t lanes_with(int digit, uint32_t active) {
  uint32_t peers = active;
#pragma unroll
  for (int bit = 0; bit < kDigitBits; ++bit) {
    const bool set = digit >> bit & 1;
    const uint32_t lanes = ballot(set);
    peers &= set ? lanes : ~lanes;
  }
  return peers;
}

// A row of digit d goes after all rows of lower digits, after the rows of d in lower blocks, in lower warps of its block, and in
// what its warp has moved: stable. A warp's rows are neighbours and move 32 at a time. Traffic: keys and rows read and written once
// (keys twice, the second time from the cache); the writes are scattered.
__global__ void __launch_bounds__(kThreads) move_rows_kernel(PassArgs a) {
  auto& sm = block_shared<MoveShared>();
  const int thread = thread_index().x, warp = warp_index(), lane = lane_index();
  const int begin = (block_index().x * kWarps + warp) * a.rows_of_warp, used = a.sequences.used_rows();
  const int end = begin + a.rows_of_warp < used ? begin + a.rows_of_warp : used;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) sm.next[w][thread] = 0;
  sync_block();
  for (int i = begin + lane; i < end; i += kWarpSize) atomic_add(&sm.next[warp][digit_of(a.keys[i], a.shift)], 1);

  int32_t before = 0, total = 0;  // rows of digit `thread` in lower blocks, and in all
#pragma unroll 4
  for (int block = 0; block < grid_size().x; ++block) {
    const int32_t count = a.counts[block * kDigits + thread];
    if (block < block_index().x) before += count;
    total += count;
  }
  int32_t next = block_scan(total, sm.scan).before + before;  // its first barrier also ends the counting
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    const int32_t count = sm.next[w][thread];
    sm.next[w][thread] = next;
    next += count;
  }
  sync_block();

  for (int i = begin + lane; i - lane < end; i += kWarpSize) {
    const bool active = i < end;
    const int32_t key = active ? a.keys[i] : 0, row = !active ? 0 : a.rows ? a.rows[i] : i;
    const int digit = digit_of(key, a.shift);
    const uint32_t peers = lanes_with(digit, ballot(active)), below = peers & lanes_below();
    const int32_t to = active ? sm.next[warp][digit] + count_bits(below) : 0;
    sync_warp();
    if (active && below == 0) sm.next[warp][digit] += count_bits(peers);
    sync_warp();
    if (!active) continue;
    a.sorted_keys[to] = key;
    a.sorted_rows[to] = row;
  }
}

}  // namespace

size_t sort_rows_workspace(int64_t rows) { return Scratch::bytes<int32_t>(kMostBlocks * kDigits) + 4 * Scratch::bytes<int32_t>(rows); }

SortedRows sort_rows(const SortRows& args, Scratch& workspace, Stream& stream) {
  PassArgs pass{.keys = args.keys, .rows = nullptr, .counts = workspace.take<int32_t>(kMostBlocks * kDigits), .sequences = args.sequences};
  int32_t *keys[2], *rows[2];
  for (int i = 0; i < 2; ++i) {
    keys[i] = workspace.take<int32_t>(args.rows);
    rows[i] = workspace.take<int32_t>(args.rows);
  }
  pass.rows_of_warp = std::max(kFewestRowsOfWarp, ceil_div(ceil_div(args.rows, kMostBlocks * kWarps), kWarpSize) * kWarpSize);
  const int blocks = std::max(1, ceil_div(args.rows, kWarps * pass.rows_of_warp));
  const int bits = std::max(1, static_cast<int>(std::bit_width(static_cast<uint64_t>(args.key_limit - 1))));
  for (int i = 0; i < ceil_div(bits, kDigitBits); ++i) {
    pass.shift = i * kDigitBits;
    pass.sorted_keys = keys[i % 2];
    pass.sorted_rows = rows[i % 2];
    launch(count_digits_kernel, {blocks}, {kThreads}, sizeof(CountShared), stream.handle(), pass);
    launch(move_rows_kernel, {blocks}, {kThreads}, sizeof(MoveShared), stream.handle(), pass);
    pass.keys = pass.sorted_keys;
    pass.rows = pass.sorted_rows;
  }
  return {pass.keys, pass.rows};
}

}  // namespace electra::cuda
