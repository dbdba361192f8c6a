// The machine a command computes on, in words, and what --device comes to there.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "kernels/core/backend.h"
#include "kernels/core/device.h"
#include "kernels/core/gpu.h"

namespace electra {

struct DeviceChoice {
  DeviceKind kind = DeviceKind::cpu;
  std::string reason;      // why this one, in words
  bool fell_back = false;  // the CPU in place of a GPU that cannot be used: worth a warning
};
// requested: auto, cpu, simt or cuda. why_no_gpu: of the device that `requested` names, for auto of cuda: why it cannot be used, or
// "". Throws DeviceError with that for a device asked for by name.
DeviceChoice choose_device(std::string_view requested, GpuBuild build, const std::string& why_no_gpu);

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
// "NVIDIA H200, compute capability 9.0, 132 multiprocessors, 139.8 GiB, driver for CUDA 13.0, at 0000:3B:00.0; kernels for sm_90a"
std::string describe(const gpu::Properties& gpu);
// Which of the kernels in the program a GPU of a compute capability runs.
std::string kernels_for(int major, int minor);
// One line for the start of a run: "device: cpu (…), as --device says; GPU none: …", "device: cuda (NVIDIA H200, …), …; CPU …".
std::string device_banner(const DeviceChoice& choice, const DeviceInfo& info, int threads);

}  // namespace electra
