// gemm_algorithms.json of a checkpoint: the algorithms that the matrix library was tuned to, so that a resumed run adds in the same
// order. Only the library and the device they were found with can use them.
#pragma once
#include <string>
#include <string_view>

#include "kernels/core/device.h"
#include "kernels/gemm_algorithms.h"

namespace electra {

inline constexpr const char* kGemmAlgorithmsFile = "gemm_algorithms.json";

// What algorithms hold for.
struct GemmEnvironment {
  std::string matrix_library;  // "cuBLASLt 13.1.0"
  std::string device;          // "NVIDIA H200, compute capability 9.0"
  bool operator==(const GemmEnvironment&) const = default;
};
// Of a device other than the CPU.
GemmEnvironment gemm_environment(const Device& device);

struct TunedGemm {
  GemmEnvironment environment;
  GemmAlgorithms algorithms;
};
std::string to_json(const TunedGemm& tuned);
// name stands for the text in messages. Throws FormatError for what to_json() has not written.
TunedGemm parse_tuned_gemm(std::string_view json, const std::string& name);
// Why algorithms found in one environment are not used in another; "" for the same.
std::string why_not_used(const GemmEnvironment& found_in, const GemmEnvironment& here);

}  // namespace electra
