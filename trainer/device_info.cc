#include "trainer/device_info.h"

#include <fmt/format.h>
#include <unistd.h>

#include <fstream>

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

}  // namespace

DeviceInfo device_info() {
  return {.processor = processor_name(),
          .cores = available_cores(),
          .instructions = cpu::name_of(cpu::active_isa()),
          .memory_bytes = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE),
          .gpu = "none: this program was built without GPU support (ELECTRA_GPU=OFF)"};
}

std::string device_banner(int threads) {
  const DeviceInfo info = device_info();
  return fmt::format("device: cpu ({}, {} of {} cores; {}); GPU {}", info.processor, threads,
                     info.cores, info.instructions, info.gpu);
}

}  // namespace electra
