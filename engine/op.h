// Op: one node of a graph: shape inference at trace time, forward, backward, and a signature that tells the planner what
// must stay alive.
#pragma once
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "kernels/core/device.h"
#include "kernels/core/step_state.h"
#include "kernels/core/tensor.h"
#include "kernels/grad_mode.h"

namespace electra {

// Work of one pass: floating-point operations the mathematics asks for (what a kernel computes twice counts once), and bytes
// that must cross memory once in training: operands and what one sweep of the kernel leaves for the next, figures of rows and
// columns (bias, statistics) left out beside matrices. Formulas stand in docs/ops; tests/test_ops.cc checks them.
struct Cost {
  double flops = 0;
  double bytes = 0;
};

// What an op promises the planner. Bit k of a mask is input or output k.
struct Signature {
  std::vector<TensorSpec> outputs;
  std::vector<TensorSpec> saved;        // written by forward, read by backward (mean, rstd, lse, …)
  uint32_t optional_saved = 0;          // bit k: saved k is absent where no backward of the op follows (evaluation)
  uint32_t differentiable_inputs = 0;   // backward can produce their gradients
  uint32_t differentiable_outputs = 0;  // backward reads their gradients; a sample has none: stop-gradient is structural
  uint32_t backward_reads_inputs = 0;   // kept alive until backward
  uint32_t backward_reads_outputs = 0;
  size_t forward_workspace = 0;         // bytes of scratch, contents undefined at entry
  size_t backward_workspace = 0;
  Cost forward, backward;
};

// The memory of one call. Absent tensors have data == nullptr: workspace where the signature asks for none, optional saved
// ones where no backward follows, dout where nothing depends on an output, din where mode is none.
struct Frame {
  std::span<const Tensor> in, out, saved, dout, din;
  std::span<const GradMode> mode;  // of din
  Tensor workspace;                // u8
  const StepState* state = nullptr;
  Stream* stream = nullptr;
};

// What infer knows beyond the shapes.
struct TraceContext {
  std::string_view where;  // full scope name, for errors
  // Of the stream that will run the program.
  int max_threads = 1;     // sizes per-thread scratch
  Backend backend = Backend::cpu;
};

class Op {
 public:
  virtual ~Op() = default;
  virtual const char* name() const = 0;
  // Throws ShapeError, or ConfigError for an option, naming context.where.
  virtual Signature infer(std::span<const TensorSpec> in, const TraceContext& context) const = 0;
  virtual void forward(const Frame& frame) const = 0;
  virtual void backward(const Frame& frame) const = 0;
};

// An op without gradient calls this from backward: reaching it is a planner bug.
[[noreturn]] void no_backward(const Op& op);

}  // namespace electra
