#include "model/config.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <initializer_list>
#include <string>

#include "kernels/core/error.h"
#include "kernels/core/philox.h"

namespace electra {
namespace {

constexpr int64_t kHeadDim =
    64;  // of every published size; a generator keeps it by having fewer heads

// The shortest text that reads back as x.
std::string number(double x) {
  char text[32];
  return {text, std::to_chars(text, text + sizeof text, x).ptr};
}

void positive(const char* name, int64_t value) {
  if (value < 1) throw ConfigError(name, "expected at least 1, got " + std::to_string(value));
}

void weight(const char* name, double w) {
  if (!(w >= 0 && std::isfinite(w)))
    throw ConfigError(name, "expected a finite number of at least 0, got " + number(w));
}

// One of the two losses must reach weights.
void objective(const ElectraConfig& config) {
  const char* const nothing = ": nothing would be trained";
  if (!config.electra_objective && config.uniform_generator)
    throw ConfigError(
        "uniform_generator",
        std::string("expected false with electra_objective: false, got true") + nothing);
  if (!config.electra_objective && config.gen_weight == 0)
    throw ConfigError(
        "gen_weight",
        std::string("expected a number above 0 with electra_objective: false, got 0") + nothing);
  if (config.uniform_generator && config.disc_weight == 0)
    throw ConfigError(
        "disc_weight",
        std::string("expected a number above 0 with uniform_generator: true, got 0") + nothing);
  if (config.gen_weight == 0 && config.disc_weight == 0)
    throw ConfigError(
        "gen_weight",
        std::string("expected gen_weight or disc_weight above 0, got 0 for both") + nothing);
}

int64_t generator_heads(int64_t hidden_size) {
  return std::max<int64_t>(1, hidden_size / kHeadDim);
}

// Hidden size in [1, limit] closest to hidden that its own heads divide, the smaller of equals.
int64_t nearest_divisible(int64_t hidden, int64_t limit) {
  for (int64_t distance = 0;; ++distance)
    for (const int64_t candidate : {hidden - distance, hidden + distance})
      if (candidate >= 1 && candidate <= limit && candidate % generator_heads(candidate) == 0)
        return candidate;
}

void validate_encoder(const std::string& half, const EncoderConfig& encoder) {
  positive((half + ".hidden_size").c_str(), encoder.hidden_size);
  positive((half + ".num_layers").c_str(), encoder.num_layers);
  positive((half + ".num_heads").c_str(), encoder.num_heads);
  positive((half + ".intermediate_size").c_str(), encoder.intermediate_size);
  if (encoder.hidden_size % encoder.num_heads != 0)
    throw ConfigError(half + ".num_heads", "expected a divisor of hidden_size " +
                                               std::to_string(encoder.hidden_size) + ", got " +
                                               std::to_string(encoder.num_heads));
}

}  // namespace

// llrint rounds halves to even, as Python's round() does in the original's get_generator_config.
EncoderConfig generator_of(const EncoderConfig& discriminator, double width_fraction,
                           double layers_fraction) {
  if (!(width_fraction > 0 && width_fraction <= 1))
    throw ConfigError("generator.width_fraction",
                      "expected a fraction in (0, 1], got " + number(width_fraction));
  if (!(layers_fraction > 0 && layers_fraction <= 1))
    throw ConfigError("generator.layers_fraction",
                      "expected a fraction in (0, 1], got " + number(layers_fraction));
  EncoderConfig generator;
  generator.hidden_size =
      std::llrint(static_cast<double>(discriminator.hidden_size) * width_fraction);
  generator.num_layers =
      std::llrint(static_cast<double>(discriminator.num_layers) * layers_fraction);
  generator.num_heads = generator_heads(generator.hidden_size);
  generator.intermediate_size = 4 * generator.hidden_size;
  if (generator.hidden_size < 1 || generator.hidden_size % generator.num_heads != 0) {
    const int64_t near = nearest_divisible(generator.hidden_size, discriminator.hidden_size);
    throw ConfigError(
        "generator.width_fraction",
        "expected a fraction of hidden_size " + std::to_string(discriminator.hidden_size) +
            " that max(1, width / 64) heads divide, got " + number(width_fraction) + " (width " +
            std::to_string(generator.hidden_size) + ", heads " +
            std::to_string(generator.num_heads) + "); the nearest valid fraction is " +
            std::to_string(near) + "/" + std::to_string(discriminator.hidden_size));
  }
  if (generator.num_layers < 1)
    throw ConfigError("generator.layers_fraction",
                      "expected at least one layer of " + std::to_string(discriminator.num_layers) +
                          ", got none from " + number(layers_fraction) +
                          "; the nearest valid fraction is 1/" +
                          std::to_string(discriminator.num_layers));
  return generator;
}

void validate(const ElectraConfig& config) {
  positive("vocab_size", config.vocab_size);
  positive("embedding_size", config.embedding_size);
  positive("max_position_embeddings", config.max_position_embeddings);
  positive("type_vocab_size", config.type_vocab_size);
  if (!(config.layer_norm_eps > 0 && std::isfinite(config.layer_norm_eps)))
    throw ConfigError("layer_norm_eps",
                      "expected a finite number above 0, got " + number(config.layer_norm_eps));
  validate_encoder("discriminator", config.discriminator);
  validate_encoder("generator", config.generator);
  check_dropout("hidden_dropout", {.drop_p = config.hidden_dropout});
  check_dropout("attention_dropout", {.drop_p = config.attention_dropout});
  weight("gen_weight", config.gen_weight);
  weight("disc_weight", config.disc_weight);
  objective(config);
  if (!(config.temperature > 0 && std::isfinite(config.temperature)))
    throw ConfigError("temperature",
                      "expected a finite number above 0, got " + number(config.temperature));
}

}  // namespace electra
