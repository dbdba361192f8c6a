// Weighted sum of losses: scalars, one thread. Losses are fp32 whatever the activations are.
#include "kernels/cuda/common.cuh"
#include "kernels/weighted_sum.h"

namespace electra {
namespace {

using namespace cuda;

struct SumArgs {
  const float *a, *b;
  float* sum;
  double weight_a, weight_b;
};
__global__ void __launch_bounds__(kWarpSize) sum_kernel(SumArgs k) {
  if (thread_index().x > 0) return;
  const double b = k.b ? k.weight_b * static_cast<double>(*k.b) : 0.0;
  *k.sum = static_cast<float>(k.weight_a * static_cast<double>(*k.a) + b);
}

struct SumBackwardArgs {
  const float* dsum;
  float *da, *db;
  double weight_a, weight_b;
  GradMode da_mode, db_mode;
};
__global__ void __launch_bounds__(kWarpSize) sum_backward_kernel(SumBackwardArgs k) {
  if (thread_index().x > 0) return;
  const auto d = static_cast<double>(*k.dsum);
  put(k.da, static_cast<float>(k.weight_a * d), k.da_mode);
  put(k.db, static_cast<float>(k.weight_b * d), k.db_mode);
}

void check_scalar(const char* what, const Tensor& scalar) { check_operand("weighted_sum", what, scalar, {1}, DType::f32); }

}  // namespace

template <> void weighted_sum<Backend::cuda>(const WeightedSum& args, Stream& stream) {
  check_scalar("a", args.a);
  check_scalar("sum", args.sum);
  if (args.b) check_scalar("b", args.b);
  launch(sum_kernel, {1}, {kWarpSize}, 0, stream.handle(),
         SumArgs{args.a.as<float>(), args.b.as<float>(), args.sum.as<float>(), args.weight_a, args.weight_b});
}

template <> void weighted_sum_backward<Backend::cuda>(const WeightedSumBackward& args, Stream& stream) {
  check_scalar("dsum", args.dsum);
  if (args.da_mode != GradMode::none) check_scalar("da", args.da);
  if (args.db_mode != GradMode::none) check_scalar("db", args.db);
  launch(sum_backward_kernel, {1}, {kWarpSize}, 0, stream.handle(),
         SumBackwardArgs{args.dsum.as<float>(), args.da.as<float>(), args.db.as<float>(), args.weight_a, args.weight_b, args.da_mode,
                         args.db_mode});
}

}  // namespace electra
