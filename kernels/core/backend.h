// Backend: which family of kernels runs. One template parameter and one switch; every kernel is declared for all
// backends and defined by explicit specialisation, so that a missing one is a link error naming op and backend.
#pragma once
#include <cstdint>
#include <string_view>

namespace electra {

enum class Backend : uint8_t {
  cpu,
  cuda,  // kernels/cuda/*.cu: on a GPU, or on the CPU through the host executor
};

// Where a program computes. cuda and simt run the same kernels; a build holds at most one of them.
enum class DeviceKind : uint8_t { cpu, cuda, simt };

constexpr const char* name_of(DeviceKind kind) {
  switch (kind) {
    case DeviceKind::cpu: return "cpu";
    case DeviceKind::cuda: return "cuda";
    case DeviceKind::simt: return "simt";
  }
  return "?";
}

// What the CMake option ELECTRA_GPU chose.
enum class GpuBuild : uint8_t { OFF, SIMT, CUDA };
inline constexpr GpuBuild kGpuBuild = GpuBuild::ELECTRA_GPU;
inline constexpr bool kHasCudaBackend = kGpuBuild != GpuBuild::OFF;

}  // namespace electra
