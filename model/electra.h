// ELECTRA's joint pre-training graph (Clark et al., "ELECTRA: Pre-training Text Encoders as Discriminators Rather Than
// Generators", ICLR 2020): mask, generate, sample, discriminate; loss = gen_weight · masked-LM + disc_weight · replaced-token.
#pragma once
#include <memory>
#include <vector>

#include "engine/graph.h"
#include "engine/ops/masking.h"
#include "model/config.h"
#include "model/encoder.h"

namespace electra {

// Where masks and samples come from: drawn in the graph, or given as inputs (golden files).
enum class Corruption : uint8_t { drawn, given };

struct ElectraGraphOptions {
  bool train = true;                            // dropout on
  Corruption corruption = Corruption::drawn;
  MaskingOptions masking;                       // with Corruption::given only max_predictions counts
  Recompute recompute = Recompute::none;
  bool keep_logits = false;                     // MaskedLm::logits as an output
  DType float_type = DType::f32;
  int max_threads = 1;                          // this and the backend: of the stream that will run it
  Backend backend = Backend::cpu;
};

// The traced graph and its handles; kNoValue where the configuration has no such part.
struct ElectraGraph {
  std::unique_ptr<Graph> graph;
  BatchShape shape;
  BatchValues batch{kNoValue, kNoValue, kNoValue};       // inputs
  Value continuations = kNoValue;     // an input where words or spans are masked, (vocabulary) u8, and what it is filled with
  std::shared_ptr<const std::vector<uint8_t>> continuation_table;
  MaskedBatch masked{kNoValue, kNoValue, kNoValue, kNoValue};  // computed, or inputs with Corruption::given
  Value sampled_ids = kNoValue;       // (slots) i32: drawn, or an input
  Value loss = kNoValue;              // total, (1)
  Value masked_lm_loss = kNoValue, masked_lm_sums = kNoValue, masked_lm_logits = kNoValue;
  Value disc_loss = kNoValue, disc_loss_sum = kNoValue, disc_logits = kNoValue, disc_counts = kNoValue;
  Value corrupted_ids = kNoValue, labels = kNoValue;
  std::vector<Value> outputs() const; // everything above that is computed: what a program has to keep
};

ElectraGraph trace_electra(const ElectraConfig& config, const BatchShape& shape, const ElectraGraphOptions& options);

// The discriminator alone on text as it is: batch and disc_logits are set. What probing and serving need.
ElectraGraph trace_discriminator(const ElectraConfig& config, const BatchShape& shape, const ElectraGraphOptions& options);

}  // namespace electra
