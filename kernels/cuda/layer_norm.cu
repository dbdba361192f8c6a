// LayerNorm with dropout and residual (Ba, Kiros and Hinton, 2016). Thread mapping: RowLayout in layer_norm.cuh.
#include "kernels/layer_norm.h"

#include "kernels/cuda/layer_norm.cuh"
#include "kernels/cuda/put_sums.cuh"

namespace electra {
namespace {

using namespace cuda;

template <class T> struct ForwardArgs {
  const T *x, *residual, *gamma, *beta;  // residual may be null
  T *y, *sum;                            // sum may be null
  float *mean, *rstd;
  int rows, cols;
  float eps;
  DropoutArgs dropout;
  Sequences sequences;
  const StepState* state;
};

// A block goes over rows in strides of the grid, each once through the registers: x and the residual are read once, sum and y
// written once; gamma and beta are read once a block, into shared memory. Statistics are of the sum as it is stored, in fp32: what
// backward reads is what was normalised, and a constant row stays constant in bf16.
template <class T, class Layout> __global__ void __launch_bounds__(kRowThreads, Layout::kForwardBlocks) layer_norm_kernel(ForwardArgs<T> a) {
  auto& sm = block_shared<RowShared<T, Layout>>();
  RowPart<Layout> part(a.cols, sm.scratch);
  share<Layout>(sm.gamma, a.gamma, a.cols);
  share<Layout>(sm.beta, a.beta, a.cols);
  sync_block();
  const StepState state = a.dropout.threshold != 0 ? *a.state : StepState{};
  for (int first = block_index().x * Layout::kRows; first < a.rows; first += grid_size().x * Layout::kRows) {
    const int row = first + part.slot();
    part.set_exists(row < a.rows);
    const size_t offset = static_cast<size_t>(row) * a.cols;
    typename RowPart<Layout>::Values x;
    part.load(x, a.x + offset);
    if (a.dropout.threshold != 0) part.drop(x, a.dropout, state, place_of(a.sequences, state, row));
    if (a.residual) {
      typename RowPart<Layout>::Values residual;
      part.load(residual, a.residual + offset);
#pragma unroll
      for (int i = 0; i < Layout::kGroups; ++i) {
#pragma unroll
        for (int j = 0; j < 8; ++j) x[i][j] += residual[i][j];
      }
    }
#pragma unroll
    for (int i = 0; i < Layout::kGroups; ++i) {
#pragma unroll
      for (int j = 0; j < 8; ++j) x[i][j] = to_float(from_float<T>(x[i][j]));
    }
    if (a.sum) part.put(a.sum + offset, x);
    const auto statistics = part.statistics(x, a.eps);
    part.normalise(x, statistics, sm.gamma, sm.beta);
    part.put(a.y + offset, x);
    if (part.exists() && part.is_first_lane()) {
      a.mean[row] = statistics.mean;
      a.rstd[row] = statistics.rstd;
    }
  }
}

template <class T> struct BackwardArgs {
  const T *sum, *gamma, *dy;
  const float *mean, *rstd;
  T *dx, *dresidual;
  float* partial;  // (blocks, 2, cols): dgamma, dbeta; or null
  int rows, cols;
  GradMode dx_mode, dresidual_mode;
  DropoutArgs dropout;
  Sequences sequences;
  const StepState* state;
};

// A block goes over rows in strides of the grid and keeps dgamma and dbeta of its rows in registers; they leave it once, through
// shared memory, which gamma enters once. sum and dy are read once, dx and dresidual written once: dy may be either of them. Partial sums: 2 cols floats
// a block, at most 3 % of that at 16,384 rows.
template <class T, class Layout>
__global__ void __launch_bounds__(kRowThreads, Layout::kBackwardBlocks) layer_norm_backward_kernel(BackwardArgs<T> a) {
  auto& sm = block_shared<RowSumShared<T, Layout>>();
  RowPart<Layout> part(a.cols, sm.scratch);
  share<Layout>(sm.gamma, a.gamma, a.cols);
  sync_block();
  const StepState state = a.dropout.threshold != 0 ? *a.state : StepState{};
  typename RowPart<Layout>::Values dgamma = {}, dbeta = {};
  for (int first = block_index().x * Layout::kRows; first < a.rows; first += grid_size().x * Layout::kRows) {
    const int row = first + part.slot();
    part.set_exists(row < a.rows);
    const size_t offset = static_cast<size_t>(row) * a.cols;
    typename RowPart<Layout>::Values x, d;
    part.load(x, a.sum + offset);
    part.load(d, a.dy + offset);
    const float mean = part.exists() ? a.mean[row] : 0, rstd = part.exists() ? a.rstd[row] : 0;
    part.backward(x, d, {mean, rstd}, sm.gamma, dgamma, dbeta);
    if (a.dropout.threshold == 0) {
      part.put(a.dx + offset, d, a.dx_mode);
    } else if (a.dx_mode != GradMode::none) {
#pragma unroll
      for (int i = 0; i < Layout::kGroups; ++i) {
#pragma unroll
        for (int j = 0; j < 8; ++j) x[i][j] = d[i][j];
      }
      part.drop(x, a.dropout, state, place_of(a.sequences, state, row));
      part.put(a.dx + offset, x, a.dx_mode);
    }
    part.put(a.dresidual + offset, d, a.dresidual_mode);  // after dx, which may be the same memory
  }
  if (!a.partial) return;
  float* const block = a.partial + static_cast<size_t>(block_index().x) * 2 * a.cols;
  put_block_sum(dgamma, block, a.cols, sm);
  put_block_sum(dbeta, block + a.cols, a.cols, sm);
}

void check_random(const Dropout& dropout, const Tensor& sequence_offsets, const StepState* state) {
  check_draws("layer_norm", dropout, state);
  if (dropout.active()) check_offsets("layer_norm", sequence_offsets);
}

}  // namespace

template <> size_t layer_norm_backward_workspace<Backend::cuda>(int64_t rows, int64_t cols, DType) {
  return dispatch_layout("layer_norm", cols, [&]<class Layout>() { return Scratch::bytes<float>(backward_blocks<Layout>(rows) * 2 * cols); });
}

template <> void layer_norm_forward<Backend::cuda>(const LayerNormForward& args, Stream& stream) {
  const int64_t rows = args.x.rows(), cols = args.x.cols();
  const Shape whole{rows, cols};
  const auto check = [&](const char* what, const Tensor& t, const Shape& shape) {
    check_operand("layer_norm", what, t, shape, args.x.dtype);
    if (cols % 8 == 0) check_aligned("layer_norm", what, t);
  };
  check("gamma", args.gamma, {cols});
  check("beta", args.beta, {cols});
  check("x", args.x, whole);
  check("y", args.y, whole);
  check_operand("layer_norm", "mean", args.mean, {rows}, DType::f32);
  check_operand("layer_norm", "rstd", args.rstd, {rows}, DType::f32);
  if (args.residual) check("residual", args.residual, whole);
  if (args.sum) check("sum", args.sum, whole);
  check_random(args.dropout, args.sequence_offsets, args.state);
  dispatch_float("layer_norm", args.x.dtype, [&]<class T>() {
    dispatch_layout("layer_norm", cols, [&]<class Layout>() {
      if (rows == 0) return;
      const int blocks = forward_blocks<Layout>(rows);
      launch(layer_norm_kernel<T, Layout>, {blocks}, {kRowThreads}, sizeof(RowShared<T, Layout>), stream.handle(),
             ForwardArgs<T>{.x = args.x.as<T>(),
                            .residual = args.residual.as<T>(),
                            .gamma = args.gamma.as<T>(),
                            .beta = args.beta.as<T>(),
                            .y = args.y.as<T>(),
                            .sum = args.sum.as<T>(),
                            .mean = args.mean.as<float>(),
                            .rstd = args.rstd.as<float>(),
                            .rows = static_cast<int>(rows),
                            .cols = static_cast<int>(cols),
                            .eps = static_cast<float>(args.eps),
                            .dropout = DropoutArgs::of(args.dropout),
                            .sequences = Sequences::of(args.sequence_offsets),
                            .state = args.state});
    });
  });
}

template <> void layer_norm_backward<Backend::cuda>(const LayerNormBackward& args, Stream& stream) {
  const int64_t rows = args.dy.rows(), cols = args.dy.cols();
  const Shape whole{rows, cols};
  const auto check = [&](const char* what, const Tensor& t, const Shape& shape, GradMode mode = GradMode::write) {
    check_gradient("layer_norm", what, mode, t, shape, args.dy.dtype);
    if (cols % 8 == 0 && mode != GradMode::none) check_aligned("layer_norm", what, t);
  };
  check("dy", args.dy, whole);
  check("sum", args.sum, whole);
  check("gamma", args.gamma, {cols});
  check_operand("layer_norm", "mean", args.mean, {rows}, DType::f32);
  check_operand("layer_norm", "rstd", args.rstd, {rows}, DType::f32);
  check("dx", args.dx, whole, args.dx_mode);
  check("dresidual", args.dresidual, whole, args.dresidual_mode);
  check_gradient("layer_norm", "dgamma", args.dgamma_mode, args.dgamma, {cols}, DType::f32);
  check_gradient("layer_norm", "dbeta", args.dbeta_mode, args.dbeta, {cols}, DType::f32);
  check_random(args.dropout, args.sequence_offsets, args.state);
  check_workspace("layer_norm", args.workspace, layer_norm_backward_workspace<Backend::cuda>(rows, cols, args.dy.dtype));
  const bool parameters = args.dgamma_mode != GradMode::none || args.dbeta_mode != GradMode::none;
  float* const partial = parameters ? args.workspace.as<float>() : nullptr;
  const auto width = static_cast<int>(cols);
  dispatch_float("layer_norm", args.dy.dtype, [&]<class T>() {
    dispatch_layout("layer_norm", cols, [&]<class Layout>() {
      const int blocks = backward_blocks<Layout>(rows);
      if (blocks > 0)
        launch(layer_norm_backward_kernel<T, Layout>, {blocks}, {kRowThreads}, sizeof(RowSumShared<T, Layout>), stream.handle(),
               BackwardArgs<T>{.sum = args.sum.as<T>(),
                               .gamma = args.gamma.as<T>(),
                               .dy = args.dy.as<T>(),
                               .mean = args.mean.as<float>(),
                               .rstd = args.rstd.as<float>(),
                               .dx = args.dx.as<T>(),
                               .dresidual = args.dresidual.as<T>(),
                               .partial = partial,
                               .rows = static_cast<int>(rows),
                               .cols = width,
                               .dx_mode = args.dx_mode,
                               .dresidual_mode = args.dresidual_mode,
                               .dropout = DropoutArgs::of(args.dropout),
                               .sequences = Sequences::of(args.sequence_offsets),
                               .state = args.state});
      put_sums({{partial, blocks, 2 * width, width, args.dgamma.as<float>(), args.dgamma_mode},
                {partial + width, blocks, 2 * width, width, args.dbeta.as<float>(), args.dbeta_mode}},
               stream);
    });
  });
}

}  // namespace electra
