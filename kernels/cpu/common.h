// What the CPU kernels share: gradient modes, places of rows, dropout by the definition, dispatch on the element type.
#pragma once
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>

#include "kernels/checks.h"
#include "kernels/core/error.h"
#include "kernels/core/philox.h"
#include "kernels/core/step_state.h"
#include "kernels/core/tensor.h"
#include "kernels/cpu/vector/kernels.h"
#include "kernels/grad_mode.h"
#include "kernels/scratch.h"

namespace electra::cpu {

template <class T> void put(T& gradient, T value, GradMode mode) {
  if (mode == GradMode::write) gradient = value;
  else if (mode == GradMode::accumulate) gradient += value;
}

// Clears a gradient that is going to be added to, where it is to be written.
template <class T> void clear(const Tensor& gradient, GradMode mode) {
  if (mode == GradMode::write) std::fill_n(gradient.as<T>(), gradient.size(), T(0));
}

// Calls f.operator()<double>() or <float>(); anything else is a ShapeError naming the op.
template <class F> void dispatch_float(std::string_view op, DType type, F f) {
  if (type == DType::f64) f.template operator()<double>();
  else if (type == DType::f32) f.template operator()<float>();
  else throw ShapeError(op, std::string("expected f32 or f64, got ") + name_of(type));
}

// Where a row stands in the batch: the coordinates of its random draws.
struct Place {
  uint32_t sequence;  // in the step's global batch; kNoSequence beyond the last offset
  uint32_t position;
};
inline constexpr uint32_t kNoSequence = 0xffffffffu;

// Finds the places of consecutive rows.
class PlaceCursor {
 public:
  // sequence_offsets (sequences + 1) i32; absent: every row is beyond the last offset.
  PlaceCursor(const Tensor& sequence_offsets, const StepState* state, int64_t first_row);
  Place next();

 private:
  const int32_t* offsets_;
  int64_t sequences_, sequence_ = 0, row_;
  uint32_t first_sequence_;
};

// Factor of an element by the definition: keep_scale or 0.
double keep_factor(const Dropout& dropout, const StepState* state, Place place, uint32_t group, int slot);

// Rows a work item covers: enough to amortise a call, few enough to balance; a function of the shape alone.
inline constexpr int64_t kRowsPerItem = 64;
inline int64_t items_of(int64_t rows, int64_t rows_per_item) { return (rows + rows_per_item - 1) / rows_per_item; }

// Rows before the last of sequence_offsets (sequences + 1) i32.
inline int64_t used_rows(const Tensor& sequence_offsets) { return sequence_offsets.as<int32_t>()[sequence_offsets.size() - 1]; }

// gradient (cols) takes the sum over items, in their order, of partial[item · stride + column].
void put_sums(const float* partial, int64_t items, int64_t stride, float* gradient, int64_t cols, GradMode mode);

// Parameters for the vector kernels, without places.
DropoutRows dropout_rows(const Dropout& dropout, const StepState* state);

// Places and parameters for the vector kernels, for at most kRowsPerItem rows from first_row.
struct DropoutBlock {
  uint32_t sequence[kRowsPerItem], position[kRowsPerItem];
  DropoutRows rows;
  DropoutBlock(const Dropout& dropout, const StepState* state, const Tensor& sequence_offsets, int64_t first_row, int64_t count);
};

// Throws DataError unless the row of every slot whose weight is not 0 is one of `expected` rows.
void check_rows(std::string_view op, const Tensor& rows, const Tensor& weights, int64_t expected);

// Throws unless offsets are (sequences + 1) i32, start at 0, never fall, and end at `rows` or before (values: DataError).
void check_offsets(std::string_view op, const Tensor& offsets, int64_t rows);

using Scratch = AlignedScratch<64>;

}  // namespace electra::cpu
