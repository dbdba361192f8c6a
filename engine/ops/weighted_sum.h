#pragma once
#include <string_view>

#include "engine/graph.h"

namespace electra {

// weight_a · a + weight_b · b of scalars (1); b may be kNoValue.
Value weighted_sum(Graph& graph, Value a, double weight_a, Value b, double weight_b, std::string_view name);

}  // namespace electra
