// AdamW over flat ranges with global-norm clipping (Loshchilov and Hutter, 2019; the original's optimization.py).
#pragma once
#include "kernels/core/backend.h"
#include "kernels/core/device.h"
#include "kernels/core/step_state.h"
#include "kernels/core/tensor.h"

namespace electra {

inline constexpr int64_t kGroupElements = 256;  // a group id covers this many elements of the flat buffers

struct ParameterGroup {
  float weight_decay = 0;
  float learning_rate_scale = 1;
};

// Result of grad_norm, in device memory.
struct GradNorm {
  double norm = 0;    // sqrt of the sum of squares, before clipping
  double factor = 1;  // min(1, clip_norm / norm); 0 and finite = 0 where the norm or a loss is not finite
  int32_t finite = 1;
  int32_t padding = 0;
};

struct GradNormArgs {
  Tensor grad;        // (n)
  Tensor loss;        // (1): the step's loss; not finite sets GradNorm::finite = 0
  GradNorm* result = nullptr;
  Tensor workspace;   // grad_norm_workspace() bytes
  double clip_norm = 1.0;
};
// CUDA backend: grad and loss f32, grad at a multiple of 16 bytes; two launches.
template <Backend B> size_t grad_norm_workspace(int64_t elements);
template <Backend B> void grad_norm(const GradNormArgs& args, Stream& stream);

// g = factor · grad; m = β1 m + (1 − β1) g; v = β2 v + (1 − β2) g²; p −= lr (m̂ / (sqrt(v̂) + ε) + decay · p), where hats
// divide by 1 − β^adam_step when bias_correction and do nothing otherwise (the original). Does nothing when !finite.
struct AdamW {
  Tensor param, grad, m, v;         // (n), one dtype
  Tensor copy = {};                 // (n) bf16: param after the update, for the kernels to read; absent on the CPU
  const uint8_t* group_ids = nullptr;  // n / kGroupElements
  const ParameterGroup* groups = nullptr;
  const GradNorm* grad_norm = nullptr;
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-6;
  bool bias_correction = false;
  const StepState* state = nullptr;
};
// CUDA backend: f32, every buffer at a multiple of 16 bytes; one launch. Everything pointed to lies in the memory of its kernels.
template <Backend B> void adamw(const AdamW& args, Stream& stream);

}  // namespace electra
