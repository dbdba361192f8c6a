// The ceiling that steps are measured against: what the GEMM library reaches on this machine, now.
#pragma once
#include "kernels/core/device.h"
#include "kernels/core/dtype.h"

namespace electra {

// Best rate of a (2048, 768) x (768, 768) product of this type on the stream, in FLOP/s, over about `seconds` of repetitions.
double measure_gemm_peak(Stream stream, DType dtype, double seconds = 0.3);

}  // namespace electra
