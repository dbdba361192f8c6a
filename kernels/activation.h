// GELU, the erf form x Φ(x) (Hendrycks and Gimpel, 2016): ELECTRA's activation, not the tanh approximation.
#pragma once
#include "kernels/core/backend.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor.h"
#include "kernels/grad_mode.h"

namespace electra {

struct GeluForward {
  Tensor x, y;  // any shape
};
struct GeluBackward {
  Tensor x, dy, dx;  // dx may be dy
  GradMode dx_mode = GradMode::write;
};
template <Backend B> void gelu_forward(const GeluForward& args, Stream& stream);
template <Backend B> void gelu_backward(const GeluBackward& args, Stream& stream);

}  // namespace electra
