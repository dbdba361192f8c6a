#include "model/encoder.h"

#include "engine/ops/attention.h"
#include "engine/ops/embedding.h"
#include "engine/ops/gelu.h"
#include "engine/ops/layer_norm.h"
#include "engine/ops/linear.h"

namespace electra {
namespace {

Value parameter(Graph& graph, Half half, const std::string& name, Shape shape) {
  return graph.parameter(parameter_name(half, name), shape, has_weight_decay(name));
}

// y = GELU(x W1ᵀ + b1) W2ᵀ + b2; with Recompute::gelu the activation alone is computed again in backward.
Value feed_forward(Graph& graph, const EncoderConfig& config, Half half, const std::string& layer, Value x, Recompute recompute) {
  const auto up = linear_parameters(graph, half, layer + "intermediate.dense", config.intermediate_size, config.hidden_size);
  const auto down = linear_parameters(graph, half, layer + "output.dense", config.hidden_size, config.intermediate_size);
  Value activated;
  if (recompute == Recompute::gelu) {
    const Value u = linear(graph, x, up.weight, up.bias, Epilogue::bias, "intermediate");
    const Graph::Segment segment(graph);
    activated = gelu(graph, u, "gelu");
  } else {
    activated = linear(graph, x, up.weight, up.bias, Epilogue::bias_gelu, "intermediate");
  }
  return linear(graph, activated, down.weight, down.bias, Epilogue::bias, "output");
}

Value encoder_layer(Graph& graph, const EncoderConfig& config, Half half, const std::string& layer, Value x, Value offsets,
                    const EncoderOptions& options) {
  const int64_t hidden = config.hidden_size;
  const auto qkv = linear_parameters(graph, half, layer + "attention.self.qkv", 3 * hidden, hidden);
  const auto out = linear_parameters(graph, half, layer + "attention.output.dense", hidden, hidden);
  const auto norm1 = norm_parameters(graph, half, layer + "attention.output.LayerNorm", hidden);
  const auto norm2 = norm_parameters(graph, half, layer + "output.LayerNorm", hidden);
  const Value projected = linear(graph, x, qkv.weight, qkv.bias, Epilogue::bias, "qkv");
  const Value context =
      attention(graph, projected, offsets, config.num_heads, options.max_seq_len, options.attention_dropout, "attention");
  const Value attended = linear(graph, context, out.weight, out.bias, Epilogue::bias, "attention_output");
  const Value mid = dropout_add_layer_norm(graph, attended, x, norm1.gamma, norm1.beta, offsets, options.hidden_dropout,
                                           options.layer_norm_eps, "attention_norm");
  const Value fed = feed_forward(graph, config, half, layer, mid, options.recompute);
  return dropout_add_layer_norm(graph, fed, mid, norm2.gamma, norm2.beta, offsets, options.hidden_dropout,
                                options.layer_norm_eps, "output_norm");
}

}  // namespace

LinearParameters linear_parameters(Graph& graph, Half half, const std::string& name, int64_t out, int64_t in) {
  return {parameter(graph, half, name + ".weight", {out, in}), parameter(graph, half, name + ".bias", {out})};
}

NormParameters norm_parameters(Graph& graph, Half half, const std::string& name, int64_t cols) {
  return {parameter(graph, half, name + ".weight", {cols}), parameter(graph, half, name + ".bias", {cols})};
}

Value word_embeddings(Graph& graph, const ElectraConfig& config, Half half, int64_t width) {
  return parameter(graph, half, "electra.embeddings.word_embeddings.weight", {config.vocab_size, width});
}

Value embed(Graph& graph, const ElectraConfig& config, Half half, int64_t width, const BatchValues& batch,
            const EncoderOptions& options) {
  const std::string prefix = "electra.embeddings.";
  const auto norm = norm_parameters(graph, half, prefix + "LayerNorm", width);
  const EmbeddingTables tables{
      .word = word_embeddings(graph, config, half, width),
      .position = parameter(graph, half, prefix + "position_embeddings.weight", {config.max_position_embeddings, width}),
      .segment = parameter(graph, half, prefix + "token_type_embeddings.weight", {config.type_vocab_size, width}),
      .gamma = norm.gamma,
      .beta = norm.beta};
  return embedding(graph, batch.ids, batch.segments, batch.sequence_offsets, tables, options.hidden_dropout,
                   options.layer_norm_eps, "embeddings");
}

Value encode(Graph& graph, const EncoderConfig& config, Half half, Value x, Value sequence_offsets,
             const EncoderOptions& options) {
  const int64_t width = graph.value(x).spec.shape[-1];
  if (width != config.hidden_size) {
    const auto project = linear_parameters(graph, half, "electra.embeddings_project", config.hidden_size, width);
    x = linear(graph, x, project.weight, project.bias, Epilogue::bias, "embeddings_project");
  }
  for (int64_t i = 0; i < config.num_layers; ++i) {
    const Graph::Scope scope(graph, "layer_" + std::to_string(i));
    const Graph::Segment segment(graph, options.recompute == Recompute::layers);
    x = encoder_layer(graph, config, half, "electra.encoder.layer." + std::to_string(i) + ".", x, sequence_offsets, options);
  }
  return x;
}

}  // namespace electra
