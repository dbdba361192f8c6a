#include "kernels/checks.h"

#include <string>

#include "kernels/core/error.h"

namespace electra {

void check_operand(std::string_view op, std::string_view what, const Tensor& operand, const Shape& shape, DType dtype) {
  check_shape(op, what, operand.shape, shape);
  check_dtype(op, what, operand.dtype, dtype);
  if (!operand && shape.size() > 0) throw ShapeError(op, std::string(what) + " has no memory, expected shape " + shape.str());
}

void check_gradient(std::string_view op, std::string_view what, GradMode mode, const Tensor& gradient, const Shape& shape, DType dtype) {
  if (mode != GradMode::none) check_operand(op, what, gradient, shape, dtype);
}

void check_state(std::string_view op, const StepState* state) {
  if (!state) throw ConfigError(op, "expected a step state, got none");
}

void check_draws(std::string_view op, const Dropout& dropout, const StepState* state) {
  check_dropout(op, dropout);
  if (dropout.active()) check_state(op, state);
}

void check_workspace(std::string_view op, const Tensor& workspace, size_t needed) {
  if (needed > 0 && (!workspace || workspace.bytes() < needed))
    throw ShapeError(op, "workspace has " + std::to_string(workspace ? workspace.bytes() : 0) + " bytes, expected at least " +
                             std::to_string(needed));
}

}  // namespace electra
