// y = LayerNorm(dropout(x) + residual), dropout and residual optional: BERT's "add and norm" (both) and the generator head's
// LayerNorm (neither). The embeddings' LayerNorm, whose dropout acts on y, is part of kernels/embedding.h. Statistics by two
// passes.
#pragma once
#include "kernels/core/backend.h"
#include "kernels/core/device.h"
#include "kernels/core/philox.h"
#include "kernels/core/step_state.h"
#include "kernels/core/tensor.h"
#include "kernels/grad_mode.h"

namespace electra {

// Dropout of element (row, column): coordinates (step, first_sequence + sequence of the row, position of the row in its
// sequence, column / 8), slot column % 8. Rows beyond the last offset use sequence 0xffffffff and their row number.
struct LayerNormForward {
  Tensor x;                 // (rows, cols), at least one column
  Tensor residual;          // (rows, cols) or absent
  Tensor gamma, beta;       // (cols)
  Tensor sequence_offsets;  // (sequences + 1) i32; needed only with dropout
  Tensor y;                 // (rows, cols)
  Tensor sum;               // (rows, cols): dropout(x) + residual, kept for backward; absent where neither is used (x serves),
                            // or where no backward follows
  Tensor mean, rstd;        // (rows)
  double eps = 1e-12;
  Dropout dropout;          // of x before the sum
  const StepState* state = nullptr;
};

struct LayerNormBackward {
  Tensor sum;               // what was normalised: LayerNormForward::sum, or x where that is absent
  Tensor gamma, mean, rstd, dy, sequence_offsets;
  Tensor dx, dresidual, dgamma, dbeta;  // dresidual may be dx where it accumulates (residual = x): it is added last
  GradMode dx_mode = GradMode::write, dresidual_mode = GradMode::none;
  GradMode dgamma_mode = GradMode::write, dbeta_mode = GradMode::write;
  Tensor workspace;         // layer_norm_backward_workspace() bytes, u8
  Dropout dropout;
  const StepState* state = nullptr;
};

// CUDA backend: f32 or bf16, with mean, rstd, dgamma and dbeta in f32; 1 to 8,192 columns; where they are a multiple of 8 every
// operand lies at a multiple of 16 bytes. dx or dresidual may be dy.
template <Backend B> size_t layer_norm_backward_workspace(int64_t rows, int64_t cols, DType dtype);
template <Backend B> void layer_norm_forward(const LayerNormForward& args, Stream& stream);
template <Backend B> void layer_norm_backward(const LayerNormBackward& args, Stream& stream);

}  // namespace electra
