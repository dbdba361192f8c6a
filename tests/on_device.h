// Test cases that need a CUDA backend: a GPU, or the host executor.
#pragma once
#include "kernels/core/backend.h"

namespace electra::test {

// The tag of a test case that tests nothing without a CUDA backend: hides it there.
inline constexpr const char* kOnDevice = kHasCudaBackend ? "[device]" : "[.without a CUDA backend]";

// The tag of a test case over many shapes, hidden unless asked for: ./test.sh --slow does, in the executor's check build, too, which
// alone sees an access beyond a tensor.
inline constexpr const char* kDeviceSweep = kHasCudaBackend ? "[.][sweep]" : "[.without a CUDA backend]";

// OpRecord::ulps of a sweep: where a tensor has few elements, the naive form may happen to be right to the last digit.
inline constexpr double kSweepUlps = 8;

// What such a test asks for.
inline constexpr DeviceKind kTestDevice = kGpuBuild == GpuBuild::CUDA ? DeviceKind::cuda : DeviceKind::simt;

}  // namespace electra::test
