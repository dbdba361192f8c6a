// TrainingStep: one optimizer step of joint pre-training: micro-batches forward and backward, then clip and AdamW.
#pragma once
#include <memory>
#include <span>

#include "trainer/electra_program.h"
#include "trainer/metrics.h"
#include "trainer/optimizer.h"

namespace electra {

struct StepResult {
  double loss = 0;       // total, over the whole batch
  double grad_norm = 0;  // before clipping
  bool finite = true;    // false: loss or norm was not, and nothing was changed
  int64_t tokens = 0;    // real tokens
};

class TrainingStep {
 public:
  // micro_batch: capacity of one micro-batch. The stream must outlive the step.
  TrainingStep(const ElectraConfig& config, const BatchShape& micro_batch, const ElectraGraphOptions& graph,
               const OptimizerConfig& optimizer, Stream stream, Program::Options options = {});

  // state gives seed, step, learning_rate and adam_step; the rest is computed from the batches. All of a step's
  // micro-batches are needed at once: their masked positions and tokens are the losses' denominators. Metric sums are
  // added to sums when the step is finite.
  StepResult run(std::span<const HostBatch> micro_batches, StepState state, MetricSums& sums);

  const std::shared_ptr<ParameterStore>& store() const { return program_.store(); }
  const ElectraProgram& program() const { return program_; }

 private:
  ElectraGraphOptions options_;
  ElectraProgram program_;
  Optimizer optimizer_;
};

// The losses' denominators of a step, summed over its micro-batches: masked positions and real tokens, at least 1 each.
void set_denominators(std::span<const HostBatch> micro_batches, const MaskingOptions& masking, StepState& state);
// Positions a batch would have more if its sequences were all of full length.
int64_t padding_of(const HostBatch& batch, const BatchShape& shape);

}  // namespace electra
