// Masking, corruption and the rows between them. None of the id tensors has a gradient: stop-gradient is structural.
#pragma once
#include <string_view>

#include "engine/graph.h"
#include "kernels/masking.h"

namespace electra {

struct MaskedBatch {
  Value masked_ids;  // (rows) i32: what the generator reads
  Value rows;        // (sequences · max_predictions) i32
  Value weights;     // the same, f32
  Value targets;     // the same, i32: the original ids
};

struct MaskingOptions {
  SpecialIds special;
  int64_t max_predictions = 0;  // per sequence
  double mask_prob = 0.15;
  bool with_replacement = false;
};

MaskedBatch mask_tokens(Graph& graph, Value ids, Value sequence_offsets, const MaskingOptions& options, std::string_view name);

struct CorruptedBatch {
  Value ids;     // (rows) i32: what the discriminator reads
  Value labels;  // (rows) f32: 1 where it differs from the original
};
CorruptedBatch corrupt_tokens(Graph& graph, Value ids, Value rows, Value weights, Value sampled_ids, std::string_view name);

// y (slots, cols) = x[rows]; 0 where the weight is 0.
Value gather_rows(Graph& graph, Value x, Value rows, Value weights, std::string_view name);

}  // namespace electra
