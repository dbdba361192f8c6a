// Our parameters and their published names: transformers' ElectraForPreTraining (the discriminator) and ElectraForMaskedLM
// (the generator). A parameter is named "discriminator/NAME" or "generator/NAME"; query, key and value of a layer are one
// parameter "….attention.self.qkv.weight" (3 H, H) that is published as three.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "engine/parameters.h"
#include "model/config.h"

namespace electra {

enum class Half : uint8_t { discriminator, generator };

// Rows of one of our parameters under a published name.
struct PublishedSlice {
  Half half;               // the half whose namespace the parameter lives in
  std::string name;        // transformers' name
  int64_t begin = 0;       // first element within the parameter
  Shape shape;
};
std::vector<PublishedSlice> published_slices(const Parameter& parameter);

// One tensor of a published file: where it comes from in the store.
struct PublishedTensor {
  std::string name;
  const Parameter* parameter;
  int64_t begin;
  Shape shape;
};
// Every tensor of one half's file, in the store's order; parameters that both halves share are in both. The tied LM head
// weight is left out, as save_pretrained does. Empty where the configuration has no such half.
std::vector<PublishedTensor> published_tensors(const ElectraConfig& config, const ParameterStore& store, Half half);

// "discriminator/" + name or "generator/" + name.
std::string parameter_name(Half half, std::string_view name);
// Weight decay skips LayerNorms and biases, as the original does.
bool has_weight_decay(std::string_view parameter_name);

}  // namespace electra
