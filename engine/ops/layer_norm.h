#pragma once
#include <string_view>

#include "engine/graph.h"

namespace electra {

// y = LayerNorm(x): the generator head's.
Value layer_norm(Graph& graph, Value x, Value gamma, Value beta, double eps, std::string_view name);

// y = LayerNorm(dropout(x) + residual), all (rows, cols): "add and norm". The dropout's site is the node's full name.
Value dropout_add_layer_norm(Graph& graph, Value x, Value residual, Value gamma, Value beta, Value sequence_offsets,
                             double drop_p, double eps, std::string_view name);

}  // namespace electra
