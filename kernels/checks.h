// What kernels of every backend check before a launch: shapes, types and presence of operands, never what they hold.
#pragma once
#include <cstddef>
#include <string_view>

#include "kernels/core/philox.h"
#include "kernels/core/step_state.h"
#include "kernels/core/tensor.h"
#include "kernels/grad_mode.h"

namespace electra {

// Throws ShapeError unless the operand has this shape, type and, where the shape is not empty, memory.
void check_operand(std::string_view op, std::string_view what, const Tensor& operand, const Shape& shape, DType dtype);

// The same of a gradient that is asked for.
void check_gradient(std::string_view op, std::string_view what, GradMode mode, const Tensor& gradient, const Shape& shape, DType dtype);

// Throws ConfigError when an op that needs the step's state has none.
void check_state(std::string_view op, const StepState* state);

// Throws ConfigError for a dropout that cannot be drawn, or one without a state.
void check_draws(std::string_view op, const Dropout& dropout, const StepState* state);

// Throws ShapeError when workspace is smaller than needed bytes.
void check_workspace(std::string_view op, const Tensor& workspace, size_t needed);

}  // namespace electra
