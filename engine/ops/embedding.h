#pragma once
#include <string_view>

#include "engine/graph.h"

namespace electra {

struct EmbeddingTables {
  Value word, position, segment, gamma, beta;  // (V, E), (positions, E), (segments, E), (E), (E)
};

// y (rows, E) = dropout(LayerNorm(word + position + segment)); ids and segments are (rows) i32.
Value embedding(Graph& graph, Value ids, Value segments, Value sequence_offsets, const EmbeddingTables& tables, double drop_p,
                double eps, std::string_view name);

}  // namespace electra
