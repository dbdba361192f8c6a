// Masking, corruption and the rows between them. None of the id tensors has a gradient: stop-gradient is structural.
#pragma once
#include <memory>
#include <string_view>
#include <vector>

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
  MaskUnit unit = MaskUnit::token;
  double span_words = 3;  // mean length of a span
  // Of the vocabulary, 1 where a piece continues a word: what the input of mask_tokens is filled with; of words and spans alone.
  std::shared_ptr<const std::vector<uint8_t>> continuations = nullptr;
};

// continuations: (vocabulary) u8; kNoValue for single tokens.
MaskedBatch mask_tokens(Graph& graph, Value ids, Value sequence_offsets, const MaskingOptions& options, std::string_view name,
                        Value continuations = kNoValue);

struct CorruptedBatch {
  Value ids;     // (rows) i32: what the discriminator reads
  Value labels;  // (rows) f32: 1 where it differs from the original
};
CorruptedBatch corrupt_tokens(Graph& graph, Value ids, Value rows, Value weights, Value sampled_ids, std::string_view name);

// y (slots, cols) = x[rows]; 0 where the weight is 0.
Value gather_rows(Graph& graph, Value x, Value rows, Value weights, std::string_view name);

}  // namespace electra
