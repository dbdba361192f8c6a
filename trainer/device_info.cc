#include "trainer/device_info.h"

#include <fmt/format.h>
#include <unistd.h>

#include <fstream>

#include "kernels/core/error.h"
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
    return describe(gpu::properties(0));
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

std::string kernels_for(int major, int minor) {
  if (major == 9 && minor == 0) return "sm_90a";
  return major < 9 ? "sm_80" : "compute_90, which the driver compiles";
}

std::string describe(const gpu::Properties& p) {
  return fmt::format("{}, compute capability {}.{}, {} multiprocessors, {:.1f} GiB, driver for CUDA {}, at {}; kernels for {}", p.name, p.major,
                     p.minor, p.multiprocessors, static_cast<double>(p.memory_bytes) / 1073741824.0, p.driver, p.bus_id,
                     kernels_for(p.major, p.minor));
}

DeviceChoice choose_device(std::string_view requested, GpuBuild build, const std::string& why_no_gpu) {
  if (requested == "cpu") return {DeviceKind::cpu, "as --device says"};
  if (requested != "auto") {
    if (!why_no_gpu.empty()) throw DeviceError("device", why_no_gpu);
    return {requested == "simt" ? DeviceKind::simt : DeviceKind::cuda, "as --device says"};
  }
  if (why_no_gpu.empty()) return {DeviceKind::cuda, "the first GPU there is"};
  // A program without GPU kernels has nothing to fall back from.
  return {DeviceKind::cpu, "there is no GPU to use", build == GpuBuild::CUDA};
}

std::string device_banner(const DeviceChoice& choice, const DeviceInfo& info, int threads) {
  const std::string cpu = fmt::format("{}, {} of {} cores; {}", info.processor, threads, info.cores, info.instructions);
  if (choice.kind == DeviceKind::cuda) return fmt::format("device: cuda ({}), {}; CPU {}", info.gpu, choice.reason, cpu);
  return fmt::format("device: {} ({}), {}; GPU {}", name_of(choice.kind), cpu, choice.reason, info.gpu);
}

}  // namespace electra
