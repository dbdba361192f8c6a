// Masking, corruption and the gather of masked rows: kernels/masking.h, bit for bit what kernels/cpu/masking.cc computes.
#include "kernels/masking.h"

#include <type_traits>

#include "kernels/cuda/common.cuh"

namespace electra {
namespace {

using namespace cuda;

// Third coordinate of the four kinds of draws of a sequence.
enum Purpose : uint32_t { kKey, kPick, kMask, kSpan };

// A masked position becomes [MASK] iff its draw is below 0.85 · 2^32 = 3650722201.6.
constexpr uint32_t kMaskThreshold = 3650722202u;

constexpr int kMaskThreads = 128;  // a thread takes the four positions of one call of Philox: 512 tokens at a time
constexpr int kMaskWarps = kMaskThreads / kWarpSize;
constexpr int kDigits = 256;       // of the radix selection
constexpr int kDigitsOfLane = kDigits / kWarpSize;

struct MaskArgs {
  const int32_t* ids;
  Sequences sequences;
  int32_t *masked_ids, *rows, *targets;
  float* weights;
  SpecialIds special;
  int64_t size, max_predictions;
  double mask_prob;
  uint64_t site;
  const StepState* state;
};
// The same of units.
struct UnitArgs : MaskArgs {
  const uint8_t* continuations;  // which ids continue a word
  uint32_t vocabulary;           // how many it has
  uint64_t span_threshold;       // words: 2^32, so that every word is a unit
};

struct MaskShared {
  int count[kWarpSize][kDigitsOfLane + 1];  // of keys by digit; an odd stride, so that lanes add theirs up without bank conflicts
  int scratch[kMaskWarps];
  int digit, below;  // of the selection's current digit: its value, and how many keys have a smaller one
};

// Four positions of a sequence.
struct Quad {
  int32_t id[4];
  bool inside[4], candidate[4];
};
__device__ inline Quad load_quad(const MaskArgs& a, const int32_t* ids, int length, int group) {
  Quad q;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    q.inside[i] = 4 * group + i < length;
    q.id[i] = q.inside[i] ? ids[4 * group + i] : 0;
    q.candidate[i] = q.inside[i] && q.id[i] != a.special.cls && q.id[i] != a.special.sep && q.id[i] != a.special.mask;
  }
  return q;
}

// The draws of one sequence.
struct Draws {
  uint64_t key;
  uint32_t step, sequence;
  __device__ Bits128 quad(int group, Purpose purpose) const { return philox(key, {step, sequence, static_cast<uint32_t>(group), purpose}); }
  // Of one position; without an index into the four, for which they would need memory.
  __device__ uint32_t one(int p, Purpose purpose) const {
    const Bits128 bits = quad(p / 4, purpose);
    const uint32_t low = p & 1 ? bits.word[1] : bits.word[0], high = p & 1 ? bits.word[3] : bits.word[2];
    return p & 2 ? high : low;
  }
};

__device__ inline bool is_candidate(const MaskArgs& a, int32_t id) { return id != a.special.cls && id != a.special.sep && id != a.special.mask; }

// The key of the unit that a candidate belongs to: that of its first position, for which it looks backwards, a few pieces as a rule.
__device__ inline uint32_t unit_key(const UnitArgs& a, const int32_t* ids, const Draws& draws, int p) {
  for (; p > 0 && is_candidate(a, ids[p - 1]); --p) {
    const auto id = static_cast<uint32_t>(ids[p]);
    if (id < a.vocabulary && a.continuations[id] != 0) continue;
    if (draws.one(p, kSpan) < a.span_threshold) break;
  }
  return draws.one(p, kKey);
}

// The keys of four positions; those that are no candidates have none.
template <class Args> __device__ inline Bits128 keys_of(const Args& a, const int32_t* ids, const Draws& draws, const Quad& q, int group) {
  if constexpr (std::is_same_v<Args, UnitArgs>) {
    uint32_t candidates = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) candidates |= static_cast<uint32_t>(q.candidate[i]) << i;
    Bits128 keys{};
#pragma unroll 1
    for (int i = 0; i < 4; ++i) {  // one copy of the search; registers have no index, so each is asked whether it is meant
      const uint32_t key = candidates >> i & 1 ? unit_key(a, ids, draws, 4 * group + i) : 0;
#pragma unroll
      for (int j = 0; j < 4; ++j) keys.word[j] = j == i ? key : keys.word[j];
    }
    return keys;
  } else {
    return draws.quad(group, kKey);
  }
}

// The n-th smallest key of the candidates (n ≥ 1, at most as many as there are), and how many keys equal to it are among the n
// smallest. By radix selection from the highest digit; keys are drawn again for each digit, so that the length has no limit.
struct Selection {
  uint32_t key;
  int ties;
};
template <class Args> __device__ inline Selection select_key(const Args& a, const int32_t* ids, int length, const Draws& draws, int n, MaskShared& sm) {
  Selection selection{0, n};
  for (int shift = 24; shift >= 0; shift -= 8) {
    if (warp_index() == 0)
      for (int& count : sm.count[lane_index()]) count = 0;
    sync_block();
    for (int group = thread_index().x; 4 * group < length; group += kMaskThreads) {
      const Quad q = load_quad(a, ids, length, group);
      const Bits128 keys = keys_of(a, ids, draws, q, group);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t digits = keys.word[i] >> shift, d = digits & 255;
        if (q.candidate[i] && digits >> 8 == selection.key) atomic_add(&sm.count[d / kDigitsOfLane][d % kDigitsOfLane], 1);
      }
    }
    sync_block();
    if (warp_index() == 0) {
      const auto& counts = sm.count[lane_index()];
      int mine = 0;
      for (int d = 0; d < kDigitsOfLane; ++d) mine += counts[d];
      int below = warp_scan(mine) - mine;
      if (below < selection.ties && selection.ties <= below + mine) {
        int d = 0;
        while (below + counts[d] < selection.ties) below += counts[d++];
        sm.digit = lane_index() * kDigitsOfLane + d;
        sm.below = below;
      }
    }
    sync_block();
    selection.key = selection.key << 8 | static_cast<uint32_t>(sm.digit);
    selection.ties -= sm.below;
  }
  return selection;
}

// Draws with replacement: draw j picks a candidate by its number; left in the slots' targets for the pass that places them.
__device__ inline void draw_candidates(const Draws& draws, int candidates, int n, int32_t* picked) {
  for (int j = thread_index().x; j < n; j += kMaskThreads)
    picked[j] = static_cast<int32_t>(static_cast<uint64_t>(draws.quad(j / 4, kPick).word[j % 4]) * static_cast<uint64_t>(candidates) >> 32);
}

// One block a sequence, and one more for the rows beyond the last; a thread takes four positions at a time, in order, and a scan of
// the block's picks gives each its slot. Reads ids six times, from the cache but for the first; writes every output once.
template <bool kWithReplacement, class Args> __global__ void __launch_bounds__(kMaskThreads) mask_tokens_kernel(Args a) {
  auto& sm = block_shared<MaskShared>();
  const int s = block_index().x;
  const int32_t begin = a.sequences.offsets[s];
  if (s == a.sequences.count) {
    for (int64_t i = begin + thread_index().x; i < a.size; i += kMaskThreads) a.masked_ids[i] = a.ids[i];
    return;
  }
  const int length = a.sequences.offsets[s + 1] - begin;
  const int32_t* const ids = a.ids + begin;
  const int64_t first_slot = s * a.max_predictions;
  int32_t *const rows = a.rows + first_slot, *const targets = a.targets + first_slot;
  float* const weights = a.weights + first_slot;
  const Draws draws{a.state->seed ^ a.site, a.state->step, a.state->first_sequence + static_cast<uint32_t>(s)};

  int candidates = 0;
  for (int group = thread_index().x; 4 * group < length; group += kMaskThreads) {
    const Quad q = load_quad(a, ids, length, group);
    for (const bool candidate : q.candidate) candidates += candidate;
  }
  candidates = block_sum(candidates, sm.scratch);
  int64_t n = static_cast<int64_t>(rint(a.mask_prob * static_cast<double>(length)));
  n = n < a.max_predictions ? n : a.max_predictions;
  n = n > 1 ? n : 1;
  if (!kWithReplacement && n > candidates) n = candidates;
  if (candidates == 0) n = 0;

  Selection selection{0, 0};
  if (kWithReplacement) {
    draw_candidates(draws, candidates, static_cast<int>(n), targets);
    sync_block();
  } else if (n > 0) {
    selection = select_key(a, ids, length, draws, static_cast<int>(n), sm);
  }
  int below = 0, ties = 0;  // candidates of a smaller key (with replacement: all) and of the same key, before this round's first position
  for (int first = 0; 4 * first < length; first += kMaskThreads) {
    const int group = first + thread_index().x;
    const Quad q = load_quad(a, ids, length, group);
    const Bits128 keys = keys_of(a, ids, draws, q, group);
    bool smaller[4], equal[4];
    int counts = 0;  // of both, in the two halves of the word
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      smaller[i] = q.candidate[i] && (kWithReplacement || (n > 0 && keys.word[i] < selection.key));
      equal[i] = !kWithReplacement && n > 0 && q.candidate[i] && keys.word[i] == selection.key;
      counts += smaller[i] + (equal[i] << 16);
    }
    const BlockScan scan = block_scan(counts, sm.scratch);
    int number = below + (scan.before & 0xffff), tie = ties + (scan.before >> 16);
    const Bits128 mask_draws = draws.quad(group, kMask);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int p = 4 * group + i;
      int64_t slot = 0, repeats = 0;
      if (kWithReplacement && smaller[i]) {
        for (int64_t j = 0; j < n; ++j) {
          slot += targets[j] < number;
          repeats += targets[j] == number;
        }
      } else if (smaller[i] || (equal[i] && tie < selection.ties)) {
        slot = number + (tie < selection.ties ? tie : selection.ties);
        repeats = 1;
        targets[slot] = q.id[i];
      }
      bool masked = !kWithReplacement && repeats > 0 && mask_draws.word[i] < kMaskThreshold;
      for (int64_t j = slot; j < slot + repeats; ++j) {
        rows[j] = begin + p;
        weights[j] = 1;
        if (kWithReplacement) masked = masked || draws.quad(static_cast<int>(j / 4), kMask).word[j % 4] < kMaskThreshold;
      }
      if (q.inside[i]) a.masked_ids[begin + p] = masked ? a.special.mask : q.id[i];
      number += smaller[i];
      tie += equal[i];
    }
    below += scan.total & 0xffff;
    ties += scan.total >> 16;
  }
  if (kWithReplacement) {
    sync_block();
    for (int64_t j = thread_index().x; j < n; j += kMaskThreads) targets[j] = a.ids[rows[j]];
  }
  for (int64_t j = n + thread_index().x; j < a.max_predictions; j += kMaskThreads) {
    rows[j] = 0;
    weights[j] = 0;
    targets[j] = 0;
  }
}

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;

struct CorruptArgs {
  const int32_t *ids, *rows, *sampled;
  const float* weights;
  int32_t* out;
  float* labels;
  int64_t size, slots;
};

// out = ids, labels = 0: four rows a thread, each operand once.
__global__ void __launch_bounds__(kThreads) corrupt_copy_kernel(CorruptArgs a) {
  const int64_t first = (static_cast<int64_t>(block_index().x) * kThreads + thread_index().x) * 4;
  if (first + 4 <= a.size) {
    store_vec(a.out + first, load_vec<4>(a.ids + first));
    store_vec(a.labels + first, Vec<float, 4>{});
  } else {
    for (int64_t i = first; i < a.size; ++i) {
      a.out[i] = a.ids[i];
      a.labels[i] = 0;
    }
  }
}

// A thread a slot; the first of the consecutive slots of a row takes the mean of them all.
__global__ void __launch_bounds__(kThreads) corrupt_kernel(CorruptArgs a) {
  const int64_t slot = static_cast<int64_t>(block_index().x) * kThreads + thread_index().x;
  if (slot >= a.slots || a.weights[slot] == 0) return;
  const int32_t row = a.rows[slot];
  if (slot > 0 && a.weights[slot - 1] != 0 && a.rows[slot - 1] == row) return;
  int64_t sum = 0, count = 0;
  for (int64_t i = slot; i < a.slots && a.weights[i] != 0 && a.rows[i] == row; ++i, ++count) sum += a.sampled[i];
  const auto id = static_cast<int32_t>(sum / count);
  a.out[row] = id;
  a.labels[row] = id != a.ids[row] ? 1.0f : 0.0f;
}

template <class T> struct GatherArgs {
  const T* x;  // backward: dy
  const int32_t* rows;
  const float* weights;
  T* y;        // backward: dx
  int64_t slots, size, cols;  // size: rows of x or dx
  bool accumulate;
};

// A warp a slot, kVec elements a lane: 16 bytes where the width allows. Reads and writes each used row once.
template <class T, int kVec> __global__ void __launch_bounds__(kThreads) gather_rows_kernel(GatherArgs<T> a) {
  const int64_t slot = static_cast<int64_t>(block_index().x) * kWarps + warp_index();
  if (slot >= a.slots) return;
  const bool used = a.weights[slot] != 0;
  const T* const x = a.x + (used ? a.rows[slot] * a.cols : 0);
  for (int64_t c = lane_index() * kVec; c < a.cols; c += kWarpSize * kVec)
    store_vec(a.y + slot * a.cols + c, used ? load_vec<kVec>(x + c) : Vec<T, kVec>{});
}

constexpr int kTileRows = 128;       // of dx, a block's
constexpr int kTileSlots = 4 * kThreads;
struct ScatterShared {
  int slot[kTileSlots], row[kTileSlots];  // the tile's slots whose row is the block's, in order; rows from the block's first
  int scratch[kWarps];
  int written[kTileRows];
};

// A block owns 128 rows of dx, a warp every eighth of them: it looks through all slots for its rows, in order, and so needs no
// atomics and no index; a row that several slots read is added up in slot order, in fp32 where they are neighbours, as mask_tokens
// makes them. Each element of dx and dy crosses memory once (dx twice to accumulate); rows (4 bytes a slot) come from the cache once a block.
template <class T, int kVec> __global__ void __launch_bounds__(kThreads) gather_rows_backward_kernel(GatherArgs<T> a) {
  auto& sm = block_shared<ScatterShared>();
  const int64_t first_row = static_cast<int64_t>(block_index().x) * kTileRows;
  const int tile_rows = static_cast<int>(a.size - first_row < kTileRows ? a.size - first_row : kTileRows);
  for (int r = thread_index().x; r < kTileRows; r += kThreads) sm.written[r] = a.accumulate;
  sync_block();
  for (int64_t tile = 0; tile < a.slots; tile += kTileSlots) {
    int row[4], matches = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int64_t slot = tile + 4 * thread_index().x + i;
      const int64_t r = slot < a.slots ? a.rows[slot] - first_row : -1;
      row[i] = r >= 0 && r < tile_rows && a.weights[slot] != 0 ? static_cast<int>(r) : -1;
      matches += row[i] >= 0;
    }
    const BlockScan scan = block_scan(matches, sm.scratch);
    int at = scan.before;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (row[i] < 0) continue;
      sm.row[at] = row[i];
      sm.slot[at++] = static_cast<int>(tile) + 4 * thread_index().x + i;
    }
    sync_block();
    for (int begin = 0, end; begin < scan.total; begin = end) {
      const int r = sm.row[begin];
      for (end = begin + 1; end < scan.total && sm.row[end] == r;) ++end;
      if (r % kWarps != warp_index()) continue;
      const bool add = sm.written[r] != 0;
      T* const dx = a.y + (first_row + r) * a.cols;
      for (int64_t c = lane_index() * kVec; c < a.cols; c += kWarpSize * kVec) {
        float sum[kVec] = {}, dy[kVec];
        if (add) load_floats(sum, dx + c);
        for (int k = begin; k < end; ++k) {
          load_floats(dy, a.x + sm.slot[k] * a.cols + c);
#pragma unroll
          for (int i = 0; i < kVec; ++i) sum[i] += dy[i];
        }
        store_floats(dx + c, sum);
      }
      sync_warp();
      if (lane_index() == 0) sm.written[r] = 1;
      sync_warp();
    }
    sync_block();
  }
  for (int r = warp_index(); r < tile_rows; r += kWarps) {
    if (sm.written[r]) continue;
    for (int64_t c = lane_index() * kVec; c < a.cols; c += kWarpSize * kVec) store_vec(a.y + (first_row + r) * a.cols + c, Vec<T, kVec>{});
  }
}

// Calls f.operator()<T, elements of an access>().
template <class F> void dispatch_width(DType type, int64_t cols, F f) {
  dispatch_float("gather_rows", type, [&]<class T>() {
    constexpr int kVec = 16 / static_cast<int>(sizeof(T));
    if (cols % kVec == 0) f.template operator()<T, kVec>();
    else f.template operator()<T, 1>();
  });
}

}  // namespace

template <> void mask_tokens<Backend::cuda>(const MaskTokens& args, Stream& stream) {
  check_units(args);
  const int64_t sequences = args.sequence_offsets.size() - 1;
  if (args.max_predictions < 1)
    throw ShapeError("mask_tokens", "expected max_predictions of at least 1, got " + std::to_string(args.max_predictions));
  const Shape slots{sequences * args.max_predictions};
  check_shape("mask_tokens", "masked_ids", args.masked_ids.shape, args.ids.shape);
  check_shape("mask_tokens", "masked_rows", args.masked_rows.shape, slots);
  check_shape("mask_tokens", "masked_weights", args.masked_weights.shape, slots);
  check_shape("mask_tokens", "masked_targets", args.masked_targets.shape, slots);
  check_dtype("mask_tokens", "ids", args.ids.dtype, DType::i32);
  check_dtype("mask_tokens", "masked_ids", args.masked_ids.dtype, DType::i32);
  check_dtype("mask_tokens", "masked_rows", args.masked_rows.dtype, DType::i32);
  check_dtype("mask_tokens", "masked_weights", args.masked_weights.dtype, DType::f32);
  check_dtype("mask_tokens", "masked_targets", args.masked_targets.dtype, DType::i32);
  check_dtype("mask_tokens", "sequence_offsets", args.sequence_offsets.dtype, DType::i32);
  check_state("mask_tokens", args.state);
  const MaskArgs kernel_args{.ids = args.ids.as<int32_t>(),
                             .sequences = Sequences::of(args.sequence_offsets),
                             .masked_ids = args.masked_ids.as<int32_t>(),
                             .rows = args.masked_rows.as<int32_t>(),
                             .targets = args.masked_targets.as<int32_t>(),
                             .weights = args.masked_weights.as<float>(),
                             .special = args.special,
                             .size = args.ids.size(),
                             .max_predictions = args.max_predictions,
                             .mask_prob = args.mask_prob,
                             .site = args.site,
                             .state = args.state};
  const auto run = [&](auto kernel, const auto& all) { launch(kernel, {static_cast<int>(sequences + 1)}, {kMaskThreads}, sizeof(MaskShared), stream.handle(), all); };
  if (args.unit == MaskUnit::token) {
    dispatch_bool(args.with_replacement, [&]<bool kWithReplacement>() { run(mask_tokens_kernel<kWithReplacement, MaskArgs>, kernel_args); });
    return;
  }
  UnitArgs unit_args{kernel_args, args.continuations.as<uint8_t>(), static_cast<uint32_t>(args.continuations.size()),
                     args.unit == MaskUnit::span ? span_threshold(args.span_words) : uint64_t{1} << 32};
  run(mask_tokens_kernel<false, UnitArgs>, unit_args);
}

template <> void corrupt_tokens<Backend::cuda>(const CorruptTokens& args, Stream& stream) {
  check_shape("corrupt_tokens", "out_ids", args.out_ids.shape, args.ids.shape);
  check_shape("corrupt_tokens", "labels", args.labels.shape, args.ids.shape);
  check_shape("corrupt_tokens", "masked_weights", args.masked_weights.shape, args.masked_rows.shape);
  check_shape("corrupt_tokens", "sampled_ids", args.sampled_ids.shape, args.masked_rows.shape);
  for (const Tensor& t : {args.ids, args.out_ids, args.masked_rows, args.sampled_ids})
    check_dtype("corrupt_tokens", "a tensor of ids or rows", t.dtype, DType::i32);
  for (const Tensor& t : {args.masked_weights, args.labels}) check_dtype("corrupt_tokens", "weights or labels", t.dtype, DType::f32);
  const CorruptArgs kernel_args{.ids = args.ids.as<int32_t>(),
                                .rows = args.masked_rows.as<int32_t>(),
                                .sampled = args.sampled_ids.as<int32_t>(),
                                .weights = args.masked_weights.as<float>(),
                                .out = args.out_ids.as<int32_t>(),
                                .labels = args.labels.as<float>(),
                                .size = args.ids.size(),
                                .slots = args.masked_rows.size()};
  const auto blocks = [](int64_t threads) { return static_cast<int>(ceil_div<int64_t>(threads, kThreads)); };
  if (kernel_args.size > 0) launch(corrupt_copy_kernel, {blocks(ceil_div<int64_t>(kernel_args.size, 4))}, {kThreads}, 0, stream.handle(), kernel_args);
  if (kernel_args.slots > 0) launch(corrupt_kernel, {blocks(kernel_args.slots)}, {kThreads}, 0, stream.handle(), kernel_args);
}

template <> void gather_rows<Backend::cuda>(const GatherRows& args, Stream& stream) {
  const int64_t slots = args.rows.size(), cols = args.x.cols();
  check_shape("gather_rows", "y", args.y.shape, {slots, cols});
  check_dtype("gather_rows", "y", args.y.dtype, args.x.dtype);
  check_shape("gather_rows", "weights", args.weights.shape, args.rows.shape);
  if (slots == 0) return;
  dispatch_width(args.x.dtype, cols, [&]<class T, int kVec>() {
    launch(gather_rows_kernel<T, kVec>, {static_cast<int>(ceil_div<int64_t>(slots, kWarps))}, {kThreads}, 0, stream.handle(),
           GatherArgs<T>{args.x.as<T>(), args.rows.as<int32_t>(), args.weights.as<float>(), args.y.as<T>(), slots, args.x.rows(), cols,
                         false});
  });
}

template <> void gather_rows_backward<Backend::cuda>(const GatherRowsBackward& args, Stream& stream) {
  const int64_t slots = args.rows.size(), rows = args.dx.rows(), cols = args.dx.cols();
  check_shape("gather_rows", "dy", args.dy.shape, {slots, cols});
  check_dtype("gather_rows", "dx", args.dx.dtype, args.dy.dtype);
  check_shape("gather_rows", "weights", args.weights.shape, args.rows.shape);
  if (rows == 0) return;
  dispatch_width(args.dx.dtype, cols, [&]<class T, int kVec>() {
    launch(gather_rows_backward_kernel<T, kVec>, {static_cast<int>(ceil_div<int64_t>(rows, kTileRows))}, {kThreads}, sizeof(ScatterShared),
           stream.handle(),
           GatherArgs<T>{args.dy.as<T>(), args.rows.as<int32_t>(), args.weights.as<float>(), args.dx.as<T>(), slots, rows, cols,
                         args.accumulate});
  });
}

}  // namespace electra
