// What a matrix library was found to compute a product fastest with. Another choice adds in another order, so a resumed run takes the
// choices of the run it goes on with.
#pragma once
#include <array>
#include <compare>
#include <cstdint>
#include <functional>
#include <map>

#include "kernels/core/dtype.h"
#include "kernels/gemm.h"

namespace electra {

// What a choice depends on.
struct GemmKey {
  int64_t m = 0, n = 0, k = 0;  // as Gemm says
  DType a_type = DType::f32, c_type = DType::f32;
  bool transpose_a = false, transpose_b = false, accumulate = false, bias = false;
  uint64_t workspace = 0;  // bytes
  uint32_t a_alignment = 0, b_alignment = 0, c_alignment = 0;  // bytes, at most 256
  auto operator<=>(const GemmKey&) const = default;
};
GemmKey gemm_key(const Gemm& product, bool bias);
// The library's description of an algorithm, which only the same version on the same kind of device understands.
using GemmAlgorithm = std::array<uint64_t, 8>;
using GemmAlgorithms = std::map<GemmKey, GemmAlgorithm>;

// Those chosen in this process so far, and those it was given.
GemmAlgorithms gemm_algorithms();
// Takes these in place of all. To be called before products are issued.
void use_gemm_algorithms(GemmAlgorithms algorithms);

// For libraries: the algorithm kept for a product, or what choose() finds, which is kept from then on. is_usable: whether the library
// accepts a kept one.
GemmAlgorithm gemm_algorithm(const GemmKey& key, const std::function<bool(const GemmAlgorithm&)>& is_usable,
                             const std::function<GemmAlgorithm()>& choose);

}  // namespace electra
