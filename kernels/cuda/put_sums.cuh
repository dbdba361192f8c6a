// The second stage of deterministic sums over rows: partial sums of blocks, added in the order of the blocks.
#pragma once
#include <initializer_list>

#include "kernels/core/device.h"
#include "kernels/grad_mode.h"

namespace electra::cuda {

// gradient (cols) takes the sum over count partial sums, in their order, of partial[k · stride + column].
struct PartialSums {
  const float* partial = nullptr;
  int count = 0, stride = 0, cols = 0;
  float* gradient = nullptr;
  GradMode mode = GradMode::none;
};

// At most four gradients in one launch; none where all are GradMode::none.
void put_sums(std::initializer_list<PartialSums> sums, Stream& stream);

}  // namespace electra::cuda
