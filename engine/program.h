// Program: a planned graph with its memory, ready to run any number of times. A run allocates nothing.
#pragma once
#include <memory>
#include <vector>

#include "engine/parameters.h"
#include "engine/plan.h"

namespace electra {

class Program {
 public:
  struct Options {
    bool poison = false;  // fill a tensor with NaN when its lifetime ends: catches an op whose signature lies
  };

  // The graph, the store and the stream must outlive the program. The store holds every parameter of the graph.
  Program(const Graph& graph, Plan plan, const ParameterStore& store, Stream stream, Options options);
  Program(const Graph& graph, Plan plan, const ParameterStore& store, Stream stream)
      : Program(graph, std::move(plan), store, stream, Options{}) {}

  void forward(const StepState& state);
  // Gradients go to the store: written in the first micro-batch of a step, added in those after it.
  void forward_backward(const StepState& state, bool first_micro_batch = true);

  Tensor input(Value v) const;   // to be filled before a run
  Tensor output(Value v) const;  // a kept value, valid after a run; throws Error for one that was not kept
  const Plan& plan() const { return plan_; }
  const Graph& graph() const { return *graph_; }
  size_t arena_bytes() const { return plan_.arena_bytes; }
  size_t input_bytes() const { return inputs_.bytes(); }

 private:
  struct BoundCall {
    const Op* op;
    Pass pass;
    std::vector<Tensor> in, out, saved, dout, din;
    std::vector<GradMode> mode, later_mode;
    Tensor workspace;
    std::vector<int> ending;  // slots whose lifetime ends with this call; poison mode only
  };
  Tensor slot(int s, const TensorSpec& spec) const;
  void run(size_t first, size_t last, bool first_micro_batch);

  const Graph* graph_;
  Plan plan_;
  Stream stream_;
  Options options_;
  StepState state_;
  Buffer arena_, inputs_;
  std::vector<Tensor> input_tensors_;  // per value
  std::vector<BoundCall> calls_;
};

}  // namespace electra
