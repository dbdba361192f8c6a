// The Transformer encoder of ELECTRA (BERT's, post-norm) and its embeddings, as graph-building functions.
#pragma once
#include <cstdint>

#include "engine/graph.h"
#include "model/config.h"
#include "model/names.h"

namespace electra {

// What a batch looks like to the graph: fixed capacities.
struct BatchShape {
  int64_t sequences = 0;
  int64_t tokens = 0;       // rows of every activation
  int64_t max_seq_len = 0;
};

struct BatchValues {
  Value ids, segments, sequence_offsets;  // (tokens) i32, (tokens) i32, (sequences + 1) i32
};

struct EncoderOptions {
  double hidden_dropout = 0, attention_dropout = 0;  // probabilities of dropping
  double layer_norm_eps = 1e-12;
  int64_t max_seq_len = 0;
  Recompute recompute = Recompute::none;
};

// A (out, in) weight and its bias under a published name.
struct LinearParameters {
  Value weight, bias;
};
LinearParameters linear_parameters(Graph& graph, Half half, const std::string& name, int64_t out, int64_t in);
struct NormParameters {
  Value gamma, beta;
};
NormParameters norm_parameters(Graph& graph, Half half, const std::string& name, int64_t cols);

// Word table (V, width) of the embeddings that live in half's namespace.
Value word_embeddings(Graph& graph, const ElectraConfig& config, Half half, int64_t width);

// Embeddings of ids, width columns wide, parameters in half's namespace.
Value embed(Graph& graph, const ElectraConfig& config, Half half, int64_t width, const BatchValues& batch,
            const EncoderOptions& options);

// Projects x to hidden_size where it has another width, then runs the layers; parameters in half's namespace. Returns
// (tokens, hidden_size). The current scope names the random sites.
Value encode(Graph& graph, const EncoderConfig& config, Half half, Value x, Value sequence_offsets,
             const EncoderOptions& options);

}  // namespace electra
