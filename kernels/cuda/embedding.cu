// Embeddings with LayerNorm and dropout. Forward is one launch. Backward leaves the gradient of the summed embeddings in memory,
// from which each table takes its sums in a fixed order: positions by walking the sequences, segments along with them, words by a
// sort of the rows by token. No floating-point atomics.
#include "kernels/embedding.h"

#include <limits>

#include "kernels/cuda/layer_norm.cuh"
#include "kernels/cuda/put_sums.cuh"
#include "kernels/cuda/sort_rows.cuh"

namespace electra {
namespace {

using namespace cuda;

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kTile = 4 * kWarpSize;        // columns of a table that a warp adds up: 4 neighbours a lane
constexpr int kChunk = kWarpSize;           // sorted rows that a warp adds up
constexpr int kMostPositionBlocks = 256;
constexpr auto kSegments = static_cast<int>(kMaxSegments);

// The rows to be embedded and the tables.
template <class T> struct Tables {
  const int32_t *ids, *segments;
  const T *word, *position, *segment;
  Sequences sequences;
  int cols;
  template <class Args> static Tables of(const Args& a) {
    return {a.ids.template as<int32_t>(), a.segments.template as<int32_t>(), a.word.template as<T>(), a.position.template as<T>(),
            a.segment.template as<T>(), Sequences::of(a.sequence_offsets), static_cast<int>(a.word.cols())};
  }
  // x = word + position + segment of a row, in fp32.
  template <class Layout> __device__ void gather(const RowPart<Layout>& part, int row, Place place, float (&x)[Layout::kGroups][8]) const {
    const size_t id = part.exists() ? ids[row] : 0, kind = part.exists() ? segments[row] : 0;
    const size_t at = place.sequence == kNoSequence ? 0 : place.position;
    typename RowPart<Layout>::Values p, s;
    part.load(x, word + id * cols);
    part.load(p, position + at * cols);
    part.load(s, segment + kind * cols);
#pragma unroll
    for (int i = 0; i < Layout::kGroups; ++i) {
#pragma unroll
      for (int j = 0; j < 8; ++j) x[i][j] = x[i][j] + p[i][j] + s[i][j];
    }
  }
};

template <class T> struct ForwardArgs {
  Tables<T> tables;
  const T *gamma, *beta;
  T* y;
  float *mean, *rstd;
  int rows;
  float eps;
  DropoutArgs dropout;
  const StepState* state;  // may be null without dropout
};

// Rows as in layer_norm_kernel. Traffic: a row of the word table read and a row of y written; the other tables stay in the caches,
// gamma and beta are read once a block.
template <class T, class Layout> __global__ void __launch_bounds__(kRowThreads, Layout::kForwardBlocks) embedding_kernel(ForwardArgs<T> a) {
  auto& sm = block_shared<RowShared<T, Layout>>();
  const int cols = a.tables.cols;
  RowPart<Layout> part(cols, sm.scratch);
  share<Layout>(sm.gamma, a.gamma, cols);
  share<Layout>(sm.beta, a.beta, cols);
  sync_block();
  const StepState state = a.state ? *a.state : StepState{};
  for (int first = block_index().x * Layout::kRows; first < a.rows; first += grid_size().x * Layout::kRows) {
    const int row = first + part.slot();
    part.set_exists(row < a.rows);
    const Place place = place_of(a.tables.sequences, state, row);
    typename RowPart<Layout>::Values x;
    a.tables.gather(part, row, place, x);
    const auto statistics = part.statistics(x, a.eps);
    part.normalise(x, statistics, sm.gamma, sm.beta);
    if (a.dropout.threshold != 0) part.drop(x, a.dropout, state, place);
    part.put(a.y + static_cast<size_t>(row) * cols, x);
    if (part.exists() && part.is_first_lane()) {
      a.mean[row] = statistics.mean;
      a.rstd[row] = statistics.rstd;
    }
  }
}

template <class T> struct RowsArgs {
  Tables<T> tables;
  const T *gamma, *dy;
  const float *mean, *rstd;
  float* de;       // (rows, cols): gradient of the summed embeddings; or null
  float* partial;  // (blocks, 2, cols): dgamma, dbeta; or null
  DropoutArgs dropout;
  const StepState* state;
};

// As layer_norm_backward_kernel, with the normalised row gathered again instead of kept. Traffic: word rows and dy read once, de
// written once, in fp32, for the sums of the tables.
template <class T, class Layout>
__global__ void __launch_bounds__(kRowThreads, Layout::kBackwardBlocks) embedding_backward_kernel(RowsArgs<T> a) {
  auto& sm = block_shared<RowSumShared<T, Layout>>();
  const int cols = a.tables.cols, used = a.tables.sequences.used_rows();
  RowPart<Layout> part(cols, sm.scratch);
  share<Layout>(sm.gamma, a.gamma, cols);
  sync_block();
  const StepState state = a.state ? *a.state : StepState{};
  typename RowPart<Layout>::Values dgamma = {}, dbeta = {};
  for (int first = block_index().x * Layout::kRows; first < used; first += grid_size().x * Layout::kRows) {
    const int row = first + part.slot();
    part.set_exists(row < used);
    const size_t offset = static_cast<size_t>(row) * cols;
    const Place place = place_of(a.tables.sequences, state, row);
    typename RowPart<Layout>::Values x, d;
    part.load(d, a.dy + offset);
    a.tables.gather(part, row, place, x);
    if (a.dropout.threshold != 0) part.drop(d, a.dropout, state, place);
    const float mean = part.exists() ? a.mean[row] : 0, rstd = part.exists() ? a.rstd[row] : 0;
    part.backward(x, d, {mean, rstd}, sm.gamma, dgamma, dbeta);
    if (a.de) part.put(a.de + offset, d);
  }
  if (!a.partial) return;
  float* const block = a.partial + static_cast<size_t>(block_index().x) * 2 * cols;
  put_block_sum(dgamma, block, cols, sm);
  put_block_sum(dbeta, block + cols, cols, sm);
}

// Four neighbouring columns of a row of fp32: one access where the width is a multiple of 4.
template <bool kVector> __device__ inline void load4(float (&x)[4], const float* row, int column, int cols) {
  if constexpr (kVector) {
    if (column < cols) return load_floats(x, row + column);
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) x[j] = !kVector && column + j < cols ? row[column + j] : 0.0f;
}
template <bool kVector> __device__ inline void put4(float* row, const float (&x)[4], int column, int cols, GradMode mode) {
  if (column >= cols || mode == GradMode::none) return;
  if constexpr (kVector) {
    float sum[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) sum[j] = x[j];
    if (mode == GradMode::accumulate) {
      load_floats(sum, row + column);
#pragma unroll
      for (int j = 0; j < 4; ++j) sum[j] += x[j];
    }
    store_floats(row + column, sum);
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (column + j < cols) put(row + column + j, x[j], mode);
  }
}

struct PositionArgs {
  const float* de;
  const int32_t* segments;
  Sequences sequences;
  float* dposition;  // (positions, cols)
  float* partial;    // (blocks, segment_rows, cols): of dsegment; or null
  int positions, segment_rows, cols;
  GradMode mode;  // of dposition
};

struct PositionShared {
  alignas(16) float sum[kWarps][kTile];
};

// The warps' sums, added in order, in the first 128 threads: one column each.
__device__ inline float sum_of_warps(const float (&x)[4], PositionShared& sm) {
  store_floats(&sm.sum[warp_index()][4 * lane_index()], x);
  sync_block();
  float sum = 0;
  if (thread_index().x < kTile) {
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += sm.sum[w][thread_index().x];
  }
  sync_block();
  return sum;
}

// A block takes every blocks-th position and 128 columns; warp w adds up sequences w, w + 8, ... that reach the position. The
// sums by segment go over all of the block's rows. Traffic: de once.
template <bool kVector> __global__ void __launch_bounds__(kThreads) position_kernel(PositionArgs a) {
  auto& sm = block_shared<PositionShared>();
  const int tile = block_index().y * kTile, column = tile + 4 * lane_index(), my_column = tile + thread_index().x;
  const bool writes = thread_index().x < kTile && my_column < a.cols;
  float by_segment[kSegments][4] = {};
  for (int position = block_index().x; position < a.positions; position += grid_size().x) {
    float sum[4] = {};
#pragma unroll 4
    for (int q = warp_index(); q < a.sequences.count; q += kWarps) {
      const int row = a.sequences.offsets[q] + position;
      if (row >= a.sequences.offsets[q + 1]) continue;
      float x[4];
      load4<kVector>(x, a.de + static_cast<size_t>(row) * a.cols, column, a.cols);
      const int segment = a.segments[row];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        sum[j] += x[j];
#pragma unroll
        for (int s = 0; s < kSegments; ++s) by_segment[s][j] += s == segment ? x[j] : 0.0f;
      }
    }
    if (a.mode == GradMode::none) continue;
    const float total = sum_of_warps(sum, sm);
    if (writes) put(a.dposition + static_cast<size_t>(position) * a.cols + my_column, total, a.mode);
  }
  if (!a.partial) return;
#pragma unroll
  for (int s = 0; s < kSegments; ++s) {
    if (s >= a.segment_rows) break;
    const float total = sum_of_warps(by_segment[s], sm);
    if (writes) a.partial[(static_cast<size_t>(block_index().x) * a.segment_rows + s) * a.cols + my_column] = total;
  }
}

struct WordArgs {
  const float* de;
  SortedRows sorted = {};
  Sequences sequences;
  float* dword;    // (vocab, cols)
  float* partial;  // (chunks, 2, cols): of the run that began in an earlier chunk, and of the one that goes on in the next
  int vocab, cols;
  GradMode mode;
};

// A warp takes 32 sorted rows and 128 columns and adds up each run of equal tokens, in row order. Runs that lie within the 32 are
// done; parts of longer ones go to `partial`, so that a frequent token is not one warp's work. Traffic: de once, the rows of dword
// that occur once.
template <bool kVector> __global__ void __launch_bounds__(kThreads) word_sums_kernel(WordArgs a) {
  constexpr int kBatch = 8;  // rows under way
  const int lane = lane_index(), chunk = block_index().x * kWarps + warp_index(), first = chunk * kChunk;
  const int used = a.sequences.used_rows(), column = block_index().y * kTile + 4 * lane;
  if (first >= used) return;
  const int32_t* const keys = a.sorted.keys;
  const int n = used - first < kChunk ? used - first : kChunk, at = first + (lane < n ? lane : n - 1);
  const int32_t key = keys[at], row = a.sorted.rows[at];
  const bool goes_on = at + 1 < used && keys[at + 1] == key;                       // in the next row
  const uint32_t last_of_run = ballot(lane < n && (lane == n - 1 || !goes_on));    // as far as the chunk holds it
  const bool enters = first > 0 && keys[first - 1] == shfl(key, 0), leaves = shfl(goes_on ? 1 : 0, n - 1) != 0;
  float* const partial = a.partial + static_cast<size_t>(chunk) * 2 * a.cols;
  bool is_first = true;
  float sum[4] = {};
  for (int batch = 0; batch < n; batch += kBatch) {
    float x[kBatch][4];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int r = shfl(row, batch + i);
      if (batch + i < n) load4<kVector>(x[i], a.de + static_cast<size_t>(r) * a.cols, column, a.cols);
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (batch + i >= n) break;
#pragma unroll
      for (int j = 0; j < 4; ++j) sum[j] += x[i][j];
      if ((last_of_run >> (batch + i) & 1) == 0) continue;
      const int32_t token = shfl(key, batch + i);
      const bool began_before = is_first && enters, ends_later = batch + i == n - 1 && leaves;
      if (began_before) put4<kVector>(partial, sum, column, a.cols, GradMode::write);
      else if (ends_later) put4<kVector>(partial + a.cols, sum, column, a.cols, GradMode::write);
      else put4<kVector>(a.dword + static_cast<size_t>(token) * a.cols, sum, column, a.cols, a.mode);
      is_first = false;
#pragma unroll
      for (int j = 0; j < 4; ++j) sum[j] = 0;
    }
  }
}

// Runs longer than their chunk: the warp of the chunk where one begins adds up its parts in order. 32 chunks are looked at at a time.
template <bool kVector> __global__ void __launch_bounds__(kThreads) word_runs_kernel(WordArgs a) {
  const int lane = lane_index(), chunk = block_index().x * kWarps + warp_index(), first = chunk * kChunk, next = first + kChunk;
  const int used = a.sequences.used_rows(), column = block_index().y * kTile + 4 * lane;
  const int32_t* const keys = a.sorted.keys;
  if (next >= used) return;
  const int32_t key = keys[next];
  if (keys[next - 1] != key || (first > 0 && keys[first - 1] == key)) return;
  float sum[4], x[4];
  load4<kVector>(sum, a.partial + (static_cast<size_t>(chunk) * 2 + 1) * a.cols, column, a.cols);
  for (int from = chunk + 1;; from += kWarpSize) {
    const int at = (from + lane) * kChunk;
    const uint32_t others = ballot(at >= used || keys[at] != key);
    const int parts = others == 0 ? kWarpSize : lowest_bit(others);
#pragma unroll 4
    for (int i = 0; i < parts; ++i) {
      load4<kVector>(x, a.partial + static_cast<size_t>(from + i) * 2 * a.cols, column, a.cols);
#pragma unroll
      for (int j = 0; j < 4; ++j) sum[j] += x[j];
    }
    if (others != 0) break;
  }
  put4<kVector>(a.dword + static_cast<size_t>(key) * a.cols, sum, column, a.cols, a.mode);
}

// Zeros for the tokens that do not occur. A warp takes 32 tokens; each lane looks for one among the sorted rows.
template <bool kVector> __global__ void __launch_bounds__(kThreads) clear_words_kernel(WordArgs a) {
  const int lane = lane_index(), first = (block_index().x * kWarps + warp_index()) * kWarpSize, token = first + lane;
  const int used = a.sequences.used_rows();
  int low = 0, high = used;  // the first row of the token, or of a higher one, is in low..high
  while (low < high) {
    const int middle = low + (high - low) / 2;
    if (a.sorted.keys[middle] < token) low = middle + 1;
    else high = middle;
  }
  const bool occurs = low < used && a.sorted.keys[low] == token;
  const float zeros[4] = {};
  for (uint32_t absent = ballot(token < a.vocab && !occurs); absent != 0; absent &= absent - 1) {
    float* const row = a.dword + static_cast<size_t>(first + lowest_bit(absent)) * a.cols;
    for (int column = 4 * lane; column < a.cols; column += kTile) put4<kVector>(row, zeros, column, a.cols, GradMode::write);
  }
}

int chunks_of(int64_t rows) { return static_cast<int>(ceil_div<int64_t>(rows, kChunk)); }
int position_blocks(int64_t rows) { return static_cast<int>(std::clamp<int64_t>(rows, 1, kMostPositionBlocks)); }

struct BackwardScratch {
  float *de, *partial, *segments, *runs;
  Scratch rest;  // of the sort
  BackwardScratch(const Tensor& workspace, int64_t rows, int64_t cols, int blocks) : rest(workspace) {
    de = rest.take<float>(rows * cols);
    partial = rest.take<float>(static_cast<int64_t>(blocks) * 2 * cols);
    segments = rest.take<float>(position_blocks(rows) * kMaxSegments * cols);
    runs = rest.take<float>(chunks_of(rows) * 2 * cols);
  }
  static size_t bytes(int64_t rows, int64_t cols, int blocks) {
    return Scratch::bytes<float>(rows * cols) + Scratch::bytes<float>(static_cast<int64_t>(blocks) * 2 * cols) +
           Scratch::bytes<float>(position_blocks(rows) * kMaxSegments * cols) + Scratch::bytes<float>(chunks_of(rows) * 2 * cols) +
           sort_rows_workspace(rows);
  }
};

template <bool kVector> void word_gradient(const EmbeddingBackward& args, BackwardScratch& scratch, Stream& stream) {
  const auto rows = static_cast<int>(args.ids.size()), cols = static_cast<int>(args.word.cols());
  const auto vocab = static_cast<int>(args.word.rows());
  const Sequences sequences = Sequences::of(args.sequence_offsets);
  WordArgs a{.de = scratch.de, .sequences = sequences, .dword = args.dword.as<float>(), .partial = scratch.runs, .vocab = vocab,
             .cols = cols, .mode = args.dword_mode};
  a.sorted = sort_rows({args.ids.as<int32_t>(), rows, vocab, sequences}, scratch.rest, stream);
  const Grid grid{std::max(1, ceil_div(chunks_of(rows), kWarps)), ceil_div(cols, kTile)};
  launch(word_sums_kernel<kVector>, grid, {kThreads}, 0, stream.handle(), a);
  launch(word_runs_kernel<kVector>, grid, {kThreads}, 0, stream.handle(), a);
  if (args.dword_mode == GradMode::write)
    launch(clear_words_kernel<kVector>, {ceil_div(vocab, kThreads)}, {kThreads}, 0, stream.handle(), a);
}

template <bool kVector> void table_gradients(const EmbeddingBackward& args, BackwardScratch& scratch, Stream& stream) {
  if (args.dposition_mode != GradMode::none || args.dsegment_mode != GradMode::none) {
    const auto cols = static_cast<int>(args.word.cols());
    launch(position_kernel<kVector>, {position_blocks(args.ids.size()), ceil_div(cols, kTile)}, {kThreads}, sizeof(PositionShared),
           stream.handle(),
           PositionArgs{.de = scratch.de,
                        .segments = args.segments.as<int32_t>(),
                        .sequences = Sequences::of(args.sequence_offsets),
                        .dposition = args.dposition.as<float>(),
                        .partial = args.dsegment_mode == GradMode::none ? nullptr : scratch.segments,
                        .positions = static_cast<int>(args.position.rows()),
                        .segment_rows = static_cast<int>(args.segment.rows()),
                        .cols = cols,
                        .mode = args.dposition_mode});
  }
  if (args.dword_mode != GradMode::none) word_gradient<kVector>(args, scratch, stream);
}

template <class Args> void check_operands(const Args& a) {
  const int64_t rows = a.ids.size(), cols = a.word.cols();
  const DType type = a.word.dtype;
  const auto check = [&](const char* what, const Tensor& t, const Shape& shape) {
    check_operand("embedding", what, t, shape, type);
    if (cols % 8 == 0) check_aligned("embedding", what, t);
  };
  check_operand("embedding", "ids", a.ids, {rows}, DType::i32);
  check_operand("embedding", "segments", a.segments, {rows}, DType::i32);
  check("word", a.word, {a.word.rows(), cols});
  check("position", a.position, {a.position.rows(), cols});
  check("segment", a.segment, {a.segment.rows(), cols});
  check("gamma", a.gamma, {cols});
  check_operand("embedding", "mean", a.mean, {rows}, DType::f32);
  check_operand("embedding", "rstd", a.rstd, {rows}, DType::f32);
  check_offsets("embedding", a.sequence_offsets);
  check_draws("embedding", a.dropout, a.state);
  const auto check_entries = [](const char* what, const Tensor& table, int64_t most) {
    if (table.rows() < 1 || table.rows() > most)
      throw ShapeError("embedding", std::string(what) + " has shape " + table.shape.str() + ", expected 1 to " + std::to_string(most) + " rows");
  };
  check_entries("word", a.word, std::numeric_limits<int32_t>::max());
  check_entries("position", a.position, std::numeric_limits<int32_t>::max());
  check_entries("segment", a.segment, kMaxSegments);
}

}  // namespace

template <> size_t embedding_backward_workspace<Backend::cuda>(int64_t rows, int64_t, int64_t cols, DType) {
  return dispatch_layout("embedding", cols, [&]<class Layout>() { return BackwardScratch::bytes(rows, cols, backward_blocks<Layout>(rows)); });
}

template <> void embedding_forward<Backend::cuda>(const EmbeddingForward& args, Stream& stream) {
  check_operands(args);
  const int64_t rows = args.ids.size(), cols = args.word.cols();
  check_operand("embedding", "beta", args.beta, args.gamma.shape, args.word.dtype);
  check_operand("embedding", "y", args.y, {rows, cols}, args.word.dtype);
  if (cols % 8 == 0) {
    check_aligned("embedding", "beta", args.beta);
    check_aligned("embedding", "y", args.y);
  }
  dispatch_float("embedding", args.word.dtype, [&]<class T>() {
    dispatch_layout("embedding", cols, [&]<class Layout>() {
      if (rows == 0) return;
      const int blocks = forward_blocks<Layout>(rows);
      launch(embedding_kernel<T, Layout>, {blocks}, {kRowThreads}, sizeof(RowShared<T, Layout>), stream.handle(),
             ForwardArgs<T>{.tables = Tables<T>::of(args),
                            .gamma = args.gamma.as<T>(),
                            .beta = args.beta.as<T>(),
                            .y = args.y.as<T>(),
                            .mean = args.mean.as<float>(),
                            .rstd = args.rstd.as<float>(),
                            .rows = static_cast<int>(rows),
                            .eps = static_cast<float>(args.eps),
                            .dropout = DropoutArgs::of(args.dropout),
                            .state = args.state});
    });
  });
}

template <> void embedding_backward<Backend::cuda>(const EmbeddingBackward& args, Stream& stream) {
  check_operands(args);
  const int64_t rows = args.ids.size(), cols = args.word.cols();
  check_operand("embedding", "dy", args.dy, {rows, cols}, args.word.dtype);
  if (cols % 8 == 0) check_aligned("embedding", "dy", args.dy);
  const auto check = [&](const char* what, GradMode mode, const Tensor& gradient, const Shape& shape) {
    check_gradient("embedding", what, mode, gradient, shape, DType::f32);
    if (cols % 4 == 0 && mode != GradMode::none) check_aligned("embedding", what, gradient);
  };
  check("dword", args.dword_mode, args.dword, args.word.shape);
  check("dposition", args.dposition_mode, args.dposition, args.position.shape);
  check("dsegment", args.dsegment_mode, args.dsegment, args.segment.shape);
  check("dgamma", args.dgamma_mode, args.dgamma, args.gamma.shape);
  check("dbeta", args.dbeta_mode, args.dbeta, args.gamma.shape);
  check_workspace("embedding", args.workspace, embedding_backward_workspace<Backend::cuda>(rows, args.word.rows(), cols, args.word.dtype));
  const auto asked = [](GradMode mode) { return mode != GradMode::none; };
  const bool tables = asked(args.dword_mode) || asked(args.dposition_mode) || asked(args.dsegment_mode);
  const bool parameters = asked(args.dgamma_mode) || asked(args.dbeta_mode);
  dispatch_float("embedding", args.word.dtype, [&]<class T>() {
    dispatch_layout("embedding", cols, [&]<class Layout>() {
      const int blocks = backward_blocks<Layout>(rows), width = static_cast<int>(cols), entries = static_cast<int>(args.segment.size());
      BackwardScratch scratch(args.workspace, rows, cols, blocks);
      if (blocks > 0)
        launch(embedding_backward_kernel<T, Layout>, {blocks}, {kRowThreads}, sizeof(RowSumShared<T, Layout>), stream.handle(),
               RowsArgs<T>{.tables = Tables<T>::of(args),
                           .gamma = args.gamma.as<T>(),
                           .dy = args.dy.as<T>(),
                           .mean = args.mean.as<float>(),
                           .rstd = args.rstd.as<float>(),
                           .de = tables ? scratch.de : nullptr,
                           .partial = parameters ? scratch.partial : nullptr,
                           .dropout = DropoutArgs::of(args.dropout),
                           .state = args.state});
      dispatch_bool(cols % 4 == 0, [&]<bool kVector>() { table_gradients<kVector>(args, scratch, stream); });
      put_sums({{scratch.partial, blocks, 2 * width, width, args.dgamma.as<float>(), args.dgamma_mode},
                {scratch.partial + width, blocks, 2 * width, width, args.dbeta.as<float>(), args.dbeta_mode},
                {scratch.segments, position_blocks(rows), entries, entries, args.dsegment.as<float>(), args.dsegment_mode}},
               stream);
    });
  });
}

}  // namespace electra
