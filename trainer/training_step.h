// TrainingStep: one optimizer step of joint pre-training: micro-batches forward and backward, then clip and AdamW. On a GPU it is
// issued eagerly the first time and from then on replayed: a step of one micro-batch is one graph.
#pragma once
#include <array>
#include <memory>
#include <span>
#include <vector>

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
  // micro_batch: capacity of one micro-batch. The stream must outlive the step. store: the parameters and moments of an earlier step of
  // the same model, perhaps of another shape; nullptr: a new store.
  TrainingStep(const ElectraConfig& config, const BatchShape& micro_batch, const ElectraGraphOptions& graph,
               const OptimizerConfig& optimizer, Stream stream, Program::Options options = {}, std::shared_ptr<ParameterStore> store = nullptr);
  ~TrainingStep();

  // state gives seed, step, learning_rate and adam_step; the rest is computed from the batches. All of a step's
  // micro-batches are needed at once: their masked positions and tokens are the losses' denominators. Metric sums are
  // added to sums when the step is finite.
  StepResult run(std::span<const HostBatch> micro_batches, const StepState& state, MetricSums& sums);

  // The same in three parts, so that a GPU works while the host prepares the next step. begin() issues everything and has no
  // further need of the batches; stage() sends the first micro-batch of the next step ahead, of which begin() must then be told
  // as it stands; finish() waits for the result. On the CPU begin() computes.
  void begin(std::span<const HostBatch> micro_batches, StepState state);
  void stage(const HostBatch& first_of_next);
  StepResult finish(MetricSums& sums);

  const std::shared_ptr<ParameterStore>& store() const { return program_.store(); }
  const ElectraProgram& program() const { return program_; }
  int64_t replays() const;  // of recorded launches so far

 private:
  // What the host reads of a micro-batch when the step is done.
  struct Output {
    Value value = kNoValue;
    TensorSpec spec;
    Buffer memory;
    Tensor tensor() const { return {memory.data(), spec.shape, spec.dtype}; }
  };
  struct Outputs {
    Output loss, masked_lm_sums, disc_loss_sum, disc_counts;
    int64_t padding = 0;
  };
  Outputs make_outputs() const;
  void issue(bool first, bool last);

  ElectraGraphOptions options_;
  Stream stream_;
  ElectraProgram program_;
  Optimizer optimizer_;
  bool record_;
  Buffer loss_;         // of the micro-batches so far, (1), where the optimizer's kernels read it
  Buffer norm_;         // the optimizer's result, for the host
  std::vector<Outputs> outputs_;  // per micro-batch
  std::array<Recording, 4> recordings_;  // of a micro-batch that is or is not the first, and is or is not the last
  size_t micro_batches_ = 0;      // of the step that was begun
  int64_t tokens_ = 0;
  bool staged_ = false;
};

// The losses' denominators of a step, summed over its micro-batches: masked positions and real tokens, at least 1 each.
void set_denominators(std::span<const HostBatch> micro_batches, const MaskingOptions& masking, StepState& state);
// Positions a batch would have more if its sequences were all of full length.
int64_t padding_of(const HostBatch& batch, const BatchShape& shape);

}  // namespace electra
