#pragma once
#include <string_view>

#include "engine/graph.h"

namespace electra {

// y = x Φ(x), any shape. Alone where its output is recomputed; otherwise fused into linear.
Value gelu(Graph& graph, Value x, std::string_view name);

}  // namespace electra
