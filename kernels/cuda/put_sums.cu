#include "kernels/cuda/put_sums.cuh"

#include "kernels/cuda/common.cuh"

namespace electra::cuda {
namespace {

constexpr int kMostSums = 4;
constexpr int kSlices = 16;  // of the partial sums; each is added up by one warp for 32 columns

struct Shared {
  float sum[kSlices][kWarpSize];
};

struct PutSumsArgs {
  PartialSums of[kMostSums];
};

// A block takes 32 columns of one gradient. Warp w adds the partial sums w, w + 16, ...; then the 16 sums are added in order.
// Traffic: the partial sums once, which the launch before has left in the second-level cache.
__global__ void __launch_bounds__(kSlices* kWarpSize) put_sums_kernel(PutSumsArgs a) {
  auto& sm = block_shared<Shared>();
  const PartialSums& s = a.of[block_index().y];
  const int lane = lane_index(), slice = warp_index(), column = block_index().x * kWarpSize + lane;
  float sum = 0;
  if (column < s.cols) {
#pragma unroll 4
    for (int k = slice; k < s.count; k += kSlices) sum += s.partial[static_cast<size_t>(k) * s.stride + column];
  }
  sm.sum[slice][lane] = sum;
  sync_block();
  if (slice != 0 || column >= s.cols) return;
#pragma unroll
  for (int k = 1; k < kSlices; ++k) sum += sm.sum[k][lane];
  put(s.gradient + column, sum, s.mode);
}

}  // namespace

void put_sums(std::initializer_list<PartialSums> sums, Stream& stream) {
  PutSumsArgs args;
  int gradients = 0, cols = 0;
  for (const PartialSums& s : sums) {
    if (s.mode == GradMode::none || s.cols == 0) continue;
    args.of[gradients++] = s;
    cols = std::max(cols, s.cols);
  }
  if (gradients > 0)
    launch(put_sums_kernel, {ceil_div(cols, kWarpSize), gradients}, {kSlices * kWarpSize}, sizeof(Shared), stream.handle(), args);
}

}  // namespace electra::cuda
