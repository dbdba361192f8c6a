// The discriminator's head, fused: u = x Wᵀ + b tile by tile on tensor cores, and everything behind it from registers; neither u
// nor h = GELU(u) exists in memory.
//
// Forward: a block of 8 warps owns 64 rows and goes over the columns of u by tiles of 64 x 128, adding h · v to its rows' logits;
// then each row's loss and counts. Losses are added in double in the order of the rows, blocks by a second kernel; counts are
// integers and their order does not matter. Rows beyond the last offset are not read.
// Traffic: x once from HBM (ceil(C / 128) times from L2), W once a block from L2, logits once.
//
// Backward: a block computes one tile of u again, du = dlogit v gelu'(u), and the tile's column sums for dbias and dout_weight;
// then put_sums, and the two products dx = du W and dW = duᵀ x of kernels/gemm.h.
// Traffic: x is read twice and du, of x's size, is written once and read twice; W is read twice.
#include "kernels/binary_classifier.h"

#include <algorithm>

#include "kernels/cuda/dense_gradients.h"
#include "kernels/cuda/gemm_tile.cuh"
#include "kernels/cuda/put_sums.cuh"
#include "kernels/gemm.h"

namespace electra {
namespace {

using namespace cuda;

using HeadShape = TileShape<64, 2, 4>;
constexpr int kRows = HeadShape::kRows;
constexpr int kCountsShared = static_cast<int>(kBinaryCounts);

// What forward and backward share. x (rows, cols), weight (cols, cols).
template <class T> struct HeadArgs {
  Product<T> product;
  const T *bias, *out_weight;
  const float* labels;
  Sequences sequences;
  const StepState* state;
  int cols;
  bool vectors;  // rows of cols elements are aligned to 16 bytes
};

__device__ inline double sigmoid(double x) { return x >= 0 ? 1 / (1 + exp(-x)) : exp(x) / (1 + exp(x)); }
// max(x, 0) − x z + log(1 + e^−|x|): no overflow for any logit.
__device__ inline double cross_entropy(double logit, double label) {
  return (logit > 0 ? logit : 0) - logit * label + log1p(exp(-fabs(logit)));
}

// ---- forward

template <class T> struct ForwardArgs {
  HeadArgs<T> head;
  const T* out_bias;
  float* logits;
  int64_t* counts;       // zeroed
  double* partial_loss;  // (blocks)
};

template <class Tile> struct ForwardShared {
  typename Tile::Shared tile;
  float part[Tile::kWarpsAcross][kRows];  // of the logits: from each column of warps
  double loss[kRows];
  int counts[kCountsShared];
};

template <class Tile> __global__ void __launch_bounds__(Tile::kThreads)
binary_classifier_forward_kernel(ForwardArgs<typename Tile::Element> args) {
  auto& sm = block_shared<ForwardShared<Tile>>();
  const auto& head = args.head;
  const int thread = thread_index().x, first_row = block_index().x * kRows, used = head.sequences.used_rows();
  Product<typename Tile::Element> product = head.product;
  if (product.m > used) product.m = used;

  float logit[Tile::kPieces] = {};  // of the rows of this thread's pieces, its columns
  for (int first_column = 0; first_row < used && first_column < head.cols; first_column += Tile::kCols) {
    const int column = first_column + Tile::piece_column(), count = head.cols - column;
    float bias[8] = {}, v[8] = {};
    if (count > 0) {
      load8(bias, head.bias + column, count, head.vectors);
      load8(v, head.out_weight + column, count, head.vectors);
    }
    Tile::run(sm.tile, product, {first_row, first_column, 0, product.k}, [&](int i, float(&u)[8]) {
#pragma unroll
      for (int j = 0; j < 8; ++j) logit[i] += gelu(u[j] + bias[j]) * v[j];
    });
    sync_block();
  }
#pragma unroll
  for (int i = 0; i < Tile::kPieces; ++i) {
    const float sum = warp_sum<4>(logit[i]);
    if (lane_index() % 4 == 0) sm.part[Tile::warp_across()][Tile::piece_row(i)] = sum;
  }
  if (thread < kCountsShared) sm.counts[thread] = 0;
  sync_block();

  if (thread < kRows) {
    const int row = first_row + thread;
    double loss = 0;
    if (row < used) {
      float sum = sm.part[0][thread];
#pragma unroll
      for (int w = 1; w < Tile::kWarpsAcross; ++w) sum += sm.part[w][thread];
      sum += to_float(*args.out_bias);
      args.logits[row] = sum;
      const bool label = head.labels[row] > 0.5f, predicted = sum > 0;
      const auto logit64 = static_cast<double>(sum);
      loss = cross_entropy(logit64, label ? 1 : 0);
      const int add[kCountsShared] = {1, label, label == predicted, predicted, label && predicted};
#pragma unroll
      for (int i = 0; i < kCountsShared; ++i)
        if (add[i]) atomic_add(&sm.counts[i], add[i]);
      int64_t bin = 0;  // also of NaN
      if (sum == sum) bin = static_cast<int64_t>(sigmoid(logit64) * kProbabilityBins);
      if (bin == kProbabilityBins) --bin;
      atomic_add(args.counts + kBinaryCounts + (label ? kProbabilityBins : 0) + bin, int64_t{1});
    } else if (row < head.product.m) {
      args.logits[row] = 0;
    }
    sm.loss[thread] = loss;
  }
  sync_block();
  if (thread < kCountsShared && sm.counts[thread] > 0) atomic_add(args.counts + thread, int64_t{sm.counts[thread]});
  if (thread >= kWarpSize) return;
  double loss = sm.loss[thread] + sm.loss[thread + kWarpSize];
#pragma unroll
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) loss += shfl_xor(loss, mask);
  if (thread == 0) args.partial_loss[block_index().x] = loss;
}

constexpr int kFinishThreads = 256;

struct FinishArgs {
  const double* partial_loss;  // (blocks)
  int blocks;
  double* loss_sum;
  float* loss;
  const StepState* state;
};
__global__ void __launch_bounds__(kFinishThreads) binary_classifier_finish_kernel(FinishArgs args) {
  struct Shared {
    double sum[kFinishThreads];
  };
  auto& sm = block_shared<Shared>();
  const int thread = thread_index().x;
  double sum = 0;
  for (int i = thread; i < args.blocks; i += kFinishThreads) sum += args.partial_loss[i];
  sm.sum[thread] = sum;
  for (int half = kFinishThreads / 2; half > 0; half /= 2) {
    sync_block();
    if (thread < half) sm.sum[thread] += sm.sum[thread + half];
  }
  if (thread > 0) return;
  *args.loss_sum = sm.sum[0];
  *args.loss = static_cast<float>(sm.sum[0] / args.state->disc_denominator);
}

// ---- backward

template <class T> struct BackwardArgs {
  HeadArgs<T> head;
  const float *logits, *dloss;
  T* du;           // (rows, cols)
  float* partial;  // (row blocks, 2 cols + 1): sums over the block's rows for dbias, dout_weight and dout_bias
};

template <class Tile> struct BackwardShared {
  typename Tile::Shared tile;
  float sum[2][Tile::kWarpsDown][Tile::kCols];
  float dlogit[kRows];
};

template <class Tile> __global__ void __launch_bounds__(Tile::kThreads)
binary_classifier_backward_kernel(BackwardArgs<typename Tile::Element> args) {
  auto& sm = block_shared<BackwardShared<Tile>>();
  const auto& head = args.head;
  const int thread = thread_index().x, first_row = block_index().y * kRows, first_column = block_index().x * Tile::kCols;
  const int rows = head.product.m, used = head.sequences.used_rows();
  Product<typename Tile::Element> product = head.product;
  if (product.m > used) product.m = used;
  if (thread < kRows) {
    const int row = first_row + thread;
    float g = 0;
    if (row < used) {
      const double error = sigmoid(static_cast<double>(args.logits[row])) - static_cast<double>(head.labels[row]);
      g = static_cast<float>(static_cast<double>(*args.dloss) * error / head.state->disc_denominator);
    }
    sm.dlogit[thread] = g;
  }
  sync_block();

  const int column = first_column + Tile::piece_column(), count = head.cols - column;
  float bias[8] = {}, v[8] = {}, dbias[8] = {}, dv[8] = {};
  if (count > 0) {
    load8(bias, head.bias + column, count, head.vectors);
    load8(v, head.out_weight + column, count, head.vectors);
  }
  const int k_end = first_row < used ? product.k : 0;
  Tile::run(sm.tile, product, {first_row, first_column, 0, k_end}, [&](int i, float(&u)[8]) {
    const int row = first_row + Tile::piece_row(i);
    const float g = sm.dlogit[Tile::piece_row(i)];
    float du[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float x = u[j] + bias[j];
      du[j] = row < used ? g * v[j] * gelu_slope(x) : 0.0f;
      dbias[j] += du[j];
      if (row < used) dv[j] += g * gelu(x);
    }
    if (row < rows && count > 0) store8(args.du + static_cast<int64_t>(row) * head.cols + column, du, count, head.vectors);
  });
  // A column's sums lie in the 8 lanes with equal index modulo 4 of each warp.
#pragma unroll
  for (int j = 0; j < 8; ++j) {
#pragma unroll
    for (int mask = 16; mask >= 4; mask /= 2) {
      dbias[j] += shfl_xor(dbias[j], mask);
      dv[j] += shfl_xor(dv[j], mask);
    }
  }
  if (lane_index() < 4) {
    store_floats(&sm.sum[0][Tile::warp_down()][Tile::piece_column()], dbias);
    store_floats(&sm.sum[1][Tile::warp_down()][Tile::piece_column()], dv);
  }
  sync_block();
  float* const partial = args.partial + static_cast<int64_t>(block_index().y) * (2 * head.cols + 1);
  for (int n = thread; n < 2 * Tile::kCols; n += Tile::kThreads) {
    const int which = n / Tile::kCols, c = n % Tile::kCols;
    if (first_column + c >= head.cols) continue;
    float sum = sm.sum[which][0][c];
#pragma unroll
    for (int w = 1; w < Tile::kWarpsDown; ++w) sum += sm.sum[which][w][c];
    partial[which * head.cols + first_column + c] = sum;
  }
  if (first_column > 0 || thread >= kWarpSize) return;
  const float sum = warp_sum(sm.dlogit[thread] + sm.dlogit[thread + kWarpSize]);
  if (thread == 0) partial[2 * head.cols] = sum;
}

// ---- launchers

// Calls f.operator()<Tile>() for the tile that the operands allow.
template <class T, class F> void dispatch_tile(const HeadArgs<T>& head, F f) {
  if constexpr (std::is_same_v<T, bf16>)
    if (fits_mma(head.product)) return f.template operator()<MmaTile<HeadShape, false, true>>();
  f.template operator()<FmaTile<T, HeadShape>>();
}

int row_blocks(int64_t rows) { return static_cast<int>(ceil_div<int64_t>(rows, kRows)); }

template <class Args> void check(const Args& a) {
  const int64_t rows = a.x.rows(), cols = a.x.cols();
  check_operand("binary_classifier", "weight", a.weight, {cols, cols}, a.x.dtype);
  check_operand("binary_classifier", "bias", a.bias, {cols}, a.x.dtype);
  check_operand("binary_classifier", "out_weight", a.out_weight, {1, cols}, a.x.dtype);
  check_operand("binary_classifier", "labels", a.labels, {rows}, DType::f32);
  check_operand("binary_classifier", "logits", a.logits, {rows}, accumulate_type(a.x.dtype));
  check_offsets("binary_classifier", a.sequence_offsets);
  check_state("binary_classifier", a.state);
  check_workspace("binary_classifier", a.workspace, binary_classifier_workspace<Backend::cuda>(rows, cols, 0, a.x.dtype));
}

template <class T, class Args> HeadArgs<T> head_of(const Args& a) {
  const auto rows = static_cast<int>(a.x.rows()), cols = static_cast<int>(a.x.cols());
  return {.product = {a.x.template as<T>(), a.weight.template as<T>(), rows, cols, cols, cols, cols, false, true},
          .bias = a.bias.template as<T>(),
          .out_weight = a.out_weight.template as<T>(),
          .labels = a.labels.template as<float>(),
          .sequences = Sequences::of(a.sequence_offsets),
          .state = a.state,
          .cols = cols,
          .vectors = cols % 8 == 0 && is_aligned(a.bias.data) && is_aligned(a.out_weight.data)};
}

}  // namespace

template <> size_t binary_classifier_workspace<Backend::cuda>(int64_t rows, int64_t cols, int, DType dtype) {
  const size_t forward = Scratch::bytes<double>(row_blocks(rows));
  const size_t backward = Scratch::bytes<float>(row_blocks(rows) * (2 * cols + 1)) +
                          Scratch::bytes<std::byte>(rows * cols * static_cast<int64_t>(size_of(dtype))) + dense_gradients_workspace(rows, cols, cols);
  return std::max(forward, backward);
}

template <> void binary_classifier_forward<Backend::cuda>(const BinaryClassifierForward& args, Stream& stream) {
  check(args);
  check_operand("binary_classifier", "out_bias", args.out_bias, {1}, args.x.dtype);
  check_operand("binary_classifier", "loss", args.loss, {1}, accumulate_type(args.x.dtype));
  check_operand("binary_classifier", "loss_sum", args.loss_sum, {1}, DType::f64);
  check_operand("binary_classifier", "counts", args.counts, {kBinaryCountsSize}, DType::i64);
  const int blocks = row_blocks(args.x.rows());
  dispatch_float("binary_classifier", args.x.dtype, [&]<class T>() {
    auto* const partial = Scratch(args.workspace).take<double>(blocks);
    fill(args.counts.data, 0, args.counts.bytes(), stream);
    const ForwardArgs<T> forward{head_of<T>(args), args.out_bias.as<T>(), args.logits.as<float>(), args.counts.as<int64_t>(), partial};
    dispatch_tile(forward.head, [&]<class Tile>() {
      if (blocks > 0)
        launch(binary_classifier_forward_kernel<Tile>, {blocks}, {Tile::kThreads}, sizeof(ForwardShared<Tile>), stream.handle(), forward);
    });
    launch(binary_classifier_finish_kernel, {1}, {kFinishThreads}, sizeof(double) * kFinishThreads, stream.handle(),
           FinishArgs{partial, blocks, args.loss_sum.as<double>(), args.loss.as<float>(), args.state});
  });
}

template <> void binary_classifier_backward<Backend::cuda>(const BinaryClassifierBackward& args, Stream& stream) {
  check(args);
  const int64_t rows = args.x.rows(), cols = args.x.cols();
  const DType dtype = args.x.dtype, parameter = accumulate_type(dtype);
  check_operand("binary_classifier", "dloss", args.dloss, {1}, parameter);
  check_gradient("binary_classifier", "dx", args.dx_mode, args.dx, args.x.shape, dtype);
  check_gradient("binary_classifier", "dweight", args.dweight_mode, args.dweight, args.weight.shape, parameter);
  check_gradient("binary_classifier", "dbias", args.dbias_mode, args.dbias, args.bias.shape, parameter);
  check_gradient("binary_classifier", "dout_weight", args.dout_weight_mode, args.dout_weight, args.out_weight.shape, parameter);
  check_gradient("binary_classifier", "dout_bias", args.dout_bias_mode, args.dout_bias, {1}, parameter);
  dispatch_float("binary_classifier", dtype, [&]<class T>() {
    const int blocks = row_blocks(rows);
    Scratch scratch(args.workspace);
    float* const partial = scratch.take<float>(blocks * (2 * cols + 1));
    const Tensor du{scratch.take<T>(rows * cols), args.x.shape, dtype};
    const auto gemm_bytes = static_cast<int64_t>(dense_gradients_workspace(rows, cols, cols));
    const Tensor gemm_memory{scratch.take<std::byte>(gemm_bytes), {gemm_bytes}, DType::u8};
    const BackwardArgs<T> backward{head_of<T>(args), args.logits.as<float>(), args.dloss.as<float>(), du.as<T>(), partial};
    dispatch_tile(backward.head, [&]<class Tile>() {
      if (blocks > 0)
        launch(binary_classifier_backward_kernel<Tile>, {ceil_div(backward.head.cols, Tile::kCols), blocks}, {Tile::kThreads},
               sizeof(BackwardShared<Tile>), stream.handle(), backward);
    });
    const auto width = static_cast<int>(cols), stride = 2 * width + 1;
    put_sums({{partial, blocks, stride, width, args.dbias.as<float>(), args.dbias_mode},
              {partial + width, blocks, stride, width, args.dout_weight.as<float>(), args.dout_weight_mode},
              {partial + 2 * width, blocks, stride, 1, args.dout_bias.as<float>(), args.dout_bias_mode}},
             stream);
    dense_gradients({.du = du, .x = args.x, .weight = args.weight, .dx = args.dx, .dx_mode = args.dx_mode,
                     .dweight = args.dweight, .dweight_mode = args.dweight_mode, .workspace = gemm_memory},
                    stream);
  });
}

}  // namespace electra
