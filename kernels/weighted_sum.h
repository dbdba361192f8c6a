// Scalar algebra on the device: the total loss is a weighted sum of losses.
#pragma once
#include "kernels/core/backend.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor.h"
#include "kernels/grad_mode.h"

namespace electra {

// sum (1) = weight_a · a (1) + weight_b · b (1); b may be absent.
struct WeightedSum {
  Tensor a, b, sum;
  double weight_a = 1, weight_b = 0;
};
struct WeightedSumBackward {
  Tensor dsum, da, db;
  double weight_a = 1, weight_b = 0;
  GradMode da_mode = GradMode::write, db_mode = GradMode::none;
};
template <Backend B> void weighted_sum(const WeightedSum& args, Stream& stream);
template <Backend B> void weighted_sum_backward(const WeightedSumBackward& args, Stream& stream);

}  // namespace electra
