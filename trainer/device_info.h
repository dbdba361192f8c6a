// The machine a command computes on, in words.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace electra {

struct DeviceInfo {
  std::string processor;             // "Intel(R) Xeon(R) Processor @ 2.10GHz"
  int cores = 1;                     // physical ones this process may use
  std::vector<std::string> features; // what the kernels can use of it: "AVX2", "AVX-512", "AMX"
  int64_t memory_bytes = 0;          // of the machine
  std::string gpu;                   // "none: …" with the reason
};

DeviceInfo device_info();
// One line for the start of a run: "device: cpu (…), 2 threads; no GPU: …".
std::string device_banner(int threads);

}  // namespace electra
