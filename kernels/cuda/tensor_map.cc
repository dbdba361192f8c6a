// make_tensor_map through the driver, whose function is looked up at run time: the program does not link libcuda.
#include "kernels/tensor_map.h"

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstring>
#include <string>

#include "kernels/core/error.h"

namespace electra {

static_assert(sizeof(TensorMap) == sizeof(CUtensorMap));

TensorMap make_tensor_map(const bf16* base, int64_t rows, int64_t columns, int64_t row_stride, int box_rows) {
  static const auto encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found;
    const cudaError_t status =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
    if (status != cudaSuccess || found != cudaDriverEntryPointSuccess) {
      throw DeviceError("tensor map", "expected a driver of CUDA 12.0 or later, which has cuTensorMapEncodeTiled");
    }
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
  }();
  const cuuint64_t extents[2] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(row_stride) * sizeof(bf16)};  // bytes
  const cuuint32_t box[2] = {kBoxColumns, static_cast<cuuint32_t>(box_rows)}, steps[2] = {1, 1};
  CUtensorMap encoded;
  const CUresult result =
      encode(&encoded, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<bf16*>(base), extents, strides, box, steps,
             CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    throw DeviceError("tensor map", "the driver refuses rows " + std::to_string(rows) + ", columns " + std::to_string(columns) +
                                        ", row stride " + std::to_string(row_stride) + ", box rows " + std::to_string(box_rows) +
                                        " (CUresult " + std::to_string(static_cast<int>(result)) + ")");
  }
  TensorMap map;
  std::memcpy(&map, &encoded, sizeof map);
  return map;
}

}  // namespace electra
