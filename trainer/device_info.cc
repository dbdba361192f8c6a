#include "trainer/device_info.h"

#include <fmt/format.h>
#include <unistd.h>

#include <fstream>

#include "kernels/core/device.h"
#include "kernels/core/gpu.h"
#include "kernels/core/thread_pool.h"
#include "kernels/cpu/isa.h"

namespace electra {
namespace {

std::string processor_name() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown processor";
}

std::string gpu_description() {
  if constexpr (kGpuBuild == GpuBuild::CUDA) {
    if (const std::string reason = why_unusable(DeviceKind::cuda); !reason.empty()) return "none: " + reason;
    const gpu::Properties p = gpu::properties(0);
    return fmt::format("{}, compute capability {}.{}, {} multiprocessors, {:.1f} GiB, driver for CUDA {}", p.name, p.major, p.minor,
                       p.multiprocessors, static_cast<double>(p.memory_bytes) / 1073741824.0, p.driver);
  }
  if (kGpuBuild == GpuBuild::SIMT) return "none: this program runs GPU kernels on the CPU, for tests (ELECTRA_GPU=SIMT)";
  return "none: this program was built without GPU support (ELECTRA_GPU=OFF)";
}

}  // namespace

std::string gpu_name([[maybe_unused]] const Device& device) {
  if constexpr (kHasCudaBackend) {
    const gpu::Properties p = gpu::properties(device.index());
    return fmt::format("{}, compute capability {}.{}", p.name, p.major, p.minor);
  }
  return {};
}

DeviceInfo device_info() {
  return {.processor = processor_name(),
          .cores = available_cores(),
          .instructions = cpu::name_of(cpu::active_isa()),
          .memory_bytes = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE),
          .gpu = gpu_description()};
}

std::string device_banner(DeviceKind kind, int threads) {
  const DeviceInfo info = device_info();
  const std::string cpu = fmt::format("{}, {} of {} cores; {}", info.processor, threads, info.cores, info.instructions);
  if (kind == DeviceKind::cuda) return fmt::format("device: cuda ({}); CPU {}", info.gpu, cpu);
  return fmt::format("device: {} ({}); GPU {}", name_of(kind), cpu, info.gpu);
}

}  // namespace electra
