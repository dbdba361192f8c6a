// Plan: the order of all calls of a step and where every tensor lives. Pure arithmetic over a graph: allocates nothing but
// itself, so `plan` can print it for any configuration.
#pragma once
#include <string>
#include <vector>

#include "engine/graph.h"

namespace electra {

// One tensor's bytes in the arena over an interval of calls, both ends included.
struct Slot {
  size_t bytes = 0;   // rounded up to kArenaAlignment
  size_t offset = 0;  // in the arena
  int first = 0, last = 0;
};
inline constexpr size_t kArenaAlignment = 256;  // bytes

enum class Pass : uint8_t { forward, recompute, backward };

inline constexpr int kNoSlot = -1;

// One call of an op: which slot each of its tensors occupies then (kNoSlot: an input, a parameter or nothing).
struct Call {
  int node = 0;
  Pass pass = Pass::forward;
  std::vector<int> in, out, saved, dout, din;
  std::vector<GradMode> mode;        // of din; for parameters in the first micro-batch
  std::vector<GradMode> later_mode;  // in the micro-batches after it
  int workspace = kNoSlot;
};

struct PlanOptions {
  bool train = true;           // with backward
  Value loss = kNoValue;       // scalar to differentiate; required for train
  std::vector<Value> keep;     // computed values read after the step
};

struct Plan {
  std::vector<Call> calls;
  std::vector<Slot> slots;
  std::vector<int> final_slot;      // per value: where it stands after the last call, for kept values
  int loss_gradient = kNoSlot;      // slot that the program fills with 1 before backward
  int first_backward = 0;           // index of the first call after forward
  size_t arena_bytes = 0;
  size_t unplanned_bytes = 0;       // one buffer per tensor, for comparison
  std::vector<Value> parameters;    // in order of backward completion; those without gradient last
};

Plan make_plan(const Graph& graph, const PlanOptions& options);

// Places slots so that those alive at the same time do not overlap; returns the arena's size in bytes.
size_t assign_offsets(std::vector<Slot>& slots);

// A table: a line per node with output shape, kept bytes, workspace, FLOPs and bytes of both passes, and totals.
std::string format_plan(const Graph& graph, const Plan& plan);

// FLOPs and bytes of a step, recomputation included.
Cost total_cost(const Graph& graph, const Plan& plan);

}  // namespace electra
