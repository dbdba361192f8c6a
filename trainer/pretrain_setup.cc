#include "trainer/pretrain_setup.h"

#include <algorithm>

#include "kernels/core/error.h"
#include "kernels/gemm.h"

namespace electra {

BatchShape micro_batch_shape(const PretrainConfig& config) {
  return {.sequences = config.sequences_per_micro_batch(),
          .tokens = config.tokens_per_micro_batch(),
          .max_seq_len = config.seq_len};
}

MaskingOptions masking_options(const PretrainConfig& config, const SpecialIds& special) {
  return {.special = special,
          .max_predictions = config.max_predictions(),
          .mask_prob = config.mask_prob,
          .with_replacement = config.masking.replacement,
          .unit = config.masking.unit,
          .span_words = config.masking.span_words};
}

ElectraGraphOptions graph_options(const PretrainConfig& config, const SpecialIds& special, bool train, const Stream& stream, const Vocabulary* vocabulary) {
  MaskingOptions masking = masking_options(config, special);
  if (masking.unit != MaskUnit::token) {
    std::vector<uint8_t> continuations(static_cast<size_t>(config.model.vocab_size));
    for (size_t i = 0; vocabulary && i < std::min(continuations.size(), vocabulary->tokens().size()); ++i)
      continuations[i] = vocabulary->tokens()[i].starts_with("##");
    masking.continuations = std::make_shared<const std::vector<uint8_t>>(std::move(continuations));
  }
  return {.train = train,
          .masking = std::move(masking),
          .recompute = train ? config.recompute : Recompute::none,
          .float_type = stream.backend() == Backend::cuda && config.precision != Precision::fp32 ? DType::bf16 : DType::f32,
          .max_threads = stream.pool().threads(),
          .backend = stream.backend()};
}

ExampleOptions example_options(const PretrainConfig& config) {
  ExampleOptions options;
  options.seq_len = config.seq_len;
  options.overflow = config.examples.overflow == Recipe::google ? Overflow::google : Overflow::fixed;
  options.seed = static_cast<uint64_t>(config.seed);
  return options;
}

ExampleStream example_stream(const PretrainConfig& config, const std::vector<const ExampleIndex*>& indices) {
  if (indices.size() == 1) return *indices.front();
  std::vector<double> weights = config.weights();
  if (weights.empty())
    for (const ExampleIndex* index : indices) weights.push_back(static_cast<double>(index->size()));
  return {indices, weights};
}

OptimizerConfig optimizer_config(const PretrainConfig& config) {
  return {.weight_decay = config.optimizer.weight_decay,
          .beta1 = config.optimizer.beta1,
          .beta2 = config.optimizer.beta2,
          .eps = config.optimizer.eps,
          .clip_norm = config.optimizer.clip_norm,
          .bias_correction = config.optimizer.bias_correction};
}

void choose_for_device(ResolvedConfig& resolved, Backend backend) {
  const PretrainConfig& config = resolved.config;
  const bool on_cpu = backend == Backend::cpu;
  if (on_cpu && config.precision == Precision::bf16)
    throw ConfigError("precision", "expected fp32 or auto on the CPU, got bf16: it needs a GPU");
  if (on_cpu && config.gemm == GemmChoice::own)
    throw ConfigError("gemm", "expected library or auto on the CPU, got own: it needs a GPU");
  if (config.precision == Precision::automatic) set_value(resolved, "precision", on_cpu ? "fp32" : "bf16", "device");
  if (config.gemm == GemmChoice::automatic) set_value(resolved, "gemm", gemm_library(backend).why_unusable.empty() ? "library" : "own", "device");
}

void use_gemm(GemmChoice choice, Backend backend) {
  const bool own = choice == GemmChoice::own || (choice == GemmChoice::automatic && !gemm_library(backend).why_unusable.empty());
  set_gemm_kind(own ? GemmKind::own : GemmKind::library);
}

void check_vocabulary(const DataSet& data, const Vocabulary& of_model) {
  const auto &expected = of_model.tokens(), &got = data.vocabulary().tokens();
  const auto at = static_cast<size_t>(std::mismatch(expected.begin(), expected.end(), got.begin(), got.end()).first - expected.begin());
  if (at == expected.size() && at == got.size()) return;
  const auto entry = [&](const std::vector<std::string>& tokens) { return at < tokens.size() ? "'" + tokens[at] + "'" : "its end"; };
  throw DataError((data.directory() / "vocab.txt").string() + ":" + std::to_string(at + 1),
                  "expected the vocabulary of the model, here " + entry(expected) + ", got " + entry(got));
}

}  // namespace electra
