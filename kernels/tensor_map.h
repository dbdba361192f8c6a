// What Hopper's bulk tensor copies (kernels/device_sm90.cuh) know of the matrix they copy from.
#pragma once
#include <cstdint>

#include "kernels/core/bf16.h"

namespace electra {

// A matrix of bf16 in global memory and the box (tile) that copies take from it; a CUtensorMap. A kernel's parameter of this type
// is marked __grid_constant__.
struct alignas(64) TensorMap {
  uint64_t opaque[16];
};
constexpr int kBoxColumns = 64;  // 128 bytes: the width of the swizzle
// rows x columns, rows `row_stride` elements (a multiple of 8) apart; base is 16-byte aligned; boxes of box_rows (1 to 256) x 64.
// Throws DeviceError.
TensorMap make_tensor_map(const bf16* base, int64_t rows, int64_t columns, int64_t row_stride, int box_rows);

}  // namespace electra
