// On the host executor the library is the CPU backend, working on device memory: exact where cuBLASLt rounds in another order.
#include "kernels/cuda/library_gemm.h"

#include <cstring>
#include <vector>

#include "kernels/core/bf16.h"
#include "kernels/gemm_algorithms.h"
#include "kernels/simt/simt.h"

namespace electra::cuda {
namespace {

std::vector<float> floats(const Tensor& t) {
  std::vector<float> values(static_cast<size_t>(t.size()));
  for (size_t i = 0; i < values.size(); ++i) values[i] = t.dtype == DType::bf16 ? to_float(t.as<bf16>()[i]) : t.as<float>()[i];
  return values;
}

void run(const LibraryGemm& args, ThreadPool& pool) {
  const Gemm& g = args.gemm;
  std::vector<float> a = floats(g.a), b = floats(g.b), c(static_cast<size_t>(g.c.size()));
  Stream cpu(pool);
  gemm<Backend::cpu>({.a = {a.data(), g.a.shape, DType::f32},
                      .b = {b.data(), g.b.shape, DType::f32},
                      .c = {c.data(), g.c.shape, DType::f32},
                      .transpose_a = g.transpose_a,
                      .transpose_b = g.transpose_b},
                     cpu);
  // Behind the product, as cuBLASLt adds it.
  if (g.accumulate) {
    const std::vector<float> before = floats(g.c);
    for (size_t i = 0; i < c.size(); ++i) c[i] += before[i];
  }
  if (args.bias) {
    const std::vector<float> bias = floats(args.bias);
    for (size_t i = 0; i < c.size(); ++i) c[i] += bias[i % bias.size()];
  }
  for (size_t i = 0; i < c.size(); ++i) {
    if (g.c.dtype == DType::bf16) g.c.as<bf16>()[i] = to_bf16(c[i]);
    else g.c.as<float>()[i] = c[i];
  }
  simt::mark_written(g.c.data, g.c.bytes());
}

}  // namespace

void library_gemm(const LibraryGemm& args, Stream& stream) {
  // The only algorithm, numbered as it is chosen, so that tests see whose choice is in use.
  static uint64_t choices = 0;
  gemm_algorithm(gemm_key(args.gemm, static_cast<bool>(args.bias)), [](const GemmAlgorithm&) { return true; }, [] { return GemmAlgorithm{++choices}; });
  ThreadPool* pool = &stream.pool();
  if (simt::Recorder* recorder = simt::Recorder::active()) recorder->add([args, pool] { run(args, *pool); });
  else simt::before_launch(), run(args, *pool);
}

GemmLibrary library_gemm_info() { return {"the CPU backend", {}}; }
size_t library_gemm_workspace() { return 0; }

}  // namespace electra::cuda
