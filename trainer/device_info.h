// The machine a command computes on, in words.
#pragma once
#include <cstdint>
#include <string>

#include "kernels/core/backend.h"
#include "kernels/core/device.h"

namespace electra {

struct DeviceInfo {
  std::string processor;     // "Intel(R) Xeon(R) Processor @ 2.10GHz"
  int cores = 1;             // physical ones this process may use
  std::string instructions;  // the set that the vector kernels use: "avx512"
  int64_t memory_bytes = 0;  // of the machine
  std::string gpu;           // what it is, or "none: …" with the reason
};

DeviceInfo device_info();
// "NVIDIA H200, compute capability 9.0", of a device other than the CPU.
std::string gpu_name(const Device& device);
// One line for the start of a run: "device: cpu (…); GPU none: …", "device: cuda (NVIDIA H200, compute capability 9.0, …)".
std::string device_banner(DeviceKind kind, int threads);

}  // namespace electra
