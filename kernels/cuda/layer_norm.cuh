// LayerNorm of rows that lie in registers: what layer_norm.cu and embedding.cu share. Equations: docs/ops/layer_norm.md.
#pragma once
#include "kernels/cuda/common.cuh"

namespace electra::cuda {

constexpr int kRowThreads = 256;  // of a block
constexpr int kRowWarps = kRowThreads / kWarpSize;
constexpr int kMultiprocessors = 132;  // of an H100 or H200: what the grids that go over rows are cut for

// A row lies in kLanes neighbouring threads: part of a warp, a warp, or the block. Lane l holds kGroups groups of 8 columns, the
// i-th from column 8 (i kLanes + l) on; a group is also what one call of Philox draws for. kVector: the number of columns is a
// multiple of 8, so that a group moves in 16-byte accesses.
template <int kLanes_, int kGroups_, bool kVector_> struct RowLayout {
  static constexpr int kLanes = kLanes_, kGroups = kGroups_;
  static constexpr bool kVector = kVector_;
  static constexpr int kRows = kRowThreads / kLanes;   // of a block at a time
  static constexpr int kCols = 8 * kLanes * kGroups;   // at most
  // Blocks that forward and backward keep on a multiprocessor: enough rows under way to fill the memory's latency, as registers allow.
  static constexpr int kForwardBlocks = kGroups == 1 ? 4 : kGroups == 2 ? 3 : kVector && kLanes == kWarpSize ? 2 : 1;
  static constexpr int kBackwardBlocks = kGroups == 1 ? 3 : kGroups == 2 ? 2 : 1;
};
constexpr int64_t kMostCols = 8192;

// Calls f.operator()<RowLayout>() for rows of this width; throws ShapeError when they are too wide.
template <class F> auto dispatch_layout(std::string_view op, int64_t cols, F f) {
  if (cols < 1 || cols > kMostCols)
    throw ShapeError(op, "expected rows of 1 to " + std::to_string(kMostCols) + " columns on this device, got " + std::to_string(cols));
  if (cols % 8 == 0) {
    if (cols <= 64) return f.template operator()<RowLayout<8, 1, true>>();
    if (cols <= 128) return f.template operator()<RowLayout<16, 1, true>>();
    if (cols <= 256) return f.template operator()<RowLayout<32, 1, true>>();
    if (cols <= 512) return f.template operator()<RowLayout<32, 2, true>>();
    if (cols <= 768) return f.template operator()<RowLayout<32, 3, true>>();
    if (cols <= 1024) return f.template operator()<RowLayout<32, 4, true>>();
    return f.template operator()<RowLayout<kRowThreads, 4, true>>();
  }
  if (cols <= 256) return f.template operator()<RowLayout<32, 1, false>>();
  if (cols <= 1024) return f.template operator()<RowLayout<32, 4, false>>();
  return f.template operator()<RowLayout<kRowThreads, 4, false>>();
}

// The first `count` of 8 numbers, the others 0.
template <bool kVector, class T> __device__ inline void load_group(float (&x)[8], const T* p, int count) {
  if constexpr (kVector) {
    if (count > 0) return load_floats(x, p);
  }
#pragma unroll
  for (int j = 0; j < 8; ++j) x[j] = !kVector && j < count ? to_float(p[j]) : 0.0f;
}

// Stores the first `count` of 8 numbers, or adds them to what is there, or nothing, as the mode says.
template <bool kVector, class T> __device__ inline void put_group(T* p, const float (&x)[8], int count, GradMode mode) {
  if (mode == GradMode::none || count <= 0) return;
  float out[8];
#pragma unroll
  for (int j = 0; j < 8; ++j) out[j] = x[j];
  if (mode == GradMode::accumulate) {
    load_group<kVector>(out, p, count);
#pragma unroll
    for (int j = 0; j < 8; ++j) out[j] += x[j];
  }
  if constexpr (kVector) {
    store_floats(p, out);
  } else {
#pragma unroll
    for (int j = 0; j < 8; ++j)
      if (j < count) p[j] = from_float<T>(out[j]);
  }
}

// What one thread has of a row. A thread whose row does not exist takes part with no columns.
template <class Layout> class RowPart {
 public:
  using Values = float[Layout::kGroups][8];

  // cols: of a row. scratch: shared memory of the block.
  __device__ RowPart(int cols, float (&scratch)[kRowWarps])
      : lane_(thread_index().x % Layout::kLanes), width_(cols), inverse_cols_(1.0f / static_cast<float>(cols)), scratch_(scratch) {}
  // The row's place among those that the block holds at a time.
  __device__ static int slot() { return thread_index().x / Layout::kLanes; }
  __device__ void set_exists(bool exists) { cols_ = exists ? width_ : 0; }

  __device__ bool exists() const { return cols_ > 0; }
  __device__ bool is_first_lane() const { return lane_ == 0; }
  __device__ int column(int group) const { return 8 * (group * Layout::kLanes + lane_); }
  __device__ int count(int group) const { return cols_ - column(group); }  // columns of a group, 0 or less without any
  __device__ bool holds(int group, int j) const { return Layout::kVector ? count(group) > 0 : count(group) > j; }
  __device__ float mean_of(float sum) const { return row_sum(sum) * inverse_cols_; }

  template <class T> __device__ void load(Values& x, const T* row) const {
#pragma unroll
    for (int i = 0; i < Layout::kGroups; ++i) load_group<Layout::kVector>(x[i], row + column(i), count(i));
  }
  template <class T> __device__ void put(T* row, const Values& x, GradMode mode = GradMode::write) const {
#pragma unroll
    for (int i = 0; i < Layout::kGroups; ++i) put_group<Layout::kVector>(row + column(i), x[i], count(i), mode);
  }
  __device__ void drop(Values& x, const DropoutArgs& dropout, const StepState& state, Place place) const {
#pragma unroll
    for (int i = 0; i < Layout::kGroups; ++i)
      if (count(i) > 0) drop8(x[i], dropout, state, place, static_cast<uint32_t>(column(i) / 8));
  }

  struct Statistics {
    float mean, rstd;
  };
  // Two passes over registers. The sum is taken from the row's first element on, so that a constant row has differences of exactly
  // 0; the mean of what the second pass finds left (drift) gives back the digits that an outlying first element costs.
  __device__ Statistics statistics(const Values& x, float eps) const {
    const float origin = first_of_row(x[0][0]);
    const auto sum_from = [&](float from, float& squares) {
      float total = 0;
#pragma unroll
      for (int i = 0; i < Layout::kGroups; ++i) {
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          const float d = holds(i, j) ? x[i][j] - from : 0.0f;
          total += d;
          squares += d * d;
        }
      }
      return total;
    };
    float unused = 0, squares = 0;
    const float near = origin + mean_of(sum_from(origin, unused));
    const float drift = mean_of(sum_from(near, squares));
    return {near + drift, 1.0f / sqrtf(mean_of(squares) - drift * drift + eps)};
  }

  // x = (x − mean) rstd gamma + beta; gamma and beta lie in shared memory.
  template <class T> __device__ void normalise(Values& x, Statistics s, const T* gamma, const T* beta) const {
#pragma unroll
    for (int i = 0; i < Layout::kGroups; ++i) {
      float g[8], b[8];
      load_group<Layout::kVector>(g, gamma + column(i), count(i));
      load_group<Layout::kVector>(b, beta + column(i), count(i));
#pragma unroll
      for (int j = 0; j < 8; ++j) x[i][j] = (x[i][j] - s.mean) * s.rstd * g[j] + b[j];
    }
  }

  // Takes x, what was normalised, dy, and gamma from shared memory; leaves the gradient of x in dy (equation 4) and adds to dgamma
  // and dbeta (6).
  template <class T>
  __device__ void backward(Values& x, Values& dy, Statistics s, const T* gamma, Values& dgamma, Values& dbeta) const {
    float total = 0, total_xhat = 0;
#pragma unroll
    for (int i = 0; i < Layout::kGroups; ++i) {
      float g[8];
      load_group<Layout::kVector>(g, gamma + column(i), count(i));
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        x[i][j] = holds(i, j) ? (x[i][j] - s.mean) * s.rstd : 0.0f;
        dgamma[i][j] += dy[i][j] * x[i][j];
        dbeta[i][j] += dy[i][j];
        dy[i][j] *= g[j];
        total += dy[i][j];
        total_xhat += dy[i][j] * x[i][j];
      }
    }
    const float average = mean_of(total), average_xhat = mean_of(total_xhat);
#pragma unroll
    for (int i = 0; i < Layout::kGroups; ++i) {
#pragma unroll
      for (int j = 0; j < 8; ++j) dy[i][j] = s.rstd * (dy[i][j] - average - x[i][j] * average_xhat);
    }
  }

 private:
  __device__ float row_sum(float v) const {
    if constexpr (Layout::kLanes <= kWarpSize) return warp_sum<Layout::kLanes>(v);
    else return block_sum(v, scratch_);
  }
  __device__ float first_of_row(float v) const {
    if constexpr (Layout::kLanes <= kWarpSize) return shfl(v, lane_index() - lane_index() % Layout::kLanes);
    if (lane_ == 0) scratch_[0] = v;
    sync_block();
    v = scratch_[0];
    sync_block();
    return v;
  }

  int lane_, width_, cols_ = 0;
  float inverse_cols_;
  float (&scratch_)[kRowWarps];
};

// Shared memory of the kernels that work on rows. gamma and beta cross memory once a block, not once a row; backward adds the rows
// of a block in `sum`.
template <class T, class Layout> struct RowShared {
  float scratch[kRowWarps];
  alignas(16) T gamma[Layout::kCols];
  alignas(16) T beta[Layout::kCols];
};
template <class T, class Layout> struct RowSumShared {
  float scratch[kRowWarps];
  alignas(16) T gamma[Layout::kCols];
  alignas(16) float sum[Layout::kRows][Layout::kCols];
};

// to = from (cols), by the whole block; to be followed by sync_block.
template <class Layout, class T> __device__ inline void share(T (&to)[Layout::kCols], const T* from, int cols) {
  constexpr int kVec = Layout::kVector ? 16 / static_cast<int>(sizeof(T)) : 1;
  for (int c = kVec * thread_index().x; c < cols; c += kVec * kRowThreads) store_vec(to + c, load_vec<kVec>(from + c));
}

// block_sum (cols) = the sum over the block's rows of what its threads hold, in the order of the rows.
template <class T, class Layout>
__device__ inline void put_block_sum(const float (&x)[Layout::kGroups][8], float* block_sum, int cols, RowSumShared<T, Layout>& sm) {
  const int slot = thread_index().x / Layout::kLanes, lane = thread_index().x % Layout::kLanes;
#pragma unroll
  for (int i = 0; i < Layout::kGroups; ++i) store_side_by_side(&sm.sum[slot][8 * (i * Layout::kLanes + lane)], x[i]);
  sync_block();
  for (int c = thread_index().x; c < cols; c += kRowThreads) {
    float sum = 0;
#pragma unroll
    for (int r = 0; r < Layout::kRows; ++r) sum += sm.sum[r][c];
    block_sum[c] = sum;
  }
  sync_block();
}

// Blocks that go over rows: no more than stay resident, each taking every blocks-th group of rows.
template <class Layout> int row_blocks(int64_t rows, int blocks_of_multiprocessor) {
  return static_cast<int>(std::min<int64_t>(ceil_div<int64_t>(rows, Layout::kRows), blocks_of_multiprocessor * kMultiprocessors));
}
template <class Layout> int forward_blocks(int64_t rows) { return row_blocks<Layout>(rows, Layout::kForwardBlocks); }
template <class Layout> int backward_blocks(int64_t rows) { return row_blocks<Layout>(rows, Layout::kBackwardBlocks); }

}  // namespace electra::cuda
