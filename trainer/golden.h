// Golden files: a model, a batch, and what an independent implementation computed for it (docs/golden.md).
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

namespace electra {

// One compared tensor.
struct GoldenLine {
  std::string name;            // as in the file: "grad/discriminator/…"
  double absolute = 0;         // largest absolute difference; infinite where something is not a number
  double relative = 0;         // the same over the scale its bound is relative to
  int64_t index = 0;           // element of the largest difference
  double bound = 0;            // on the absolute difference
  bool passed = false;
};

// Runs the file's model on its batch in dtype (f64 on the CPU alone, bf16 on a GPU alone) and compares everything the file expects. Throws FormatError for a
// file that is no golden file, lacks something, or expects something of tensors that its model does not have.
std::vector<GoldenLine> check_golden(const std::filesystem::path& file, DType dtype, Stream stream);

// What bounds a tensor's difference: the kind of quantity and the type it was computed in.
enum class GoldenKind { forward, gradient, weight };
// Largest absolute difference of got from expected against bound = factor(kind, dtype) · max(largest |expected − base|, floor);
// base may be empty (weights: the weights before, so that the scale is the largest change). With bf16 the bound is twice bf16_error,
// what a plain bf16 run of the same model is off by, and 2^-7 of that scale.
GoldenLine judge(std::string name, const std::vector<double>& got, const std::vector<double>& expected,
                 const std::vector<double>& base, GoldenKind kind, DType dtype, double floor, double bf16_error = 0);

}  // namespace electra
