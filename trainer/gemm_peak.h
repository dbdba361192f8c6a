// The ceilings that steps and kernels are measured against: what this machine reaches now in a matrix product and in a copy.
#pragma once
#include "kernels/core/device.h"
#include "kernels/core/dtype.h"

namespace electra {

// Best rate of a product by the library in this type on the stream, in FLOP/s, over about `seconds` of repetitions: (2048, 768) x
// (768, 768) on the CPU, (8192, 8192) x (8192, 8192) on a GPU, which the smaller one does not fill; a toy one on the host executor.
double measure_gemm_peak(Stream stream, DType dtype, double seconds = 0.3);

// Best rate of a large copy within the memory of the stream's kernels, in bytes/s read and written, likewise: 512 MiB on a GPU, 64 MiB
// by all threads of the pool on the CPU.
double measure_copy_bandwidth(Stream stream, double seconds = 0.3);

}  // namespace electra
