// Looking at single texts through a trained model.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/core/device.h"
#include "trainer/trained_model.h"

namespace electra {

// One entry for each piece of the text, without [CLS] and [SEP].
struct Probe {
  std::vector<std::string> tokens;           // what the discriminator read
  std::vector<double> replaced_probability;
  // With corruption: the text, what the generator read, what it filled in, and where that differs.
  std::vector<std::string> original, masked, sampled;
  std::vector<bool> replaced;
};

// How likely the discriminator takes each piece for a replaced one. Throws DataError for a text without pieces or one that is
// too long, ConfigError for a model without a discriminator.
Probe probe(const TrainedModel& model, std::string_view text, Stream stream);
// Masks the text, lets the generator fill in, and asks the discriminator. Masks and samples are a function of seed.
Probe probe_corrupted(const TrainedModel& model, std::string_view text, uint64_t seed, Stream stream);

}  // namespace electra
