// What an ELECTRA model is: its sizes and its objective (Clark et al., "ELECTRA", ICLR 2020). No
// defaults for sizes: they live in configs/*.yaml alone.
#pragma once
#include <cstdint>

namespace electra {

// What recomputation drops after forward: nothing, the GELU outputs, or everything inside a layer.
enum class Recompute : uint8_t { none, gelu, layers };

struct EncoderConfig {
  int64_t hidden_size = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t intermediate_size = 0;
  int64_t head_dim() const { return hidden_size / num_heads; }
};

struct ElectraConfig {
  int64_t vocab_size = 0;
  int64_t embedding_size = 0;
  int64_t max_position_embeddings = 512;
  int64_t type_vocab_size = 2;
  double layer_norm_eps = 1e-12;
  EncoderConfig discriminator, generator;
  double hidden_dropout = 0;  // probability of dropping
  double attention_dropout = 0;
  double gen_weight = 1;
  double disc_weight = 50;
  double temperature = 1;  // divides the logits for sampling only
  bool electra_objective =
      true;  // false: masked-LM training of the full-size encoder, no discriminator
  bool uniform_generator = false;  // replacements are uniform, the generator is not trained
  bool untied_generator =
      true;  // false: the discriminator's encoder, run on the masked input, is the generator
  bool untied_generator_embeddings =
      false;  // the generator has embeddings of its own, as wide as its hidden layer
  bool disallow_correct = false;  // never sample the original token
};

// Generator of a discriminator: hidden = round(h · width_fraction), layers = round(n ·
// layers_fraction), heads = max(1, hidden / 64), intermediate = 4 · hidden. Throws ConfigError
// naming the nearest valid fraction when the heads do not divide hidden.
EncoderConfig generator_of(const EncoderConfig& discriminator, double width_fraction,
                           double layers_fraction);
// Throws ConfigError, with the field's name as place, for sizes that cannot be built, an objective that trains nothing, and
// dropout that keeps nothing.
void validate(const ElectraConfig& config);

}  // namespace electra
