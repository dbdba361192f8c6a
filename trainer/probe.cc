#include "trainer/probe.h"

#include <algorithm>
#include <cmath>

#include "kernels/core/error.h"
#include "tokenizer/unicode.h"
#include "trainer/pretrain_setup.h"
#include "trainer/training_step.h"

namespace electra {
namespace {

// One sequence [CLS] text [SEP].
struct Sequence {
  std::vector<int32_t> ids, segments, offsets;
  int64_t length() const { return static_cast<int64_t>(ids.size()); }
  BatchShape shape() const { return {.sequences = 1, .tokens = length(), .max_seq_len = length()}; }
  HostBatch batch() const { return {ids.data(), segments.data(), offsets.data(), 1, length()}; }
};

Sequence encode(const TrainedModel& model, std::string_view text) {
  if (const size_t at = unicode::find_invalid_utf8(text); at != unicode::kValid)
    throw DataError("probe", "expected UTF-8 text, got an ill-formed sequence at byte " + std::to_string(at + 1));
  const SpecialIds special = model.special();
  Sequence s;
  s.ids.push_back(special.cls);
  model.tokenizer().encode_ids(text, s.ids);
  s.ids.push_back(special.sep);
  const int64_t most = model.config().model.max_position_embeddings;
  if (s.length() < 3) throw DataError("probe", "expected a text of at least one word, got none");
  if (s.length() > most)
    throw DataError("probe", "expected at most " + std::to_string(most - 2) + " pieces, got " + std::to_string(s.length() - 2));
  s.segments.assign(s.ids.size(), 0);
  s.offsets = {0, static_cast<int32_t>(s.length())};
  return s;
}

void check_discriminator(const TrainedModel& model) {
  if (!model.config().model.electra_objective)
    throw ConfigError("probe", "expected a model with a discriminator, got one of electra_objective: false");
}

std::vector<std::string> tokens_of(const TrainedModel& model, const int32_t* ids, int64_t length) {
  std::vector<std::string> tokens;
  for (int64_t i = 1; i + 1 < length; ++i) tokens.push_back(model.tokenizer().vocabulary().token(ids[i]));
  return tokens;
}

std::vector<double> probabilities(const Tensor& logits) {
  std::vector<double> p;
  for (int64_t i = 1; i + 1 < logits.size(); ++i) p.push_back(1 / (1 + std::exp(-static_cast<double>(logits.as<float>()[i]))));
  return p;
}

ElectraGraphOptions eval_options(const TrainedModel& model, Stream stream) {
  return graph_options(model.config(), model.special(), /*train=*/false, stream, &model.tokenizer().vocabulary());
}

}  // namespace

Probe probe(const TrainedModel& model, std::string_view text, Stream stream) {
  check_discriminator(model);
  const Sequence s = encode(model, text);
  ElectraProgram program = model.program(trace_discriminator(model.config().model, s.shape(), eval_options(model, stream)), stream);
  program.load(s.batch());
  std::fill_n(program.input(program.traced().labels).as<float>(), s.length(), 0.0f);
  program.forward({});
  Probe result;
  result.tokens = tokens_of(model, s.ids.data(), s.length());
  result.replaced_probability = probabilities(program.output(program.traced().disc_logits));
  return result;
}

Probe probe_corrupted(const TrainedModel& model, std::string_view text, uint64_t seed, Stream stream) {
  check_discriminator(model);
  const Sequence s = encode(model, text);
  ElectraGraphOptions options = eval_options(model, stream);
  options.masking.max_predictions = std::max<int64_t>(1, static_cast<int64_t>((options.masking.mask_prob + 0.005) * static_cast<double>(s.length())));
  ElectraProgram program = model.program(trace_electra(model.config().model, s.shape(), options), stream);
  program.load(s.batch());
  const HostBatch batch = s.batch();
  StepState state{.seed = seed};
  set_denominators({&batch, 1}, options.masking, state);
  program.forward(state);
  const ElectraGraph& g = program.traced();
  Probe result;
  const int32_t* corrupted = program.output(g.corrupted_ids).as<int32_t>();
  result.tokens = result.sampled = tokens_of(model, corrupted, s.length());
  result.original = tokens_of(model, s.ids.data(), s.length());
  result.masked = tokens_of(model, program.output(g.masked.masked_ids).as<int32_t>(), s.length());
  result.replaced_probability = probabilities(program.output(g.disc_logits));
  for (int64_t i = 1; i + 1 < s.length(); ++i) result.replaced.push_back(corrupted[i] != s.ids[static_cast<size_t>(i)]);
  return result;
}

}  // namespace electra
