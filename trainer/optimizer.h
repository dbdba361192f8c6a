// Optimizer: global-norm clipping and AdamW over the flat buffers of a parameter store.
#pragma once
#include <array>
#include <vector>

#include "engine/parameters.h"
#include "kernels/core/device.h"
#include "kernels/optimizer.h"

namespace electra {

struct OptimizerConfig {
  double weight_decay = 0.01;
  double beta1 = 0.9, beta2 = 0.999;
  double eps = 1e-6;
  double clip_norm = 1.0;        // of all gradients together
  bool bias_correction = false;  // the original has none
};

class Optimizer {
 public:
  // The store must outlive the optimizer and hold gradients and moments.
  Optimizer(const ParameterStore& store, const OptimizerConfig& config, Stream stream);

  // One update with state.learning_rate. Changes nothing where the loss (of the whole step) or the gradient norm is not finite:
  // see finite(). Waits for the result.
  void step(const StepState& state, double loss);
  // The norm before clipping of the last step, and whether it was applied.
  double grad_norm() const { return result_.norm; }
  bool finite() const { return result_.finite != 0; }

  // The launches of an update alone: state and loss (1) lie in the memory of the kernels, and so does the result.
  void issue(const StepState* state, const Tensor& loss);
  const GradNorm* device_result() const { return norm_.data(); }

 private:
  const ParameterStore* store_;
  OptimizerConfig config_;
  Stream stream_;
  DeviceValue<std::array<ParameterGroup, 2>> groups_;  // by the store's group ids: with decay, without
  DeviceValue<GradNorm> norm_;
  DeviceValue<StepState> state_;
  Buffer group_ids_, loss_, workspace_;
  GradNorm result_;
};

}  // namespace electra
