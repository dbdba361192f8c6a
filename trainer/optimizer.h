// Optimizer: global-norm clipping and AdamW over the flat buffers of a parameter store.
#pragma once
#include <array>

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

  // One update with state.learning_rate. Changes nothing where the loss or the gradient norm is not finite: see finite().
  void step(const StepState& state, Tensor loss);
  // The norm before clipping of the last step, and whether it was applied.
  double grad_norm() const { return norm_.norm; }
  bool finite() const { return norm_.finite != 0; }

 private:
  const ParameterStore* store_;
  OptimizerConfig config_;
  Stream stream_;
  std::array<ParameterGroup, 2> groups_;  // by the store's group ids: with decay, without
  GradNorm norm_;
  Buffer workspace_;
};

}  // namespace electra
