// What the two networks get to see of an example, for people to look at.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels/masking.h"

namespace electra {

struct MaskedView {
  std::vector<int32_t> generator_ids;  // the example's, with [MASK] at most of the masked positions
  std::vector<int64_t> positions;      // masked, ascending: there the generator's samples stand in what the discriminator sees
};

// One drawing of the masks that training draws anew at every step: as mask_tokens does it, without replacement, for sequence 0 of step 0.
MaskedView masked_view(std::vector<int32_t> ids, const SpecialIds& special, double mask_prob, uint64_t seed);

}  // namespace electra
