#include "trainer/training_step.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/dispatch.h"
#include "kernels/weighted_sum.h"

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
                           const OptimizerConfig& optimizer, Stream stream, Program::Options options, std::shared_ptr<ParameterStore> store)
    : options_(graph),
      stream_(stream),
      program_(trace_electra(config, micro_batch, graph), /*train=*/true, stream, std::move(store), options),
      optimizer_(*program_.store(), optimizer, stream),
      record_(stream.backend() == Backend::cuda && options.record && !options.poison && !options.time_calls),
      loss_(sizeof(float), memory_of(stream.backend())),
      norm_(sizeof(GradNorm), host_memory_of(stream.backend())) {}

// Copies to host memory may be in flight where a step was begun and not finished.
TrainingStep::~TrainingStep() {
  try {
    stream_.synchronize();
  } catch (const std::exception&) {
  }
}

TrainingStep::Outputs TrainingStep::make_outputs() const {
  const ElectraGraph& traced = program_.traced();
  const auto make = [&](Value v) {
    if (v == kNoValue) return Output{};
    const TensorSpec& spec = traced.graph->value(v).spec;
    return Output{v, spec, Buffer(spec.bytes(), host_memory_of(stream_.backend()))};
  };
  return {make(traced.loss), make(traced.masked_lm_sums), make(traced.disc_loss_sum), make(traced.disc_counts)};
}

void TrainingStep::issue(bool first, bool last) {
  program_.program().issue_forward_backward(first);
  const Tensor total{loss_.data(), {1}, DType::f32}, loss = program_.program().device_output(program_.traced().loss);
  if (first) copy(total.data, loss.data, total.bytes(), stream_);
  else dispatch(stream_, [&]<Backend B>() { weighted_sum<B>({.a = total, .b = loss, .sum = total, .weight_b = 1}, stream_); });
  if (last) optimizer_.issue(program_.program().device_state(), total);
}

void TrainingStep::begin(std::span<const HostBatch> micro_batches, StepState state) {
  set_denominators(micro_batches, options_.masking, state);
  micro_batches_ = micro_batches.size();
  tokens_ = 0;
  while (outputs_.size() < micro_batches_) outputs_.push_back(make_outputs());
  for (size_t i = 0; i < micro_batches_; ++i) {
    const HostBatch& batch = micro_batches[i];
    if (!std::exchange(staged_, false)) program_.load(batch);
    program_.program().prepare(state);
    const bool first = i == 0, last = i + 1 == micro_batches_;
    if (record_) recordings_[2 * first + last].run(stream_, [&] { issue(first, last); });
    else issue(first, last);
    Outputs& outputs = outputs_[i];
    for (const Output* o : {&outputs.loss, &outputs.masked_lm_sums, &outputs.disc_loss_sum, &outputs.disc_counts})
      if (o->value != kNoValue) program_.program().copy_output(o->value, o->memory.data());
    outputs.padding = padding_of(batch, program_.shape());
    tokens_ += batch.tokens;
    state.first_sequence += static_cast<uint32_t>(batch.sequences);
  }
  copy(norm_.data(), optimizer_.device_result(), sizeof(GradNorm), stream_);
}

void TrainingStep::stage(const HostBatch& first_of_next) {
  program_.load(first_of_next);
  staged_ = true;
}

StepResult TrainingStep::finish(MetricSums& sums) {
  stream_.synchronize();
  StepResult result;
  MetricSums step_sums;
  for (size_t i = 0; i < micro_batches_; ++i) {
    const Outputs& o = outputs_[i];
    result.loss += static_cast<double>(*o.loss.tensor().as<float>());
    step_sums.add(o.masked_lm_sums.tensor(), o.disc_loss_sum.tensor(), o.disc_counts.tensor(), o.padding);
  }
  const auto& norm = *reinterpret_cast<const GradNorm*>(norm_.data());
  result.tokens = tokens_;
  result.grad_norm = norm.norm;
  result.finite = norm.finite != 0;
  if (result.finite) sums.add(step_sums);
  return result;
}

StepResult TrainingStep::run(std::span<const HostBatch> micro_batches, const StepState& state, MetricSums& sums) {
  begin(micro_batches, state);
  return finish(sums);
}

int64_t TrainingStep::replays() const {
  int64_t n = 0;
  for (const Recording& r : recordings_) n += r.replays();
  return n;
}

}  // namespace electra
