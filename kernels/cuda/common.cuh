// What the CUDA kernels share: element types, gradient modes, places of rows, dropout by coordinates. Host and device code.
#pragma once
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

#include "kernels/checks.h"
#include "kernels/core/dtype.h"
#include "kernels/core/error.h"
#include "kernels/core/step_state.h"
#include "kernels/core/tensor.h"
#include "kernels/device.cuh"
#include "kernels/grad_mode.h"
#include "kernels/scratch.h"

namespace electra::cuda {

// Calls f.operator()<float>() or <bf16>(); anything else is a ShapeError naming the op.
template <class F> void dispatch_float(std::string_view op, DType type, F f) {
  if (type == DType::f32) f.template operator()<float>();
  else if (type == DType::bf16) f.template operator()<bf16>();
  else throw ShapeError(op, std::string("expected f32 or bf16 on this device, got ") + name_of(type));
}

// Calls f.operator()<true>() or <false>().
template <class F> void dispatch_bool(bool value, F f) {
  if (value) f.template operator()<true>();
  else f.template operator()<false>();
}

// Throws ShapeError unless sequence_offsets are (sequences + 1) i32. What they hold only the device knows.
inline void check_offsets(std::string_view op, const Tensor& offsets) {
  check_operand(op, "sequence_offsets", offsets, {std::max<int64_t>(1, offsets.size())}, DType::i32);
}

// Throws ShapeError unless the operand's address suits 16-byte accesses.
inline void check_aligned(std::string_view op, std::string_view what, const Tensor& operand) {
  if (reinterpret_cast<uintptr_t>(operand.data) % 16 != 0)
    throw ShapeError(op, std::string(what) + " lies at an address that is no multiple of 16 bytes");
}

using Scratch = AlignedScratch<256>;

// gradient[i] = value, or += value, as the mode says; nothing for none.
template <class T> __device__ inline void put(T* gradient, float value, GradMode mode) {
  if (mode == GradMode::write) *gradient = from_float<T>(value);
  else if (mode == GradMode::accumulate) *gradient = from_float<T>(to_float(*gradient) + value);
}

// Eight numbers to shared memory, where lanes' eights lie side by side. Of 32 bytes a lane an access takes 16: every other four lanes
// begin with their last four numbers, so that no two lanes meet in a bank.
__device__ inline void store_side_by_side(float* p, const float (&x)[8]) {
  const bool swaps = lane_index() / 4 % 2 != 0;
  Vec<float, 4> first, second;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    first[j] = swaps ? x[4 + j] : x[j];
    second[j] = swaps ? x[j] : x[4 + j];
  }
  store_vec(p + (swaps ? 4 : 0), first);
  store_vec(p + (swaps ? 0 : 4), second);
}

// The sum of v over the warp's lanes up to this one.
__device__ inline int warp_scan(int v, Site at = Site::current()) {
#pragma unroll
  for (int delta = 1; delta < kWarpSize; delta *= 2) {
    const int below = shfl_up(v, delta, at);
    if (lane_index() >= delta) v += below;
  }
  return v;
}

// The sum of v over the threads before this one, and over all threads of a block of kWarps whole warps. `scratch` lies in shared
// memory and may be used again after the call.
struct BlockScan {
  int before, total;
};
template <int kWarps> __device__ inline BlockScan block_scan(int v, int (&scratch)[kWarps], Site at = Site::current()) {
  const int sum = warp_scan(v, at);
  if (lane_index() == kWarpSize - 1) scratch[warp_index()] = sum;
  sync_block(at);
  BlockScan result{sum - v, 0};
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp_index()) result.before += scratch[w];
    result.total += scratch[w];
  }
  sync_block(at);
  return result;
}

// The sequences of a packed batch, as a kernel argument.
struct Sequences {
  const int32_t* offsets = nullptr;  // (count + 1)
  int count = 0;
  // Rows before the last offset.
  __device__ int used_rows() const { return offsets[count]; }
  static Sequences of(const Tensor& sequence_offsets) {
    return {sequence_offsets.as<int32_t>(), sequence_offsets ? static_cast<int>(sequence_offsets.size() - 1) : 0};
  }
};

// Where a row stands in the batch: the coordinates of its random draws.
struct Place {
  uint32_t sequence;  // in the step's global batch; kNoSequence beyond the last offset
  uint32_t position;
};
constexpr uint32_t kNoSequence = 0xffffffffu;

// By bisection: the last sequence that begins at the row or before and is not empty.
__device__ inline Place place_of(const Sequences& sequences, const StepState& state, int row) {
  int low = 0, high = sequences.count;  // offsets[low] <= row < offsets[high], where high = count stands for no sequence
  if (high == 0 || row >= sequences.offsets[high]) return {kNoSequence, static_cast<uint32_t>(row)};
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (sequences.offsets[middle] <= row) low = middle;
    else high = middle;
  }
  return {state.first_sequence + static_cast<uint32_t>(low), static_cast<uint32_t>(row - sequences.offsets[low])};
}

// Dropout as a kernel argument. Inactive: threshold 0.
struct DropoutArgs {
  uint64_t site = 0;
  uint32_t threshold = 0;
  float scale = 1;
  static DropoutArgs of(const Dropout& dropout) {
    if (!dropout.active()) return {};
    return {dropout.site, dropout.keep_threshold(), static_cast<float>(dropout.keep_scale())};
  }
};

// x[0..7] *= keep_scale or 0, the eight draws of one call.
__device__ inline void drop8(float (&x)[8], const DropoutArgs& dropout, const StepState& state, Place place, uint32_t group) {
  const Bits128 bits = philox(state.seed ^ dropout.site, {state.step, place.sequence, place.position, group});
#pragma unroll
  for (int i = 0; i < 8; ++i) x[i] = draw16(bits, i) < dropout.threshold ? x[i] * dropout.scale : 0.0f;
}

// GELU, the erf form.
__device__ inline float gelu(float x) { return 0.5f * x * erfcf(-0.70710678118654752f * x); }
__device__ inline float gelu_slope(float x) {
  return 0.5f * erfcf(-0.70710678118654752f * x) + x * 0.3989422804014327f * expf(-0.5f * x * x);
}

}  // namespace electra::cuda
