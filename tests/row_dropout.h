// Dropout of the row-wise ops by the definition in kernels/layer_norm.h, apart from the kernels' own code.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels/core/philox.h"
#include "kernels/core/step_state.h"

namespace electra::test {

// Factor of element (row, col): keep_scale or 0.
inline double row_keep_factor(const Dropout& dropout, const StepState& state, const std::vector<double>& offsets, int64_t row,
                              int64_t col) {
  if (!dropout.active()) return 1;
  RandomCoordinates at{.step = state.step, .sequence = 0xffffffffu, .position = static_cast<uint32_t>(row),
                       .group = static_cast<uint32_t>(col / 8)};
  for (size_t s = 0; s + 1 < offsets.size(); ++s) {
    if (row < static_cast<int64_t>(offsets[s]) || row >= static_cast<int64_t>(offsets[s + 1])) continue;
    at.sequence = state.first_sequence + static_cast<uint32_t>(s);
    at.position = static_cast<uint32_t>(row - static_cast<int64_t>(offsets[s]));
  }
  const Bits128 bits = philox(state.seed ^ dropout.site, at);
  return draw16(bits, static_cast<int>(col % 8)) < dropout.keep_threshold() ? dropout.keep_scale() : 0;
}

}  // namespace electra::test
