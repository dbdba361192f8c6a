#pragma once
#include <string_view>

#include "engine/graph.h"

namespace electra {

struct MaskedLmInputs {
  Value hidden = kNoValue, word = kNoValue, bias = kNoValue;  // (slots, E), (V, E), (V); none of them with uniform
  Value targets, rows, weights, sequence_offsets;
};

struct MaskedLmOptions {
  int64_t vocab_size = 0;
  double temperature = 1;
  bool disallow_correct = false;
  bool uniform = false;      // the logits are zero: replacements are uniform and nothing is learnt
  bool keep_logits = false;  // the full logits become an output, for golden files
};

struct MaskedLm {
  Value loss;              // (1)
  Value sampled_ids;       // (slots) i32, no gradient
  Value sums;              // (kMaskedLmSums) f64
  Value logits = kNoValue;  // (slots, V) with keep_logits
};

// Cross-entropy over the vocabulary at the masked rows and a Gumbel-max sample of each, see kernels/masked_lm.h.
MaskedLm masked_lm(Graph& graph, const MaskedLmInputs& inputs, const MaskedLmOptions& options, std::string_view name);

}  // namespace electra
