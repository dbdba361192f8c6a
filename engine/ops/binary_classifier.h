#pragma once
#include <string_view>

#include "engine/graph.h"

namespace electra {

struct BinaryClassifierWeights {
  Value weight, bias, out_weight, out_bias;  // (C, C), (C), (1, C), (1)
};

struct BinaryClassifier {
  Value loss;      // (1)
  Value loss_sum;  // (1) f64, undivided
  Value logits;    // (rows)
  Value counts;    // (kBinaryCountsSize) i64
};

// Token-level binary classification of x (rows, C), see kernels/binary_classifier.h.
BinaryClassifier binary_classifier(Graph& graph, Value x, const BinaryClassifierWeights& weights, Value labels,
                                   Value sequence_offsets, std::string_view name);

}  // namespace electra
