// A toy ELECTRA with fixed masks and samples and weights that are not at their initial values: what whole-model tests run.
#pragma once
#include <cmath>
#include <memory>

#include "kernels/core/philox.h"
#include "model/initialize.h"
#include "trainer/electra_program.h"

namespace electra {

inline ElectraConfig toy_config() {
  ElectraConfig c;
  c.vocab_size = 40;
  c.embedding_size = 16;
  c.max_position_embeddings = 24;
  c.discriminator = {.hidden_size = 32, .num_layers = 2, .num_heads = 2, .intermediate_size = 48};
  c.generator = {.hidden_size = 16, .num_layers = 1, .num_heads = 1, .intermediate_size = 32};
  c.hidden_dropout = c.attention_dropout = 0.1;
  return c;
}

// Lengths 16, 4 and 13 of at most 16, and 7 rows of unused capacity.
inline constexpr BatchShape kToyShape{.sequences = 3, .tokens = 40, .max_seq_len = 16};
inline constexpr int32_t kToyOffsets[] = {0, 16, 20, 33};
inline constexpr int64_t kToySlots = 3;  // masked positions a sequence

inline ElectraGraphOptions toy_options(DType type, int threads = 1) {
  ElectraGraphOptions o;
  o.corruption = Corruption::given;
  o.masking.special = {.pad = 0, .unk = 1, .cls = 2, .sep = 3, .mask = 4};
  o.masking.max_predictions = kToySlots;
  o.float_type = type;
  o.max_threads = threads;
  return o;
}

inline StepState toy_state() {
  return {.seed = 5, .step = 3, .first_sequence = 2, .masked_lm_denominator = 7, .disc_denominator = 33};
}

inline uint32_t toy_draw(uint32_t a, uint32_t b) { return philox(99, {a, b, 0, 0}).word[0]; }

inline void set(const Tensor& t, int64_t i, double value) {
  if (t.dtype == DType::f64) t.as<double>()[i] = value;
  else t.as<float>()[i] = static_cast<float>(value);
}
inline double get(const Tensor& t, int64_t i) {
  return t.dtype == DType::f64 ? t.as<double>()[i] : static_cast<double>(t.as<float>()[i]);
}

// Initial weights plus something, so that no bias is 0 and no gamma 1.
inline void perturb_weights(ParameterStore& store) {
  initialize(store, 7);
  uint32_t n = 0;
  for (const Parameter& p : store.parameters())
    for (int64_t i = 0; i < p.shape.size(); ++i)
      set(store.value(p), i, get(store.value(p), i) + 0.1 * (toy_draw(1, n++) * 0x1p-32 - 0.5));
}

inline void fill_toy_batch(const ElectraGraph& g, Program& program) {
  const auto ints = [&](Value v) { return program.input(v).as<int32_t>(); };
  const bool given = g.graph->value(g.masked.rows).kind == ValueKind::input;
  for (int64_t s = 0; s <= 3; ++s) ints(g.batch.sequence_offsets)[s] = kToyOffsets[s];
  for (uint32_t r = 0; r < 33; ++r) {
    ints(g.batch.ids)[r] = static_cast<int32_t>(5 + toy_draw(2, r) % 35);
    ints(g.batch.segments)[r] = static_cast<int32_t>(toy_draw(3, r) % 2);
    if (given) ints(g.masked.masked_ids)[r] = static_cast<int32_t>(5 + toy_draw(4, r) % 35);
  }
  if (!given) return;
  constexpr int32_t kRows[] = {1, 5, 9, 17, 0, 0, 22, 25, 30};  // 0: unused
  for (uint32_t k = 0; k < 9; ++k) {
    ints(g.masked.rows)[k] = kRows[k];
    program.input(g.masked.weights).as<float>()[k] = kRows[k] != 0 ? 1.0f : 0.0f;
    ints(g.masked.targets)[k] = kRows[k] != 0 ? ints(g.batch.ids)[kRows[k]] : 0;
    // One sample equals the original.
    if (g.graph->value(g.sampled_ids).kind == ValueKind::input)
      ints(g.sampled_ids)[k] = k == 2 ? ints(g.masked.targets)[k] : static_cast<int32_t>(5 + toy_draw(5, k) % 35);
  }
}

inline void fill_toy_batch(ElectraProgram& program) { fill_toy_batch(program.traced(), program.program()); }

}  // namespace electra
