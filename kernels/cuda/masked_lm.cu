// The masked-LM head over the vocabulary: kernels/masked_lm.h, docs/ops/masked_lm.md. Logits are computed tile by tile (128 rows x
// 32 columns, a row a slot and a column an id, or the other way round for dword), used, and dropped, as attention does with its
// scores. Slots of weight 0 are taken out of the way first. Every reduction has one order, a function of the shapes.
#include "kernels/masked_lm.h"

#include <algorithm>

#include "kernels/cuda/common.cuh"

namespace electra {
namespace {

using namespace cuda;

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kRows = 16 * kWarps;       // of a tile; 16 a warp
constexpr int kCols = 32;                // of a tile
constexpr int kBlocks = kCols / 16;      // of columns
constexpr int kChunk = 512;              // ids a block of the forward pass goes through
constexpr int kSplit = 2048;             // ids a block of dhidden goes through
constexpr int kNoId = 0x7fffffff;
constexpr uint32_t kRepeatShift = 28;    // the k-th draw of a row adds k << 28 to the group
constexpr float kInfinity = INFINITY;

// A used slot. Forward: the coordinates of its draws; backward: its statistics.
struct UsedSlot {
  int32_t slot, target;
  uint32_t sequence, position, group;
  float weight, lse, factor;  // factor = dloss weight / denominator
};

// What a chunk of the vocabulary says of a slot; 32 bytes, one sector.
struct alignas(16) Partial {
  float max, sum;          // of the logits; of exp(logit - max)
  int32_t argmax;
  float target_logit;      // where the chunk has the target
  float best;              // perturbed logit
  int32_t best_id;
  int32_t unused[2];
};

// What a slot adds to MaskedLmSums.
struct Contribution {
  double loss, correct, sampled_correct, weight;
};

// A tile of logits over a warp: this lane (4 g + t) has of rows g and g + 8, of each block of 16 columns, columns 4 t to 4 t + 3, so
// that it owns the four draws of one call. Column 4 t + 2 j + k is what the tensor core calls column 2 t + k of its j-th product.
struct Tile {
  FragC c[kBlocks][2];
  __device__ float& at(int i, int block, int col) { return c[block][col / 2].r[2 * i + col % 2]; }
  __device__ void clear() {
#pragma unroll
    for (int b = 0; b < kBlocks; ++b)
#pragma unroll
      for (int j = 0; j < 2; ++j) c[b][j] = {};
  }
};
__device__ inline int tile_row(int i) { return 16 * warp_index() + lane_index() / 4 + 8 * i; }
__device__ inline int tile_col(int block, int col) { return 16 * block + 4 * (lane_index() % 4) + col; }

// Rows of a matrix (count, width): hidden's used slots, or ids.
template <class T> struct Operand {
  const T* data;
  const UsedSlot* used;  // null: row r is at r
  int count, width;
  __device__ const T* row(int r) const { return data + static_cast<size_t>(used ? used[r].slot : r) * static_cast<size_t>(width); }
};

// A product in bf16 on the tensor core; kWidth columns of the operands at a time, zeros beyond the last (a multiple of 8).
template <int kW> struct TensorCore {
  using T = bf16;
  static constexpr int kWidth = kW;
  // Backward blocks an SM: at width 128 the accumulators (64 registers of output, 16 of logits) do not fit twice.
  static constexpr int kBackwardBlocks = kW == 64 ? 2 : 1;
  // Rows of kW / 8 pieces of 16 bytes; a piece stands at its number xor the swizzle of its row, so that the eight rows of a matrix
  // that ldmatrix reads, consecutive in x, 4 (n / 2) + n % 2 from an even one in y, lie in eight different groups of banks.
  struct alignas(128) Stage {
    bf16 x[kRows][kW], y[kCols][kW];
  };
  struct Shared {
    Stage stage[2];
  };
  static __device__ int x_swizzle(int row) { return row & 7; }
  static __device__ int y_swizzle(int row) { return (row & 1) | (row >> 1 & 6); }

  // Starts to copy columns from `col` of x's rows from x_row (unless they are there) and y's from y_row.
  static __device__ void load(Stage& s, const Operand<bf16>& x, int x_row, const Operand<bf16>& y, int y_row, int col, bool with_x) {
    constexpr int kPieces = kW / 8;
    if (with_x) {
#pragma unroll 4
      for (int i = thread_index().x; i < kRows * kPieces; i += kThreads) {
        const int r = i / kPieces, piece = i % kPieces, c = col + 8 * piece;
        const bool valid = x_row + r < x.count && c < x.width;
        copy_async_16(&s.x[r][8 * (piece ^ x_swizzle(r))], valid ? x.row(x_row + r) + c : x.data, valid);
      }
    }
#pragma unroll 4
    for (int i = thread_index().x; i < kCols * kPieces; i += kThreads) {
      const int r = i / kPieces, piece = i % kPieces, c = col + 8 * piece;
      const bool valid = y_row + r < y.count && c < y.width;
      copy_async_16(&s.y[r][8 * (piece ^ y_swizzle(r))], valid ? y.row(y_row + r) + c : y.data, valid);
    }
  }

  // Where this lane's row of the four matrices of a block of 16 rows of y begins: matrix m has rows 4 (n / 2) + 2 (m / 2) + n % 2, so
  // that column 2 t + k of product j is row 4 t + 2 j + k; odd matrices lie one piece to the right. One pattern for both products.
  struct YAddress {
    int row, piece;
  };
  static __device__ YAddress y_address() {
    const int lane = lane_index(), row = 4 * (lane % 8 / 2) + 2 * (lane / 16) + lane % 2;
    return {row, lane / 8 % 2 ^ y_swizzle(row)};
  }

  // tile += x y^T
  static __device__ void multiply(Tile& tile, const Stage& s) {
    const int x_row = 16 * warp_index() + lane_index() % 16, x_piece = lane_index() / 16 ^ x_swizzle(x_row);
    const YAddress y = y_address();
#pragma unroll
    for (int k = 0; k < kW / 16; ++k) {
      FragA a;
      ldmatrix_x4(a.r, &s.x[x_row][8 * (x_piece ^ 2 * k)]);
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) {
        uint32_t r[4];
        ldmatrix_x4(r, &s.y[16 * b + y.row][8 * (y.piece ^ 2 * k)]);
        mma_m16n8k16(tile.c[b][0], a, {{r[0], r[1]}});
        mma_m16n8k16(tile.c[b][1], a, {{r[2], r[3]}});
      }
    }
  }

  // out += tile y, the tile rounded to bf16: its fragments are the first operand as they stand.
  static __device__ void accumulate(FragC (&out)[kW / 8], const Tile& tile, const Stage& s, Shared&) {
    const YAddress y = y_address();
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      FragA a;
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        a.r[2 * j] = pack_bf16x2(tile.c[b][j].r[0], tile.c[b][j].r[1]);
        a.r[2 * j + 1] = pack_bf16x2(tile.c[b][j].r[2], tile.c[b][j].r[3]);
      }
#pragma unroll
      for (int n = 0; n < kW / 16; ++n) {
        uint32_t r[4];
        ldmatrix_x4<true>(r, &s.y[16 * b + y.row][8 * (y.piece ^ 2 * n)]);
        mma_m16n8k16(out[2 * n], a, {{r[0], r[2]}});
        mma_m16n8k16(out[2 * n + 1], a, {{r[1], r[3]}});
      }
    }
  }

  static __device__ float exponential(float x) { return exp_approx(x); }
};

// The same by fp32 multiply-adds, for fp32 and for odd widths: made to be right, not fast.
template <class Element> struct Plain {
  using T = Element;
  static constexpr int kWidth = 64;
  static constexpr int kBackwardBlocks = 1;
  struct Stage {
    float x[kRows][kWidth + 1], y[kCols][kWidth + 1];  // odd strides: no bank conflicts
  };
  struct Shared {
    Stage stage[2];
    float tile[kRows][kCols + 1];
  };

  static __device__ void load(Stage& s, const Operand<T>& x, int x_row, const Operand<T>& y, int y_row, int col, bool with_x) {
    const auto value = [=](const Operand<T>& m, int r, int c) { return r < m.count && c < m.width ? to_float(m.row(r)[c]) : 0.0f; };
    if (with_x)
      for (int i = thread_index().x; i < kRows * kWidth; i += kThreads)
        s.x[i / kWidth][i % kWidth] = value(x, x_row + i / kWidth, col + i % kWidth);
    for (int i = thread_index().x; i < kCols * kWidth; i += kThreads)
      s.y[i / kWidth][i % kWidth] = value(y, y_row + i / kWidth, col + i % kWidth);
  }

  static __device__ void multiply(Tile& tile, const Stage& s) {
    for (int k = 0; k < kWidth; ++k) {
      const float x[2] = {s.x[tile_row(0)][k], s.x[tile_row(1)][k]};
#pragma unroll
      for (int b = 0; b < kBlocks; ++b)
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const float y = s.y[tile_col(b, c)][k];
#pragma unroll
          for (int i = 0; i < 2; ++i) tile.at(i, b, c) = fmaf(x[i], y, tile.at(i, b, c));
        }
    }
  }

  static __device__ void accumulate(FragC (&out)[kWidth / 8], Tile& tile, const Stage& s, Shared& sm) {
#pragma unroll
    for (int b = 0; b < kBlocks; ++b)
#pragma unroll
      for (int c = 0; c < 4; ++c)
#pragma unroll
        for (int i = 0; i < 2; ++i) sm.tile[tile_row(i)][tile_col(b, c)] = tile.at(i, b, c);
    sync_warp();
    for (int col = 0; col < kCols; ++col)
#pragma unroll
      for (int n = 0; n < kWidth / 8; ++n)
#pragma unroll
        for (int j = 0; j < 4; ++j)
          out[n].r[j] = fmaf(sm.tile[tile_row(j / 2)][col], s.y[col][8 * n + 2 * (lane_index() % 4) + j % 2], out[n].r[j]);
    sync_warp();
  }

  static __device__ float exponential(float x) { return expf(x); }
};

// g = -log(-log u). The inner logarithm must be exact near u = 1, where the largest g come from.
__device__ inline float gumbel(uint32_t draw) { return -log_approx(-logf(uniform_open(draw))); }

__device__ inline double warp_sum_double(double v) {
#pragma unroll
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) v += shfl_xor(v, mask);
  return v;
}

struct SlotArgs {
  const int32_t *targets, *rows;
  const float *weights, *lse;  // lse, dloss: backward only
  const float* dloss;
  Sequences sequences;
  UsedSlot* used;
  int32_t* rank;               // backward: of each slot among the used ones, or -1
  int32_t* count;
  float* lse_out;              // forward: 0 where unused
  int32_t* sampled;
  int slots;
  const StepState* state;
};

struct SlotShared {
  int scratch[kWarps];
};

// Packs the used slots, in order. A thread a slot; a block counts the used slots before its own by itself (4 bytes each, from the
// cache), which costs less than a launch.
template <bool kBackward> __global__ void __launch_bounds__(kThreads) masked_lm_slots_kernel(SlotArgs a) {
  auto& sm = block_shared<SlotShared>();
  const int first = block_index().x * kThreads, i = first + thread_index().x;
  int before = 0;
#pragma unroll 8
  for (int j = thread_index().x; j < first; j += kThreads) before += a.weights[j] != 0;
  before = block_sum(before, sm.scratch);
  const float weight = i < a.slots ? a.weights[i] : 0;
  const bool is_used = weight != 0;
  const BlockScan scan = block_scan(static_cast<int>(is_used), sm.scratch);
  const int k = before + scan.before;
  if (block_index().x == grid_size().x - 1 && thread_index().x == 0) *a.count = before + scan.total;
  if (i >= a.slots) return;
  if (kBackward) a.rank[i] = is_used ? k : -1;
  if (!is_used) {
    if (!kBackward) {
      a.lse_out[i] = 0;
      a.sampled[i] = 0;
    }
    return;
  }
  UsedSlot& u = a.used[k];
  u.slot = i;
  u.target = a.targets[i];
  u.weight = weight;
  if (kBackward) {
    u.lse = a.lse[i];
    u.factor = static_cast<float>(static_cast<double>(*a.dloss) * static_cast<double>(weight) / a.state->masked_lm_denominator);
  } else {
    const int row = a.rows[i];
    const Place place = place_of(a.sequences, *a.state, row);
    uint32_t repeats = 0;
    for (int j = i - 1; j >= 0 && a.weights[j] != 0 && a.rows[j] == row; --j) ++repeats;
    u.sequence = place.sequence;
    u.position = place.position;
    u.group = repeats << kRepeatShift;
  }
}

// Walks the pieces of width of one tile of columns after another; two stages take turns.
struct Step {
  int col;  // the tile's first
  int piece = 0, stage = 0;
  __device__ Step next(int pieces) const {
    const bool last = piece + 1 == pieces;
    return {last ? col + kCols : col, last ? 0 : piece + 1, 1 - stage};
  }
  __device__ int parity() const { return col / kCols % 2; }  // of the tile
};

template <class T> struct ForwardArgs {
  const T *hidden, *word, *bias;
  const UsedSlot* used;
  const int32_t* count;
  Partial* partials;  // (slots, chunks)
  float* logits;      // (slots, vocab) or null
  int vocab, width, chunks;
  float inverse_temperature;
  bool disallow_correct;
  uint64_t site;
  const StepState* state;
};

template <class P> struct ForwardShared {
  typename P::Shared product;
  float bias[2][kCols];
};

// What a lane knows of one of its rows: the slot, and the statistics of the columns it has seen.
struct RowPass {
  uint32_t sequence, position, group;
  int target;
  float max = -kInfinity, sum = 0, target_logit = -kInfinity, best = -kInfinity;
  int argmax = kNoId, best_id = kNoId;
};

// A block takes 128 used slots through 512 ids, a warp 16 of the slots; four lanes share a row. Word tiles are double-buffered by
// cp.async, hidden stays in shared memory (widths above one stage are streamed too). Online (max, sum of exponentials), argmax and
// best perturbed logit in fp32; ids beyond the vocabulary have bias -inf. Traffic: hidden twice a chunk (once a stage), word once a tile of slots
// (both from L2 but for the first), 32 bytes a slot and chunk; no logits unless asked for.
template <class P> __global__ void __launch_bounds__(kThreads, 2) masked_lm_forward_kernel(ForwardArgs<typename P::T> a) {
  auto& sm = block_shared<ForwardShared<P>>();
  const int count = *a.count, first_row = block_index().x * kRows, first_id = block_index().y * kChunk;
  if (first_row >= count) return;
  const Operand<typename P::T> hidden{a.hidden, a.used, count, a.width}, word{a.word, nullptr, a.vocab, a.width};
  const int end_id = first_id + kChunk < a.vocab ? first_id + kChunk : a.vocab;
  const int pieces = ceil_div(a.width, P::kWidth);
  const auto load = [&](const Step& to) {
    P::load(sm.product.stage[to.stage], hidden, first_row, word, to.col, to.piece * P::kWidth, pieces > 1 || to.col < first_id + 2 * kCols);
    if (to.piece == 0 && thread_index().x < kCols) {
      const int mine = to.col + thread_index().x;
      sm.bias[to.parity()][thread_index().x] = mine < a.vocab ? to_float(a.bias[mine]) : -kInfinity;
    }
    copy_async_commit();
  };
  load({first_id});

  const uint64_t key = a.state->seed ^ a.site;
  const uint32_t step_index = a.state->step;
  RowPass row[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int k = first_row + tile_row(i);
    const UsedSlot& u = a.used[k < count ? k : first_row];
    row[i].sequence = u.sequence;
    row[i].position = u.position;
    row[i].group = u.group;
    row[i].target = u.target;
  }
  const bool warp_has_rows = first_row + 16 * warp_index() < count;
  Tile tile;
  for (Step step{first_id}, next; step.col < end_id; step = next) {
    next = step.next(pieces);
    copy_async_wait<0>();
    sync_block();
    if (next.col < end_id) load(next);
    if (!warp_has_rows) continue;
    if (step.piece == 0) tile.clear();
    P::multiply(tile, sm.product.stage[step.stage]);
    if (next.piece > 0) continue;

#pragma unroll
    for (int i = 0; i < 2; ++i) {
      RowPass& r = row[i];
      const float old_max = r.max;
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) {
        const Vec<float, 4> bias = load_vec<4>(&sm.bias[step.parity()][tile_col(b, 0)]);
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const int id = step.col + tile_col(b, c);
          const float logit = tile.at(i, b, c) += bias[c];
          if (logit > r.max) {
            r.max = logit;
            r.argmax = id;
          }
          if (id == r.target) r.target_logit = logit;
        }
      }
      const float top = r.max == -kInfinity ? 0 : r.max;
      r.sum *= P::exponential(old_max - top);
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) {
        const int id = step.col + tile_col(b, 0);
        const Bits128 bits = philox(key, {step_index, r.sequence, r.position, r.group + static_cast<uint32_t>(id) / 4});
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const float logit = tile.at(i, b, c);
          r.sum += P::exponential(logit - top);
          float perturbed = logit * a.inverse_temperature;
          if (a.disallow_correct && id + c == r.target) perturbed -= 1000.0f;
          perturbed += gumbel(bits.word[c]);
          if (perturbed > r.best) {
            r.best = perturbed;
            r.best_id = id + c;
          }
        }
      }
      const int k = first_row + tile_row(i);
      if (!a.logits || k >= count) continue;
      float* const logits = a.logits + static_cast<size_t>(a.used[k].slot) * static_cast<size_t>(a.vocab);
#pragma unroll
      for (int b = 0; b < kBlocks; ++b)
#pragma unroll
        for (int c = 0; c < 4; ++c)
          if (step.col + tile_col(b, c) < a.vocab) logits[step.col + tile_col(b, c)] = tile.at(i, b, c);
    }
  }
  if (!warp_has_rows) return;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const RowPass& r = row[i];
    const ArgMax top = warp_arg_max<4>({r.max, r.argmax}), best = warp_arg_max<4>({r.best, r.best_id});
    const float sum = warp_sum<4>(r.sum * P::exponential(r.max - (top.value == -kInfinity ? 0 : top.value)));
    const float target_logit = warp_max<4>(r.target_logit);
    const int k = first_row + tile_row(i);
    if (lane_index() % 4 > 0 || k >= count) continue;
    const Partial partial{top.value, sum, top.index, target_logit, best.value, best.index, {}};
    a.partials[static_cast<size_t>(k) * static_cast<size_t>(a.chunks) + static_cast<size_t>(block_index().y)] = partial;
  }
}

struct FinishArgs {
  const UsedSlot* used;
  const int32_t* count;
  const Partial* partials;
  Contribution* contributions;
  float* lse;
  int32_t* sampled;
  int vocab, chunks;
  bool disallow_correct;
  uint64_t site;
  const StepState* state;
};

__device__ inline void put_slot(const FinishArgs& a, int k, double lse, double target_logit, int argmax, int sample) {
  const UsedSlot& u = a.used[k];
  const auto weight = static_cast<double>(u.weight);
  sample = sample == kNoId ? 0 : sample;  // all logits are NaN
  a.lse[u.slot] = static_cast<float>(lse);
  a.sampled[u.slot] = sample;
  a.contributions[k] = {weight * (lse - target_logit), argmax == u.target ? weight : 0, sample == u.target ? weight : 0, weight};
}

// A warp combines the chunks of a used slot, in double. Reads the partial results once.
__global__ void __launch_bounds__(kThreads) masked_lm_finish_kernel(FinishArgs a) {
  const int k = block_index().x * kWarps + warp_index();
  if (k >= *a.count) return;
  const Partial* const partials = a.partials + static_cast<size_t>(k) * static_cast<size_t>(a.chunks);
  ArgMax top{-kInfinity, kNoId}, best = top;
  for (int c = lane_index(); c < a.chunks; c += kWarpSize) {
    const Partial& p = partials[c];
    top = larger(top, {p.max, p.argmax});
    best = larger(best, {p.best, p.best_id});
  }
  top = warp_arg_max(top);
  best = warp_arg_max(best);
  double total = 0;
  for (int c = lane_index(); c < a.chunks; c += kWarpSize)
    total += static_cast<double>(partials[c].sum) * exp(static_cast<double>(partials[c].max) - static_cast<double>(top.value));
  total = warp_sum_double(total);
  if (lane_index() > 0) return;
  const int target = a.used[k].target;
  const float target_logit = target >= 0 && target < a.vocab ? partials[target / kChunk].target_logit : NAN;
  put_slot(a, k, static_cast<double>(top.value) + log(total), static_cast<double>(target_logit), top.index, best.index);
}

// All logits are zero. A warp a used slot, four ids a lane at a time.
__global__ void __launch_bounds__(kThreads) masked_lm_uniform_kernel(FinishArgs a) {
  const int k = block_index().x * kWarps + warp_index();
  if (k >= *a.count) return;
  const UsedSlot& u = a.used[k];
  const uint64_t key = a.state->seed ^ a.site;
  ArgMax best{-kInfinity, kNoId};
  for (int id = 4 * lane_index(); id < a.vocab; id += 4 * kWarpSize) {
    const Bits128 bits = philox(key, {a.state->step, u.sequence, u.position, u.group + static_cast<uint32_t>(id) / 4});
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const float perturbed = (a.disallow_correct && id + c == u.target ? -1000.0f : 0.0f) + gumbel(bits.word[c]);
      if (id + c < a.vocab && perturbed > best.value) best = {perturbed, id + c};
    }
  }
  best = warp_arg_max(best);
  if (lane_index() == 0) put_slot(a, k, log(static_cast<double>(a.vocab)), 0, 0, best.index);
}

struct SumsArgs {
  const Contribution* contributions;
  const int32_t* count;
  float* loss;
  double* sums;
  const StepState* state;
};
struct SumsShared {
  double part[kWarps][kMaskedLmSums];
};

// One block: a thread adds every 256th slot, then lanes, then warps in order.
__global__ void __launch_bounds__(kThreads) masked_lm_sums_kernel(SumsArgs a) {
  auto& sm = block_shared<SumsShared>();
  double sum[kMaskedLmSums] = {};
  const int count = *a.count;
  for (int k = thread_index().x; k < count; k += kThreads) {
    const Contribution& c = a.contributions[k];
    sum[0] += c.loss;
    sum[1] += c.correct;
    sum[2] += c.sampled_correct;
    sum[3] += c.weight;
  }
#pragma unroll
  for (int i = 0; i < kMaskedLmSums; ++i) {
    sum[i] = warp_sum_double(sum[i]);
    if (lane_index() == 0) sm.part[warp_index()][i] = sum[i];
  }
  sync_block();
  if (thread_index().x >= kMaskedLmSums) return;
  double total = 0;
  for (int w = 0; w < kWarps; ++w) total += sm.part[w][thread_index().x];
  a.sums[thread_index().x] = total;
  if (thread_index().x == 0) *a.loss = static_cast<float>(total / a.state->masked_lm_denominator);
}

struct ClearLogitsArgs {
  float* logits;
  const float* weights;  // null: every slot
  int vocab;
};

// logits = 0 for the slots of weight 0: a block a slot.
__global__ void __launch_bounds__(kThreads) masked_lm_clear_logits_kernel(ClearLogitsArgs a) {
  const int slot = block_index().x;
  if (a.weights && a.weights[slot] != 0) return;
  float* const logits = a.logits + static_cast<size_t>(slot) * static_cast<size_t>(a.vocab);
  for (int v = thread_index().x; v < a.vocab; v += kThreads) logits[v] = 0;
}

template <class T> struct BackwardArgs {
  const T *hidden, *word, *bias;
  const UsedSlot* used;
  const int32_t* count;
  float* out;    // dword; or partial dhidden (splits, slots, width), rows of used slots
  float* dbias;
  int slots, vocab, width;
  GradMode mode, dbias_mode;
};

// What the gradient of a slot's logits needs.
struct alignas(16) SlotGradient {
  float lse, factor;
  int target, unused;
};
__device__ inline SlotGradient slot_gradient(const UsedSlot* used, int k, int count) {
  if (k >= count) return {0, 0, -1, 0};
  return {used[k].lse, used[k].factor, used[k].target, 0};
}

// Where BackwardShared::column has a column of the tile: the four that lanes read together, 4 t + c, side by side, in different banks.
__device__ inline int slot_place(int col) { return col / 16 * 16 + col % 4 * 4 + col % 16 / 4; }

template <class P> struct BackwardShared {
  typename P::Shared product;
  float bias[2][kCols];           // where columns are ids
  SlotGradient column[2][kCols];  // where they are slots: see slot_place
  float row_bias[kRows];
  SlotGradient row[kRows];
  float row_sum[kRows][4];        // of dlogits, each lane's own
};

// Computes logits again, dlogits = factor (softmax - onehot) in their place, and out = dlogits · columns' operand.
// kWord: rows are ids, columns all used slots: a block makes 128 rows of dword and dbias. Otherwise rows are used slots, columns
// 2,048 ids: a partial dhidden. A warp has 16 rows; widths above one stage are streamed through it, and a block of its own makes each
// slice of the output. Traffic: as forward, with the two operands' parts exchanged for kWord; out once.
template <class P, bool kWord> __global__ void __launch_bounds__(kThreads, P::kBackwardBlocks) masked_lm_backward_kernel(BackwardArgs<typename P::T> a) {
  using T = typename P::T;
  auto& sm = block_shared<BackwardShared<P>>();
  const int count = *a.count, first_row = block_index().x * kRows;
  const Operand<T> hidden{a.hidden, a.used, count, a.width}, word{a.word, nullptr, a.vocab, a.width};
  const Operand<T>& x = kWord ? word : hidden;
  const Operand<T>& y = kWord ? hidden : word;
  if (first_row >= x.count) return;
  const int first_col = block_index().y * kSplit;  // of slots there is one split
  const int end_col = kWord || first_col + kSplit > y.count ? y.count : first_col + kSplit;
  const int pieces = ceil_div(a.width, P::kWidth), slice = block_index().z;
  // The slice comes last of a tile's pieces: its columns are in the stage when the tile is complete.
  const auto load = [&](const Step& to) {
    const int piece = to.piece + slice + 1;
    P::load(sm.product.stage[to.stage], x, first_row, y, to.col, (piece < pieces ? piece : piece - pieces) * P::kWidth,
            pieces > 1 || to.col < first_col + 2 * kCols);
    if (to.piece == 0 && thread_index().x < kCols) {
      const int j = thread_index().x, mine = to.col + j;
      if (kWord) {
        sm.column[to.parity()][slot_place(j)] = slot_gradient(a.used, mine, count);
      } else {
        sm.bias[to.parity()][j] = mine < a.vocab ? to_float(a.bias[mine]) : -kInfinity;
      }
    }
    copy_async_commit();
  };
  if (first_col < end_col) load({first_col});

  if (const int r = first_row + thread_index().x; thread_index().x < kRows) {
    if (kWord) sm.row_bias[thread_index().x] = r < a.vocab ? to_float(a.bias[r]) : 0;
    else sm.row[thread_index().x] = slot_gradient(a.used, r, count);
  }
  if (kWord)
    for (int i = 0; i < 2; ++i) sm.row_sum[tile_row(i)][lane_index() % 4] = 0;
  const bool warp_has_rows = first_row + 16 * warp_index() < x.count;
  FragC out[P::kWidth / 8] = {};
  Tile tile;
  for (Step step{first_col}, next; step.col < end_col; step = next) {
    next = step.next(pieces);
    copy_async_wait<0>();
    sync_block();
    if (next.col < end_col) load(next);
    if (!warp_has_rows) continue;
    if (step.piece == 0) tile.clear();
    P::multiply(tile, sm.product.stage[step.stage]);
    if (next.piece > 0) continue;

    float sum[2] = {};
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      Vec<float, 4> bias{};
      if (!kWord) bias = load_vec<4>(&sm.bias[step.parity()][tile_col(b, 0)]);
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        SlotGradient of{};
        if (kWord) of = sm.column[step.parity()][slot_place(tile_col(b, c))];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          if (!kWord) of = sm.row[tile_row(i)];
          const int id = kWord ? first_row + tile_row(i) : step.col + tile_col(b, c);
          const float p = P::exponential(tile.at(i, b, c) + (kWord ? sm.row_bias[tile_row(i)] : bias[c]) - of.lse);
          const float d = of.factor == 0 ? 0 : of.factor * (of.target == id ? p - 1 : p);
          tile.at(i, b, c) = d;
          sum[i] += d;
        }
      }
    }
    if (kWord)
      for (int i = 0; i < 2; ++i) sm.row_sum[tile_row(i)][lane_index() % 4] += sum[i];
    P::accumulate(out, tile, sm.product.stage[step.stage], sm.product);
  }
  if (!warp_has_rows) return;

  const GradMode mode = kWord ? a.mode : GradMode::write;
  const size_t first_out = kWord ? 0 : static_cast<size_t>(block_index().y) * static_cast<size_t>(a.slots);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float sum = kWord ? warp_sum<4>(sm.row_sum[tile_row(i)][lane_index() % 4]) : 0;
    const int r = first_row + tile_row(i);
    if (r >= x.count) continue;
    if (kWord && slice == 0 && lane_index() % 4 == 0) put(a.dbias + r, sum, a.dbias_mode);
    if (mode == GradMode::none) continue;
    float* const to = a.out + (first_out + static_cast<size_t>(r)) * static_cast<size_t>(a.width);
#pragma unroll
    for (int n = 0; n < P::kWidth / 8; ++n) {
      const int col = slice * P::kWidth + 8 * n + 2 * (lane_index() % 4);
      if (a.width % 2 == 0 && col < a.width) {
        Vec<float, 2> pair{{out[n].r[2 * i], out[n].r[2 * i + 1]}};
        if (mode == GradMode::accumulate) {
          const Vec<float, 2> old = load_vec<2>(to + col);
          pair[0] += old[0];
          pair[1] += old[1];
        }
        store_vec(to + col, pair);
      } else {
        for (int j = 0; j < 2; ++j)
          if (col + j < a.width) put(to + col + j, out[n].r[2 * i + j], mode);
      }
    }
  }
}

template <class T> struct ReduceArgs {
  const float* partials;  // (splits, slots, width)
  const int32_t* rank;
  T* dhidden;
  int slots, width, splits;
  GradMode mode;
};

// dhidden = the partial results in order; 0 for unused slots. kVec elements a thread.
template <class T, int kVec> __global__ void __launch_bounds__(kThreads) masked_lm_reduce_kernel(ReduceArgs<T> a) {
  const int per_row = a.width / kVec;
  const int64_t i = static_cast<int64_t>(block_index().x) * kThreads + thread_index().x;
  if (i >= static_cast<int64_t>(a.slots) * per_row) return;
  const int slot = static_cast<int>(i / per_row), col = static_cast<int>(i % per_row) * kVec, k = a.rank[slot];
  if (k < 0 && a.mode == GradMode::accumulate) return;
  float sum[kVec] = {}, part[kVec];
  T* const to = a.dhidden + static_cast<size_t>(slot) * static_cast<size_t>(a.width) + col;
  for (int s = 0; k >= 0 && s < a.splits; ++s) {
    load_floats(part, a.partials + (static_cast<size_t>(s) * static_cast<size_t>(a.slots) + static_cast<size_t>(k)) * static_cast<size_t>(a.width) + col);
#pragma unroll
    for (int j = 0; j < kVec; ++j) sum[j] += part[j];
  }
  if (a.mode == GradMode::accumulate) {
    load_floats(part, to);
#pragma unroll
    for (int j = 0; j < kVec; ++j) sum[j] += part[j];
  }
  store_floats(to, sum);
}

// The workspace of either pass.
struct Pieces {
  int32_t* count;
  UsedSlot* used;
  int32_t* rank;                // backward
  float* dhidden;               // backward (splits, slots, width)
  Partial* partials;            // forward (slots, chunks)
  Contribution* contributions;  // forward
};
int64_t chunks_of(int64_t vocab) { return ceil_div<int64_t>(vocab, kChunk); }
int64_t splits_of(int64_t vocab) { return ceil_div<int64_t>(vocab, kSplit); }
size_t common_bytes(int64_t slots) { return Scratch::bytes<int32_t>(1) + Scratch::bytes<UsedSlot>(slots); }
size_t forward_bytes(int64_t slots, int64_t vocab) { return Scratch::bytes<Partial>(slots * chunks_of(vocab)) + Scratch::bytes<Contribution>(slots); }
size_t backward_bytes(int64_t slots, int64_t vocab, int64_t width) {
  return Scratch::bytes<int32_t>(slots) + Scratch::bytes<float>(splits_of(vocab) * slots * width);
}
Pieces pieces_of(const Tensor& workspace, int64_t slots, int64_t vocab, int64_t width, bool backward) {
  Scratch scratch(workspace);
  Pieces p{};
  p.count = scratch.take<int32_t>(1);
  p.used = scratch.take<UsedSlot>(slots);
  if (backward) {
    p.rank = scratch.take<int32_t>(slots);
    p.dhidden = scratch.take<float>(splits_of(vocab) * slots * width);
  } else {
    p.partials = scratch.take<Partial>(slots * chunks_of(vocab));
    p.contributions = scratch.take<Contribution>(slots);
  }
  return p;
}

// Calls f.operator()<Product>().
template <class F> void dispatch_product(DType type, int64_t width, F f) {
  dispatch_float("masked_lm", type, [&]<class T>() {
    if constexpr (std::is_same_v<T, bf16>) {
      if (width % 8 == 0) return width <= 64 ? f.template operator()<TensorCore<64>>() : f.template operator()<TensorCore<128>>();
    }
    f.template operator()<Plain<T>>();
  });
}

Grid blocks_for(int64_t items, int64_t per_block) { return {static_cast<int>(std::max<int64_t>(1, ceil_div(items, per_block)))}; }

void check_slots(const Tensor& targets, const Tensor& weights) {
  check_shape("masked_lm", "weights", weights.shape, targets.shape);
  check_dtype("masked_lm", "targets", targets.dtype, DType::i32);
  check_dtype("masked_lm", "weights", weights.dtype, DType::f32);
}

}  // namespace

template <> size_t masked_lm_workspace<Backend::cuda>(int64_t slots, int64_t vocab_size, int64_t cols, int, DType) {
  return common_bytes(slots) + std::max(forward_bytes(slots, vocab_size), backward_bytes(slots, vocab_size, cols));
}

template <> void masked_lm_forward<Backend::cuda>(const MaskedLmForward& args, Stream& stream) {
  const Shape slots_shape = args.targets.shape;
  const int64_t slots = slots_shape.size(), vocab = args.vocab_size, width = args.uniform ? 0 : args.hidden.cols();
  check_shape("masked_lm", "rows", args.rows.shape, slots_shape);
  check_shape("masked_lm", "sampled_ids", args.sampled_ids.shape, slots_shape);
  check_shape("masked_lm", "lse", args.lse.shape, slots_shape);
  check_shape("masked_lm", "sums", args.sums.shape, {kMaskedLmSums});
  check_shape("masked_lm", "loss", args.loss.shape, {1});
  if (!args.uniform) {
    check_shape("masked_lm", "hidden", args.hidden.shape, {slots, width});
    check_shape("masked_lm", "word", args.word.shape, {vocab, width});
    check_shape("masked_lm", "bias", args.bias.shape, {vocab});
    check_dtype("masked_lm", "word", args.word.dtype, args.hidden.dtype);
    check_dtype("masked_lm", "bias", args.bias.dtype, args.hidden.dtype);
  }
  check_dtype("masked_lm", "loss", args.loss.dtype, DType::f32);
  check_dtype("masked_lm", "lse", args.lse.dtype, DType::f32);
  check_dtype("masked_lm", "sums", args.sums.dtype, DType::f64);
  check_slots(args.targets, args.weights);
  check_dtype("masked_lm", "rows", args.rows.dtype, DType::i32);
  check_dtype("masked_lm", "sampled_ids", args.sampled_ids.dtype, DType::i32);
  if (args.logits) {
    check_shape("masked_lm", "logits", args.logits.shape, {slots, vocab});
    check_dtype("masked_lm", "logits", args.logits.dtype, DType::f32);
  }
  check_dtype("masked_lm", "sequence_offsets", args.sequence_offsets.dtype, DType::i32);
  check_state("masked_lm", args.state);
  if (!(args.temperature > 0)) throw ConfigError("masked_lm", "expected a temperature above 0, got " + std::to_string(args.temperature));
  check_workspace("masked_lm", args.workspace, masked_lm_workspace<Backend::cuda>(slots, vocab, width, 0, args.loss.dtype));

  const Pieces p = pieces_of(args.workspace, slots, vocab, width, false);
  const auto chunks = static_cast<int>(chunks_of(vocab));
  launch(masked_lm_slots_kernel<false>, blocks_for(slots, kThreads), {kThreads}, sizeof(SlotShared), stream.handle(),
         SlotArgs{.targets = args.targets.as<int32_t>(),
                  .rows = args.rows.as<int32_t>(),
                  .weights = args.weights.as<float>(),
                  .lse = nullptr,
                  .dloss = nullptr,
                  .sequences = Sequences::of(args.sequence_offsets),
                  .used = p.used,
                  .rank = nullptr,
                  .count = p.count,
                  .lse_out = args.lse.as<float>(),
                  .sampled = args.sampled_ids.as<int32_t>(),
                  .slots = static_cast<int>(slots),
                  .state = args.state});
  if (args.logits && slots > 0)
    launch(masked_lm_clear_logits_kernel, {static_cast<int>(slots)}, {kThreads}, 0, stream.handle(),
           ClearLogitsArgs{args.logits.as<float>(), args.uniform ? nullptr : args.weights.as<float>(), static_cast<int>(vocab)});
  const FinishArgs finish{.used = p.used,
                          .count = p.count,
                          .partials = p.partials,
                          .contributions = p.contributions,
                          .lse = args.lse.as<float>(),
                          .sampled = args.sampled_ids.as<int32_t>(),
                          .vocab = static_cast<int>(vocab),
                          .chunks = chunks,
                          .disallow_correct = args.disallow_correct,
                          .site = args.site,
                          .state = args.state};
  if (args.uniform) {
    launch(masked_lm_uniform_kernel, blocks_for(slots, kWarps), {kThreads}, 0, stream.handle(), finish);
  } else {
    dispatch_product(args.hidden.dtype, width, [&]<class P>() {
      using T = typename P::T;
      launch(masked_lm_forward_kernel<P>, {blocks_for(slots, kRows).x, chunks}, {kThreads}, sizeof(ForwardShared<P>), stream.handle(),
             ForwardArgs<T>{.hidden = args.hidden.as<T>(),
                            .word = args.word.as<T>(),
                            .bias = args.bias.as<T>(),
                            .used = p.used,
                            .count = p.count,
                            .partials = p.partials,
                            .logits = args.logits.as<float>(),
                            .vocab = static_cast<int>(vocab),
                            .width = static_cast<int>(width),
                            .chunks = chunks,
                            .inverse_temperature = static_cast<float>(1 / args.temperature),
                            .disallow_correct = args.disallow_correct,
                            .site = args.site,
                            .state = args.state});
    });
    launch(masked_lm_finish_kernel, blocks_for(slots, kWarps), {kThreads}, 0, stream.handle(), finish);
  }
  launch(masked_lm_sums_kernel, {1}, {kThreads}, sizeof(SumsShared), stream.handle(),
         SumsArgs{p.contributions, p.count, args.loss.as<float>(), args.sums.as<double>(), args.state});
}

template <> void masked_lm_backward<Backend::cuda>(const MaskedLmBackward& args, Stream& stream) {
  const int64_t slots = args.hidden.rows(), vocab = args.word.rows(), width = args.hidden.cols();
  check_shape("masked_lm", "word", args.word.shape, {vocab, width});
  check_shape("masked_lm", "bias", args.bias.shape, {vocab});
  check_shape("masked_lm", "targets", args.targets.shape, {slots});
  check_slots(args.targets, args.weights);
  check_shape("masked_lm", "lse", args.lse.shape, {slots});
  check_shape("masked_lm", "dloss", args.dloss.shape, {1});
  const auto check_gradient = [&](const char* what, GradMode mode, const Tensor& gradient, const Shape& expected, DType type) {
    if (mode == GradMode::none) return;
    check_shape("masked_lm", what, gradient.shape, expected);
    check_dtype("masked_lm", what, gradient.dtype, type);
  };
  check_gradient("dhidden", args.dhidden_mode, args.dhidden, args.hidden.shape, args.hidden.dtype);
  check_gradient("dword", args.dword_mode, args.dword, args.word.shape, DType::f32);
  check_gradient("dbias", args.dbias_mode, args.dbias, {vocab}, DType::f32);
  check_dtype("masked_lm", "word", args.word.dtype, args.hidden.dtype);
  check_dtype("masked_lm", "bias", args.bias.dtype, args.hidden.dtype);
  check_dtype("masked_lm", "lse", args.lse.dtype, DType::f32);
  check_dtype("masked_lm", "dloss", args.dloss.dtype, DType::f32);
  check_state("masked_lm", args.state);
  check_workspace("masked_lm", args.workspace, masked_lm_workspace<Backend::cuda>(slots, vocab, width, 0, args.hidden.dtype));

  const Pieces p = pieces_of(args.workspace, slots, vocab, width, true);
  launch(masked_lm_slots_kernel<true>, blocks_for(slots, kThreads), {kThreads}, sizeof(SlotShared), stream.handle(),
         SlotArgs{.targets = args.targets.as<int32_t>(),
                  .rows = nullptr,
                  .weights = args.weights.as<float>(),
                  .lse = args.lse.as<float>(),
                  .dloss = args.dloss.as<float>(),
                  .sequences = {},
                  .used = p.used,
                  .rank = p.rank,
                  .count = p.count,
                  .lse_out = nullptr,
                  .sampled = nullptr,
                  .slots = static_cast<int>(slots),
                  .state = args.state});
  dispatch_product(args.hidden.dtype, width, [&]<class P>() {
    using T = typename P::T;
    BackwardArgs<T> kernel_args{.hidden = args.hidden.as<T>(),
                                .word = args.word.as<T>(),
                                .bias = args.bias.as<T>(),
                                .used = p.used,
                                .count = p.count,
                                .out = p.dhidden,
                                .dbias = args.dbias.as<float>(),
                                .slots = static_cast<int>(slots),
                                .vocab = static_cast<int>(vocab),
                                .width = static_cast<int>(width),
                                .mode = args.dword_mode,
                                .dbias_mode = args.dbias_mode};
    const auto slices = static_cast<int>(ceil_div<int64_t>(width, P::kWidth));
    if (args.dhidden_mode != GradMode::none && slots > 0) {
      const auto splits = static_cast<int>(splits_of(vocab));
      launch(masked_lm_backward_kernel<P, false>, {blocks_for(slots, kRows).x, splits, slices}, {kThreads}, sizeof(BackwardShared<P>),
             stream.handle(), kernel_args);
      const auto reduce = [&]<int kVec>() {
        launch(masked_lm_reduce_kernel<T, kVec>, blocks_for(slots * width / kVec, kThreads), {kThreads}, 0, stream.handle(),
               ReduceArgs<T>{p.dhidden, p.rank, args.dhidden.as<T>(), static_cast<int>(slots), static_cast<int>(width), splits,
                             args.dhidden_mode});
      };
      if (width % 4 == 0) reduce.template operator()<4>();
      else reduce.template operator()<1>();
    }
    if (args.dword_mode == GradMode::none && args.dbias_mode == GradMode::none) return;
    kernel_args.out = args.dword.as<float>();
    launch(masked_lm_backward_kernel<P, true>, {blocks_for(vocab, kRows).x, 1, args.dword_mode == GradMode::none ? 1 : slices}, {kThreads},
           sizeof(BackwardShared<P>), stream.handle(), kernel_args);
  });
}

}  // namespace electra
