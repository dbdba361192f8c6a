// Held-out evaluation: the joint graph with dropout off, masks and samples drawn from a seed of their own, so that every
// evaluation of a run sees the same corruption wherever the generator's samples agree.
#pragma once
#include <functional>
#include <memory>

#include "trainer/electra_program.h"
#include "trainer/metrics.h"

namespace electra {

class Evaluator {
 public:
  // Uses the store's current values; the store and the stream must outlive the evaluator.
  Evaluator(const ElectraConfig& config, const BatchShape& shape, ElectraGraphOptions graph, uint64_t seed, Stream stream,
            std::shared_ptr<ParameterStore> store);

  // next fills the batch and returns false when there is none left. auc_padding: see MetricSums::metrics.
  Metrics run(const std::function<bool(HostBatch&)>& next, bool auc_padding);

  const ElectraProgram& program() const { return program_; }

 private:
  ElectraConfig config_;
  ElectraGraphOptions options_;
  uint64_t seed_;
  ElectraProgram program_;
};

}  // namespace electra
