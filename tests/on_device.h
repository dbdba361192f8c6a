// Test cases that need a CUDA backend: a GPU, or the host executor.
#pragma once
#include "kernels/core/backend.h"

namespace electra::test {

// The tag of a test case that tests nothing without a CUDA backend: hides it there.
inline constexpr const char* kOnDevice = kHasCudaBackend ? "" : "[.without a CUDA backend]";

// What such a test asks for.
inline constexpr DeviceKind kTestDevice = kGpuBuild == GpuBuild::CUDA ? DeviceKind::cuda : DeviceKind::simt;

}  // namespace electra::test
