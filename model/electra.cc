#include "model/electra.h"

#include "engine/ops/binary_classifier.h"
#include "engine/ops/layer_norm.h"
#include "engine/ops/linear.h"
#include "engine/ops/masked_lm.h"
#include "engine/ops/weighted_sum.h"

namespace electra {
namespace {

class Tracer {
 public:
  Tracer(const ElectraConfig& config, const BatchShape& shape, const ElectraGraphOptions& options)
      : config_(config), options_(options) {
    result_.graph = std::make_unique<Graph>(options.float_type, options.max_threads, options.backend);
    result_.shape = shape;
    encoder_.hidden_dropout = options.train ? config.hidden_dropout : 0;
    encoder_.attention_dropout = options.train ? config.attention_dropout : 0;
    encoder_.layer_norm_eps = config.layer_norm_eps;
    encoder_.max_seq_len = shape.max_seq_len;
    encoder_.recompute = options.recompute;
    Graph& g = *result_.graph;
    result_.batch = {g.input("ids", {{shape.tokens}, DType::i32}), g.input("segments", {{shape.tokens}, DType::i32}),
                     g.input("sequence_offsets", {{shape.sequences + 1}, DType::i32})};
  }

  ElectraGraph pretraining() {
    mask();
    generate();
    if (config_.electra_objective) {
      const auto corrupted = corrupt_tokens(graph(), result_.batch.ids, result_.masked.rows, result_.masked.weights,
                                            result_.sampled_ids, "corrupt_tokens");
      result_.corrupted_ids = corrupted.ids;
      discriminate(corrupted.ids, corrupted.labels);
    }
    result_.loss = weighted_sum(graph(), result_.masked_lm_loss, config_.gen_weight, result_.disc_loss, config_.disc_weight, "loss");
    return std::move(result_);
  }

  ElectraGraph discriminator_alone() {
    discriminate(result_.batch.ids, graph().input("labels", {{result_.shape.tokens}, DType::f32}));
    return std::move(result_);
  }

 private:
  Graph& graph() { return *result_.graph; }

  void mask() {
    const BatchShape& shape = result_.shape;
    if (options_.corruption == Corruption::drawn) {
      if (options_.masking.unit != MaskUnit::token) {
        result_.continuations = graph().input("continuations", {{config_.vocab_size}, DType::u8});
        result_.continuation_table = options_.masking.continuations;
      }
      result_.masked = mask_tokens(graph(), result_.batch.ids, result_.batch.sequence_offsets, options_.masking, "mask_tokens", result_.continuations);
      return;
    }
    const Shape slots{shape.sequences * options_.masking.max_predictions};
    result_.masked = {graph().input("masked_ids", {{shape.tokens}, DType::i32}), graph().input("masked_rows", {slots, DType::i32}),
                      graph().input("masked_weights", {slots, DType::f32}), graph().input("masked_targets", {slots, DType::i32})};
  }

  // A small generator of its own, the discriminator's encoder (tied, or the masked-LM objective), or uniform replacements.
  void generate() {
    const Graph::Scope scope(graph(), "generator");
    MaskedLmInputs inputs{.targets = result_.masked.targets,
                          .rows = result_.masked.rows,
                          .weights = result_.masked.weights,
                          .sequence_offsets = result_.batch.sequence_offsets};
    if (!config_.uniform_generator) {
      const bool own_body = config_.electra_objective && config_.untied_generator;
      const bool own_embeddings = own_body && config_.untied_generator_embeddings;
      const EncoderConfig& encoder = own_body ? config_.generator : config_.discriminator;
      const Half body = own_body ? Half::generator : Half::discriminator;
      const Half embeddings = own_embeddings ? Half::generator : Half::discriminator;
      const int64_t width = own_embeddings ? encoder.hidden_size : config_.embedding_size;
      const BatchValues masked{result_.masked.masked_ids, result_.batch.segments, result_.batch.sequence_offsets};
      const Value embedded = embed(graph(), config_, embeddings, width, masked, encoder_);
      const Value hidden = encode(graph(), encoder, body, embedded, result_.batch.sequence_offsets, encoder_);
      const auto dense = linear_parameters(graph(), Half::generator, "generator_predictions.dense", width, encoder.hidden_size);
      const auto norm = norm_parameters(graph(), Half::generator, "generator_predictions.LayerNorm", width);
      const Value rows = gather_rows(graph(), hidden, result_.masked.rows, result_.masked.weights, "gather_rows");
      const Value transformed = linear(graph(), rows, dense.weight, dense.bias, Epilogue::bias_gelu, "head_dense");
      inputs.hidden = layer_norm(graph(), transformed, norm.gamma, norm.beta, config_.layer_norm_eps, "head_norm");
      inputs.word = word_embeddings(graph(), config_, embeddings, width);
      inputs.bias = graph().parameter(parameter_name(Half::generator, "generator_lm_head.bias"), {config_.vocab_size}, false);
    }
    const auto head = masked_lm(graph(), inputs,
                                {.vocab_size = config_.vocab_size,
                                 .temperature = config_.temperature,
                                 .disallow_correct = config_.disallow_correct,
                                 .uniform = config_.uniform_generator,
                                 .keep_logits = options_.keep_logits},
                                "masked_lm");
    result_.masked_lm_loss = head.loss;
    result_.masked_lm_sums = head.sums;
    result_.masked_lm_logits = head.logits;
    result_.sampled_ids = options_.corruption == Corruption::drawn
                              ? head.sampled_ids
                              : graph().input("sampled_ids", {graph().value(head.sampled_ids).spec.shape, DType::i32});
  }

  void discriminate(Value ids, Value labels) {
    const Graph::Scope scope(graph(), "discriminator");
    const BatchValues batch{ids, result_.batch.segments, result_.batch.sequence_offsets};
    const Value embedded = embed(graph(), config_, Half::discriminator, config_.embedding_size, batch, encoder_);
    const Value hidden = encode(graph(), config_.discriminator, Half::discriminator, embedded, batch.sequence_offsets, encoder_);
    const int64_t width = config_.discriminator.hidden_size;
    const auto dense = linear_parameters(graph(), Half::discriminator, "discriminator_predictions.dense", width, width);
    const auto out = linear_parameters(graph(), Half::discriminator, "discriminator_predictions.dense_prediction", 1, width);
    const auto head = binary_classifier(graph(), hidden, {dense.weight, dense.bias, out.weight, out.bias}, labels,
                                        batch.sequence_offsets, "binary_classifier");
    result_.labels = labels;
    result_.disc_loss = head.loss;
    result_.disc_loss_sum = head.loss_sum;
    result_.disc_logits = head.logits;
    result_.disc_counts = head.counts;
  }

  const ElectraConfig& config_;
  const ElectraGraphOptions& options_;
  EncoderOptions encoder_;
  ElectraGraph result_;
};

}  // namespace

std::vector<Value> ElectraGraph::outputs() const {
  std::vector<Value> all;
  for (const Value v : {masked.masked_ids, masked.rows, masked.weights, masked.targets, sampled_ids, loss, masked_lm_loss,
                        masked_lm_sums, masked_lm_logits, disc_loss, disc_loss_sum, disc_logits, disc_counts, corrupted_ids, labels})
    if (v != kNoValue && graph->value(v).kind == ValueKind::computed) all.push_back(v);
  return all;
}

ElectraGraph trace_electra(const ElectraConfig& config, const BatchShape& shape, const ElectraGraphOptions& options) {
  return Tracer(config, shape, options).pretraining();
}

ElectraGraph trace_discriminator(const ElectraConfig& config, const BatchShape& shape, const ElectraGraphOptions& options) {
  return Tracer(config, shape, options).discriminator_alone();
}

}  // namespace electra
