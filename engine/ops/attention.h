#pragma once
#include <string_view>

#include "engine/graph.h"

namespace electra {

// context (rows, H D) of qkv (rows, 3 H D) over packed sequences of at most max_seq_len rows.
Value attention(Graph& graph, Value qkv, Value sequence_offsets, int64_t num_heads, int64_t max_seq_len, double drop_p,
                std::string_view name);

}  // namespace electra
