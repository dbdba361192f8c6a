#include "kernels/cuda/dense_gradients.h"

#include <algorithm>

#include "kernels/gemm.h"

namespace electra::cuda {

void dense_gradients(const DenseGradients& args, Stream& stream) {
  if (args.dx_mode != GradMode::none)
    gemm<Backend::cuda>({.a = args.du, .b = args.weight, .c = args.dx, .accumulate = args.dx_mode == GradMode::accumulate,
                         .workspace = args.workspace},
                        stream);
  if (args.dweight_mode != GradMode::none)
    gemm<Backend::cuda>({.a = args.du, .b = args.x, .c = args.dweight, .transpose_a = true,
                         .accumulate = args.dweight_mode == GradMode::accumulate, .workspace = args.workspace},
                        stream);
}

size_t dense_gradients_workspace(int64_t rows, int64_t in, int64_t out) {
  return std::max(gemm_workspace<Backend::cuda>(rows, in, out), gemm_workspace<Backend::cuda>(out, in, rows));
}

}  // namespace electra::cuda
