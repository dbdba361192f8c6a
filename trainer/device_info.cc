#include "trainer/device_info.h"

#include <fmt/format.h>
#include <unistd.h>

#include <fstream>

#include "kernels/core/thread_pool.h"

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

std::vector<std::string> processor_features() {
  std::vector<std::string> features;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) features.push_back("AVX2");
  if (__builtin_cpu_supports("fma")) features.push_back("FMA");
  if (__builtin_cpu_supports("avx512f")) features.push_back("AVX-512");
  if (__builtin_cpu_supports("avx512bf16")) features.push_back("AVX-512 BF16");
#endif
  return features;
}

}  // namespace

DeviceInfo device_info() {
  return {.processor = processor_name(),
          .cores = available_cores(),
          .features = processor_features(),
          .memory_bytes = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE),
          .gpu = "none: this program was built without GPU support (ELECTRA_GPU=OFF)"};
}

std::string device_banner(int threads) {
  const DeviceInfo info = device_info();
  return fmt::format("device: cpu ({}, {} of {} cores; {}); GPU {}", info.processor, threads, info.cores,
                     fmt::join(info.features, ", "), info.gpu);
}

}  // namespace electra
