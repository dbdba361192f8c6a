// Initial weights, as in the original: truncated normal (standard deviation 0.02, cut at two) for kernels and embeddings;
// glorot uniform for embeddings_project and the discriminator's last layer, where TensorFlow's default applied; biases 0,
// LayerNorm weights 1.
#pragma once
#include <cstdint>

#include "engine/parameters.h"

namespace electra {

// A weight is a function of seed, published name and element index alone.
void initialize(ParameterStore& store, uint64_t seed);

}  // namespace electra
