// The two products of a dense layer's backward, y = x Wᵀ: what linear and the discriminator's head share.
#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/core/device.h"
#include "kernels/core/tensor.h"
#include "kernels/grad_mode.h"

namespace electra::cuda {

struct DenseGradients {
  Tensor du;         // (rows, out), gradient of the product
  Tensor x;          // (rows, in)
  Tensor weight;     // (out, in)
  Tensor dx;         // (rows, in) = du W
  GradMode dx_mode = GradMode::none;
  Tensor dweight;    // (out, in) = duᵀ x
  GradMode dweight_mode = GradMode::none;
  Tensor workspace;  // dense_gradients_workspace bytes, which the products use in turn
};

void dense_gradients(const DenseGradients& args, Stream& stream);
size_t dense_gradients_workspace(int64_t rows, int64_t in, int64_t out);

}  // namespace electra::cuda
