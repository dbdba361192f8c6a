// Program: a planned graph with its memory, ready to run any number of times. A run allocates nothing. On a GPU the launches of
// a run are recorded the second time and replayed from then on.
#pragma once
#include <array>
#include <chrono>
#include <memory>
#include <optional>
#include <vector>

#include "engine/parameters.h"
#include "engine/plan.h"

namespace electra {

class Program {
 public:
  struct Options {
    bool poison = false;  // fill a tensor with NaN when its lifetime ends: catches an op whose signature lies
    bool record = true;   // replay recorded launches on a GPU; poison mode and time_calls never do
    bool time_calls = false;  // for call_milliseconds()
  };

  // The graph, the store and the stream must outlive the program. The store holds every parameter of the graph.
  Program(const Graph& graph, Plan plan, const ParameterStore& store, Stream stream, Options options);
  Program(const Graph& graph, Plan plan, const ParameterStore& store, Stream stream)
      : Program(graph, std::move(plan), store, stream, Options{}) {}

  void forward(const StepState& state);
  // Gradients go to the store: written in the first micro-batch of a step, added in those after it.
  void forward_backward(const StepState& state, bool first_micro_batch = true);

  // The parts of a run, for a caller that records its launches together with others. prepare() brings state and inputs to where
  // kernels read them; issue_forward_backward() is nothing but launches, the same at every run.
  void prepare(const StepState& state);
  void issue_forward_backward(bool first_micro_batch);
  const StepState* device_state() const { return state_.data(); }

  // Host memory to be filled before a run; holds what the last run read, or will read. Waits, on a GPU, until it has been sent.
  Tensor input(Value v);
  // Inputs are complete: on a GPU they are sent while an earlier run may still compute. Otherwise the run sends them.
  void send_inputs();
  // A kept value of the last run in host memory; waits for it. Throws Error for one that was not kept.
  Tensor output(Value v) const;
  // Copies it to host memory, which may be read when the stream is synchronised.
  void copy_output(Value v, void* to) const;
  const Plan& plan() const { return plan_; }
  const Graph& graph() const { return *graph_; }
  size_t arena_bytes() const { return plan_.arena_bytes; }
  size_t input_bytes() const { return inputs_.bytes(); }
  // The memory of one run that kernels read and write, for tests of what no output shows.
  Tensor device_output(Value v) const;
  // How long each call of the plan took in the last run, by the GPU's clock or, elsewhere, the host's; waits for it. Calls that did not
  // run took 0. Throws Error without Options::time_calls.
  std::vector<double> call_milliseconds() const;

 private:
  struct BoundCall {
    const Op* op;
    Pass pass;
    std::vector<Tensor> in, out, saved, dout, din;
    std::vector<GradMode> mode, later_mode;
    Tensor workspace;
    std::vector<int> ending;  // slots whose lifetime ends with this call; poison mode only
  };
  // A run is one of these; each is recorded by itself.
  enum Run : uint8_t { kForward, kFirstMicroBatch, kLaterMicroBatch };
  Tensor slot(int s, const TensorSpec& spec) const;
  void start(const StepState& state, Run run);
  void check_trains() const;
  void issue(Run run);
  void call_ops(size_t first, size_t last, bool first_micro_batch);
  void mark_time(size_t mark);

  const Graph* graph_;
  Plan plan_;
  Stream stream_;
  Options options_;
  DeviceValue<StepState> state_;
  Buffer arena_, inputs_;
  Buffer loss_gradient_;               // 1 in the graph's dtype of losses
  std::vector<Tensor> input_tensors_;  // per value, where kernels read it
  // On a GPU inputs take this way: the host writes a staging buffer, the two in turn; the side stream copies it to landing_ while
  // an earlier run computes; the stream of the kernels copies that to inputs_, whose place is part of what was recorded.
  std::array<Buffer, 2> staging_;
  Buffer landing_;
  std::vector<Event> staged_;          // per staging buffer: it has been copied to landing_
  std::optional<Event> taken_;         // landing_ has been copied to inputs_
  size_t staging_now_ = 0;
  bool filling_ = false;               // the host writes staging_[staging_now_]
  bool sent_ = false;                  // landing_ holds, or will hold, the inputs of the next run
  Buffer host_outputs_;
  std::vector<size_t> host_output_offset_;  // per value
  std::array<Recording, 3> recordings_;
  std::vector<BoundCall> calls_;
  // time_calls: marks 2 c and 2 c + 1 stand before and after call c.
  std::vector<Event> marks_;
  std::vector<std::chrono::steady_clock::time_point> host_marks_;
  std::optional<SideStream> copies_;   // the last member: what it has in flight is done before memory goes
};

}  // namespace electra
