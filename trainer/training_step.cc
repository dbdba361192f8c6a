#include "trainer/training_step.h"

#include <algorithm>
#include <cmath>

namespace electra {

void set_denominators(std::span<const HostBatch> micro_batches, const MaskingOptions& masking, StepState& state) {
  int64_t masked = 0, tokens = 0;
  for (const HostBatch& b : micro_batches) {
    tokens += b.tokens;
    for (int64_t s = 0; s < b.sequences; ++s) {
      const int32_t begin = b.sequence_offsets[s], end = b.sequence_offsets[s + 1];
      masked += masked_count(b.ids + begin, end - begin, masking.special, masking.mask_prob, masking.max_predictions,
                             masking.with_replacement);
    }
  }
  state.masked_lm_denominator = static_cast<double>(std::max<int64_t>(masked, 1));
  state.disc_denominator = static_cast<double>(std::max<int64_t>(tokens, 1));
}

int64_t padding_of(const HostBatch& batch, const BatchShape& shape) { return batch.sequences * shape.max_seq_len - batch.tokens; }

TrainingStep::TrainingStep(const ElectraConfig& config, const BatchShape& micro_batch, const ElectraGraphOptions& graph,
                           const OptimizerConfig& optimizer, Stream stream, Program::Options options)
    : options_(graph),
      program_(trace_electra(config, micro_batch, graph), /*train=*/true, stream, nullptr, options),
      optimizer_(*program_.store(), optimizer, stream) {}

StepResult TrainingStep::run(std::span<const HostBatch> micro_batches, StepState state, MetricSums& sums) {
  const ElectraGraph& traced = program_.traced();
  set_denominators(micro_batches, options_.masking, state);
  StepResult result;
  MetricSums step_sums;
  for (size_t i = 0; i < micro_batches.size(); ++i) {
    program_.load(micro_batches[i]);
    program_.forward_backward(state, i == 0);
    result.loss += static_cast<double>(*program_.output(traced.loss).as<float>());
    result.tokens += micro_batches[i].tokens;
    step_sums.add(program_.output(traced.masked_lm_sums), program_.output(traced.disc_loss_sum),
                  program_.output(traced.disc_counts), padding_of(micro_batches[i], program_.shape()));
    state.first_sequence += static_cast<uint32_t>(micro_batches[i].sequences);
  }
  optimizer_.step(state, result.loss);
  result.grad_norm = optimizer_.grad_norm();
  result.finite = optimizer_.finite();
  if (result.finite) sums.add(step_sums);
  return result;
}

}  // namespace electra
