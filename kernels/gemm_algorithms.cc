#include "kernels/gemm_algorithms.h"

#include <mutex>
#include <utility>

namespace electra {
namespace {

std::mutex mutex;
GemmAlgorithms& kept() {
  static GemmAlgorithms algorithms;
  return algorithms;
}

// Bytes that an address is a multiple of, up to 256.
uint32_t alignment_of(const void* p) {
  const auto address = reinterpret_cast<uintptr_t>(p) | 256;
  return static_cast<uint32_t>(address & -address);
}

}  // namespace

GemmKey gemm_key(const Gemm& g, bool bias) {
  return {.m = g.c.rows(),
          .n = g.c.cols(),
          .k = g.transpose_a ? g.a.rows() : g.a.cols(),
          .a_type = g.a.dtype,
          .c_type = g.c.dtype,
          .transpose_a = g.transpose_a,
          .transpose_b = g.transpose_b,
          .accumulate = g.accumulate,
          .bias = bias,
          .workspace = g.workspace ? g.workspace.bytes() : 0,
          .a_alignment = alignment_of(g.a.data),
          .b_alignment = alignment_of(g.b.data),
          .c_alignment = alignment_of(g.c.data)};
}

GemmAlgorithms gemm_algorithms() {
  const std::lock_guard lock(mutex);
  return kept();
}

void use_gemm_algorithms(GemmAlgorithms algorithms) {
  const std::lock_guard lock(mutex);
  kept() = std::move(algorithms);
}

GemmAlgorithm gemm_algorithm(const GemmKey& key, const std::function<bool(const GemmAlgorithm&)>& is_usable,
                             const std::function<GemmAlgorithm()>& choose) {
  const std::lock_guard lock(mutex);
  if (const auto found = kept().find(key); found != kept().end() && is_usable(found->second)) return found->second;
  return kept()[key] = choose();
}

}  // namespace electra
