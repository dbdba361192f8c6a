#pragma once
#include <string_view>

#include "engine/graph.h"
#include "kernels/linear.h"

namespace electra {

// y (rows, out) = act(x (rows, in) weight (out, in)ᵀ + bias (out)); bias is kNoValue with Epilogue::none.
Value linear(Graph& graph, Value x, Value weight, Value bias, Epilogue epilogue, std::string_view name);

}  // namespace electra
