#include "kernels/cpu/common.h"

#include <algorithm>

namespace electra::cpu {

PlaceCursor::PlaceCursor(const Tensor& sequence_offsets, const StepState* state, int64_t first_row)
    : offsets_(sequence_offsets.as<int32_t>()),
      sequences_(sequence_offsets ? sequence_offsets.size() - 1 : 0),
      row_(first_row),
      first_sequence_(state ? state->first_sequence : 0) {
  if (sequences_ > 0)
    sequence_ = std::upper_bound(offsets_, offsets_ + sequences_ + 1, static_cast<int32_t>(first_row)) - offsets_ - 1;
}

Place PlaceCursor::next() {
  const int64_t row = row_++;
  while (sequence_ < sequences_ && offsets_[sequence_ + 1] <= row) ++sequence_;
  if (sequence_ >= sequences_) return {kNoSequence, static_cast<uint32_t>(row)};
  return {first_sequence_ + static_cast<uint32_t>(sequence_), static_cast<uint32_t>(row - offsets_[sequence_])};
}

double keep_factor(const Dropout& dropout, const StepState* state, Place place, uint32_t group, int slot) {
  if (!dropout.active()) return 1;
  const Bits128 bits = philox(state->seed ^ dropout.site, {state->step, place.sequence, place.position, group});
  return draw16(bits, slot) < dropout.keep_threshold() ? dropout.keep_scale() : 0;
}

void put_sums(const float* partial, int64_t items, int64_t stride, float* gradient, int64_t cols, GradMode mode) {
  if (mode == GradMode::none) return;
  for (int64_t c = 0; c < cols; ++c) {
    float sum = 0;
    for (int64_t i = 0; i < items; ++i) sum += partial[i * stride + c];
    put(gradient[c], sum, mode);
  }
}

void check_rows(std::string_view op, const Tensor& rows, const Tensor& weights, int64_t expected) {
  for (int64_t i = 0; i < rows.size(); ++i) {
    const int32_t row = rows.as<int32_t>()[i];
    if (weights.as<float>()[i] != 0 && (row < 0 || row >= expected))
      throw DataError(op, "row of slot " + std::to_string(i) + " is " + std::to_string(row) + ", expected 0 to " +
                              std::to_string(expected - 1));
  }
}

void check_offsets(std::string_view op, const Tensor& offsets, int64_t rows) {
  check_operand(op, "sequence_offsets", offsets, {std::max<int64_t>(1, offsets.size())}, DType::i32);
  const int32_t* o = offsets.as<int32_t>();
  if (o[0] != 0) throw DataError(op, "expected the first offset to be 0, got " + std::to_string(o[0]));
  const int64_t sequences = offsets.size() - 1;
  for (int64_t s = 0; s < sequences; ++s)
    if (o[s + 1] < o[s])
      throw DataError(op, "expected ascending offsets, got " + std::to_string(o[s]) + " before " + std::to_string(o[s + 1]));
  if (o[sequences] > rows)
    throw DataError(op, "the last offset is " + std::to_string(o[sequences]) + ", expected at most " + std::to_string(rows));
}

DropoutRows dropout_rows(const Dropout& dropout, const StepState* state) {
  if (!dropout.active()) return {};
  return {.key = state->seed ^ dropout.site,
          .step = state->step,
          .threshold = dropout.keep_threshold(),
          .scale = static_cast<float>(dropout.keep_scale())};
}

DropoutBlock::DropoutBlock(const Dropout& dropout, const StepState* state, const Tensor& sequence_offsets, int64_t first_row,
                           int64_t count)
    : rows(dropout_rows(dropout, state)) {
  if (!dropout.active()) return;
  PlaceCursor cursor(sequence_offsets, state, first_row);
  for (int64_t r = 0; r < count; ++r) {
    const Place place = cursor.next();
    sequence[r] = place.sequence;
    position[r] = place.position;
  }
  rows.sequence = sequence;
  rows.position = position;
}

}  // namespace electra::cpu
