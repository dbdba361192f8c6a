// Linear layers. The products are those of kernels/gemm.h; our own have bias and GELU (erf) fused, behind the library's product
// with bias GELU is a kernel of its own (the library's GELU is the tanh form).
//
// Backward begins with one pass over rows: du = dy gelu'(u) and, on the way, sums of du's columns over blocks of rows for dbias.
// Threads: a thread owns 8 neighbouring columns and every n-th row of a block of 64; the threads of a column add up in shared
// memory, in order. du is rounded to the activations' type for the products, dbias is summed before that, in fp32.
// Traffic: dy and u are read and du is written once; the partial sums are rows / 64 times smaller. Without GELU only dy is read.
#include "kernels/linear.h"

#include "kernels/activation.h"
#include "kernels/cuda/dense_gradients.h"
#include "kernels/cuda/gemm_own.h"
#include "kernels/cuda/gemm_tile.cuh"
#include "kernels/cuda/library_gemm.h"
#include "kernels/cuda/put_sums.cuh"

namespace electra {
namespace {

using namespace cuda;

constexpr int kThreads = 256;
constexpr int kRowsPerBlock = 64;

template <class T> struct ColumnArgs {
  const T *dy, *u;  // (rows, cols); u, du: with GELU only
  T* du;
  float* partial;   // (row blocks, cols), or absent
  int rows, cols;
  bool vectors;     // rows are aligned to 16 bytes
};

// kLanes threads lie side by side, on 8 kLanes columns.
template <class T, bool kGelu, int kLanes> __global__ void __launch_bounds__(kThreads) linear_columns_kernel(ColumnArgs<T> args) {
  constexpr int kGroups = kThreads / kLanes;
  struct alignas(16) Shared {
    float sum[kGroups][8 * kLanes];
  };
  auto& sm = block_shared<Shared>();
  const int lane = thread_index().x % kLanes, group = thread_index().x / kLanes;
  const int first_column = block_index().x * 8 * kLanes, column = first_column + 8 * lane, count = args.cols - column;
  const int first_row = block_index().y * kRowsPerBlock;
  float sum[8] = {};
#pragma unroll 2
  for (int i = group; i < kRowsPerBlock; i += kGroups) {
    const int row = first_row + i;
    if (row >= args.rows || count <= 0) continue;
    const int64_t at = static_cast<int64_t>(row) * args.cols + column;
    float du[8], u[8];
    load8(du, args.dy + at, count, args.vectors);
    if constexpr (kGelu) {
      load8(u, args.u + at, count, args.vectors);
#pragma unroll
      for (int j = 0; j < 8; ++j) du[j] *= gelu_slope(u[j]);
      store8(args.du + at, du, count, args.vectors);
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) sum[j] += du[j];
  }
  if (!args.partial) return;
  store_side_by_side(&sm.sum[group][8 * lane], sum);
  sync_block();
  const int c = thread_index().x;
  if (c >= 8 * kLanes || first_column + c >= args.cols) return;
  float total = sm.sum[0][c];
  for (int g = 1; g < kGroups; ++g) total += sm.sum[g][c];
  args.partial[static_cast<int64_t>(block_index().y) * args.cols + first_column + c] = total;
}

template <class T, bool kGelu> void run_columns(const ColumnArgs<T>& args, Stream& stream) {
  const auto run = [&]<int kLanes>() {
    launch(linear_columns_kernel<T, kGelu, kLanes>, {ceil_div(args.cols, 8 * kLanes), ceil_div(args.rows, kRowsPerBlock)}, {kThreads},
           sizeof(float) * 8 * kThreads, stream.handle(), args);
  };
  if (args.rows == 0 || args.cols == 0) return;
  if (args.cols <= 64) run.template operator()<8>();
  else run.template operator()<32>();
}

int64_t row_blocks(int64_t rows) { return ceil_div<int64_t>(rows, kRowsPerBlock); }

}  // namespace

template <> size_t linear_backward_workspace<Backend::cuda>(int64_t rows, int64_t in, int64_t out, Epilogue epilogue, DType dtype) {
  const size_t gradient = epilogue == Epilogue::bias_gelu ? Scratch::bytes<std::byte>(rows * out * static_cast<int64_t>(size_of(dtype))) : 0;
  return Scratch::bytes<float>(row_blocks(rows) * out) + gradient + dense_gradients_workspace(rows, in, out);
}

template <> void linear_forward<Backend::cuda>(const LinearForward& args, Stream& stream) {
  const int64_t rows = args.x.rows(), out = args.weight.shape[0];
  const bool has_gelu = args.epilogue == Epilogue::bias_gelu;
  check_operand("linear", "weight", args.weight, {out, args.x.cols()}, args.x.dtype);
  check_operand("linear", "y", args.y, {rows, out}, args.x.dtype);
  if (args.epilogue != Epilogue::none) check_operand("linear", "bias", args.bias, {out}, args.x.dtype);
  if (args.u) check_operand("linear", "u", args.u, {rows, out}, args.x.dtype);
  if (args.u && !has_gelu)
    throw ShapeError("linear", "expected u only with the bias_gelu epilogue, got one of shape " + args.u.shape.str());
  const Tensor bias = args.epilogue == Epilogue::none ? Tensor{} : args.bias;
  Gemm product{.a = args.x, .b = args.weight, .c = args.y, .transpose_b = true};
  dispatch_float("linear", args.x.dtype, [&]<class>() {
    if (gemm_kind() == GemmKind::own) return own_gemm({product, bias, args.u, has_gelu}, stream);
    if (args.u) product.c = args.u;
    library_gemm({product, bias}, stream);
    if (has_gelu) gelu_forward<Backend::cuda>({.x = product.c, .y = args.y}, stream);
  });
}

template <> void linear_backward<Backend::cuda>(const LinearBackward& args, Stream& stream) {
  const int64_t rows = args.x.rows(), in = args.x.cols(), out = args.weight.shape[0];
  const DType dtype = args.x.dtype;
  const bool has_gelu = args.epilogue == Epilogue::bias_gelu;
  check_operand("linear", "weight", args.weight, {out, in}, dtype);
  check_operand("linear", "dy", args.dy, {rows, out}, dtype);
  if (has_gelu) check_operand("linear", "u", args.u, {rows, out}, dtype);
  check_gradient("linear", "dx", args.dx_mode, args.dx, {rows, in}, dtype);
  check_gradient("linear", "dweight", args.dweight_mode, args.dweight, {out, in}, accumulate_type(dtype));
  check_gradient("linear", "dbias", args.dbias_mode, args.dbias, {out}, accumulate_type(dtype));
  check_workspace("linear", args.workspace, linear_backward_workspace<Backend::cuda>(rows, in, out, args.epilogue, dtype));
  dispatch_float("linear", dtype, [&]<class T>() {
    Scratch scratch(args.workspace);
    float* const partial = scratch.take<float>(row_blocks(rows) * out);
    Tensor du = args.dy;
    if (has_gelu) du.data = scratch.take<T>(rows * out);
    const auto gemm_bytes = static_cast<int64_t>(dense_gradients_workspace(rows, in, out));
    const Tensor gemm_memory{scratch.take<std::byte>(gemm_bytes), {gemm_bytes}, DType::u8};

    const bool wants_bias = args.dbias_mode != GradMode::none;
    const ColumnArgs<T> columns{args.dy.as<T>(), args.u.as<T>(), du.as<T>(), wants_bias ? partial : nullptr, static_cast<int>(rows),
                                static_cast<int>(out), out % 8 == 0 && is_aligned(args.dy.data) && is_aligned(args.u.data) && is_aligned(du.data)};
    if (has_gelu) run_columns<T, true>(columns, stream);
    else if (wants_bias) run_columns<T, false>(columns, stream);
    const auto width = static_cast<int>(out);
    put_sums({{partial, static_cast<int>(row_blocks(rows)), width, width, args.dbias.as<float>(), args.dbias_mode}}, stream);

    dense_gradients({.du = du, .x = args.x, .weight = args.weight, .dx = args.dx, .dx_mode = args.dx_mode,
                     .dweight = args.dweight, .dweight_mode = args.dweight_mode, .workspace = gemm_memory},
                    stream);
  });
}

}  // namespace electra
