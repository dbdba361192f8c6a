#include "trainer/evaluate.h"

#include "kernels/core/philox.h"
#include "trainer/training_step.h"

namespace electra {
namespace {

ElectraGraphOptions without_dropout(ElectraGraphOptions options) {
  options.train = false;
  options.recompute = Recompute::none;
  return options;
}

}  // namespace

Evaluator::Evaluator(const ElectraConfig& config, const BatchShape& shape, ElectraGraphOptions graph, uint64_t seed,
                     Stream stream, std::shared_ptr<ParameterStore> store)
    : config_(config),
      options_(without_dropout(graph)),
      seed_(seed ^ fnv1a64("evaluation")),
      program_(trace_electra(config, shape, options_), /*train=*/false, stream, std::move(store)) {}

Metrics Evaluator::run(const std::function<bool(HostBatch&)>& next, bool auc_padding) {
  const ElectraGraph& traced = program_.traced();
  MetricSums sums;
  HostBatch batch;
  for (uint32_t step = 0; next(batch); ++step) {
    StepState state{.seed = seed_, .step = step};
    set_denominators({&batch, 1}, options_.masking, state);
    program_.load(batch);
    program_.forward(state);
    sums.add(program_.output(traced.masked_lm_sums), program_.output(traced.disc_loss_sum), program_.output(traced.disc_counts),
             padding_of(batch, program_.shape()));
  }
  return sums.metrics(config_, auc_padding);
}

}  // namespace electra
