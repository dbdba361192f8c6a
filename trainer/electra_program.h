// An ELECTRA model ready to run: graph, plan, parameters and program, for training or evaluation.
#pragma once
#include <memory>

#include "engine/program.h"
#include "model/electra.h"

namespace electra {

// A batch on the host, laid end to end; arrays have the capacity of the program's BatchShape.
struct HostBatch {
  const int32_t* ids = nullptr;               // (tokens)
  const int32_t* segments = nullptr;          // (tokens)
  const int32_t* sequence_offsets = nullptr;  // (sequences + 1); unused entries repeat the last offset
  int64_t sequences = 0, tokens = 0;          // used
};

class ElectraProgram {
 public:
  // With a loss and store == nullptr the program owns a new store (train: with gradients); otherwise it uses the given one.
  ElectraProgram(ElectraGraph traced, bool train, Stream stream, std::shared_ptr<ParameterStore> store = nullptr,
                 Program::Options options = {});

  // The inputs of the next run; batches may be read into other memory afterwards. On a GPU they are sent at once, beside what computes.
  void load(const HostBatch& batch);
  void forward(const StepState& state) { program_->forward(state); }
  void forward_backward(const StepState& state, bool first_micro_batch) { program_->forward_backward(state, first_micro_batch); }

  const ElectraGraph& traced() const { return traced_; }
  const BatchShape& shape() const { return traced_.shape; }
  const std::shared_ptr<ParameterStore>& store() const { return store_; }
  const Program& program() const { return *program_; }
  Program& program() { return *program_; }
  // Absent tensor for kNoValue.
  Tensor output(Value v) const { return v == kNoValue ? Tensor{} : program_->output(v); }
  Tensor input(Value v) { return program_->input(v); }
  const Cost& step_cost() const { return cost_; }  // of one micro-batch

 private:
  ElectraGraph traced_;
  std::shared_ptr<ParameterStore> store_;
  std::unique_ptr<Program> program_;
  Cost cost_;
};

}  // namespace electra
