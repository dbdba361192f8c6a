#include "model/initialize.h"

#include <cmath>
#include <numbers>

#include "kernels/core/philox.h"
#include "model/names.h"

namespace electra {
namespace {

constexpr double kStddev = 0.02;

double uniform(uint32_t draw) { return (static_cast<double>(draw) + 0.5) * 0x1p-32; }

RandomCoordinates element(int64_t index, uint32_t attempt) {
  return {attempt, 0, static_cast<uint32_t>(static_cast<uint64_t>(index) >> 32), static_cast<uint32_t>(index)};
}

// Box–Muller, drawn again until it lies within two standard deviations (95 % at once).
double truncated_normal(uint64_t key, int64_t index) {
  for (uint32_t attempt = 0;; ++attempt) {
    const Bits128 bits = philox(key, element(index, attempt));
    const double radius = std::sqrt(-2.0 * std::log(uniform(bits.word[0])));
    const double normal = radius * std::cos(2.0 * std::numbers::pi * uniform(bits.word[1]));
    if (std::abs(normal) <= 2.0) return kStddev * normal;
  }
}

double glorot_uniform(uint64_t key, int64_t index, const Shape& shape) {
  const double limit = std::sqrt(6.0 / static_cast<double>(shape[0] + shape[1]));
  return limit * (2.0 * uniform(philox(key, element(index, 0)).word[0]) - 1.0);
}

double initial_value(const std::string& name, const Shape& shape, uint64_t key, int64_t index) {
  const auto contains = [&](std::string_view part) { return name.find(part) != std::string::npos; };
  if (contains("LayerNorm.weight")) return 1;
  if (contains("bias")) return 0;
  if (contains("embeddings_project.weight") || contains("dense_prediction.weight")) return glorot_uniform(key, index, shape);
  return truncated_normal(key, index);
}

template <class T> void fill(const ParameterStore& store, uint64_t seed) {
  for (const Parameter& p : store.parameters())
    for (const PublishedSlice& s : published_slices(p)) {
      const uint64_t key = seed ^ fnv1a64("initialize/" + parameter_name(s.half, s.name));
      T* out = store.value(p).as<T>() + s.begin;
      for (int64_t i = 0; i < s.shape.size(); ++i) out[i] = static_cast<T>(initial_value(s.name, s.shape, key, i));
    }
}

}  // namespace

void initialize(ParameterStore& store, uint64_t seed) {
  store.dtype() == DType::f64 ? fill<double>(store, seed) : fill<float>(store, seed);
}

}  // namespace electra
