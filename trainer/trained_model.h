// A trained model as it is used afterwards: a checkpoint with its configuration and tokenizer.
#pragma once
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "tokenizer/tokenizer.h"
#include "trainer/checkpoint.h"
#include "trainer/config.h"
#include "trainer/electra_program.h"

namespace electra {

class TrainedModel {
 public:
  // path: a run or a checkpoint; overrides as on the command line. Throws as Checkpoint::open and load_config do.
  TrainedModel(const std::filesystem::path& path, const std::vector<std::string>& overrides = {});
  const Checkpoint& checkpoint() const { return checkpoint_; }
  const ResolvedConfig& resolved() const { return config_; }
  const PretrainConfig& config() const { return config_.config; }
  const Tokenizer& tokenizer() const { return tokenizer_; }
  SpecialIds special() const;
  // Writes the checkpoint's weights into the store. whole: the store has all of them.
  void load_weights(ParameterStore& store, bool whole = true) const;
  // A program with the checkpoint's weights.
  ElectraProgram program(ElectraGraph traced, Stream stream) const;

 private:
  Checkpoint checkpoint_;
  ResolvedConfig config_;
  Tokenizer tokenizer_;
};

}  // namespace electra
