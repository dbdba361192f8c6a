// Token-level binary classification, the discriminator's head, fused: h = GELU(x Wᵀ + b), logit = h · v + c, sigmoid
// binary cross-entropy and metric counts. Backward recomputes h.
// On the CUDA backend x, weights and dx are f32 or bf16; loss, logits and the gradients of parameters are f32 always.
#pragma once
#include "kernels/core/backend.h"
#include "kernels/core/device.h"
#include "kernels/core/step_state.h"
#include "kernels/core/tensor.h"
#include "kernels/grad_mode.h"

namespace electra {

inline constexpr int64_t kProbabilityBins = 1024;

// Integer-valued counts over the real tokens, i64 in this order, then two histograms of kProbabilityBins bins of
// sigmoid(logit), floor(p · bins): first of the tokens with label 0, then of those with label 1. AUC is computed from them,
// so it depends on no order, thread, rank or device.
struct BinaryCounts {
  int64_t tokens = 0, replaced = 0;                     // real tokens; labels 1
  int64_t correct = 0, predicted = 0, true_positive = 0;  // predicted: logit > 0
};
inline constexpr int64_t kBinaryCounts = 5;
inline constexpr int64_t kBinaryCountsSize = kBinaryCounts + 2 * kProbabilityBins;

// loss = Σ over rows before the last offset of BCE(logit, label) / state->disc_denominator. Rows beyond it:
// logit 0, dx 0, nothing read of x.
struct BinaryClassifierForward {
  Tensor x;                 // (rows, C)
  Tensor weight, bias;      // (C, C), (C)
  Tensor out_weight;        // (1, C)
  Tensor out_bias;          // (1)
  Tensor labels;            // (rows) f32: 1 (replaced) above 0.5, else 0
  Tensor sequence_offsets;  // (sequences + 1) i32
  Tensor loss;              // (1)
  Tensor loss_sum;          // (1) f64: undivided, for metrics
  Tensor logits;            // (rows)
  Tensor counts;            // (kBinaryCountsSize) i64
  Tensor workspace;
  const StepState* state = nullptr;
};

struct BinaryClassifierBackward {
  Tensor x, weight, bias, out_weight, labels, sequence_offsets, logits;
  Tensor dloss;             // (1)
  Tensor dx, dweight, dbias, dout_weight, dout_bias;
  GradMode dx_mode = GradMode::write, dweight_mode = GradMode::write, dbias_mode = GradMode::write;
  GradMode dout_weight_mode = GradMode::write, dout_bias_mode = GradMode::write;
  Tensor workspace;
  const StepState* state = nullptr;
};

template <Backend B> size_t binary_classifier_workspace(int64_t rows, int64_t cols, int max_threads, DType dtype);
template <Backend B> void binary_classifier_forward(const BinaryClassifierForward& args, Stream& stream);
template <Backend B> void binary_classifier_backward(const BinaryClassifierBackward& args, Stream& stream);

}  // namespace electra
