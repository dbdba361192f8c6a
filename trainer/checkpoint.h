// Checkpoints: RUN/checkpoints/step-000001000/ with discriminator.safetensors, generator.safetensors (transformers' names),
// optimizer.safetensors, state.json and the files that make it usable alone. Written under a temporary name, synced, renamed.
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "engine/parameters.h"
#include "model/config.h"
#include "model/formats/safetensors.h"

namespace electra {

// Where training stands, beyond the weights.
struct TrainState {
  int64_t step = 0;        // optimizer steps taken, skipped ones included
  int64_t adam_step = 0;   // updates applied
  int64_t bad_steps = 0;   // steps skipped in a row because something was not finite
  int64_t tokens = 0;      // real tokens seen
  int64_t epoch = 0, next_example = 0;  // where the data goes on,
  uint64_t taken_examples = 0;          // as LoaderState has it; 0 in a checkpoint written before it was kept
  double seconds = 0;      // training time so far
  std::optional<double> best_loss;      // lowest held-out loss so far, and its step
  int64_t best_step = 0;
  // Where the batches come from, in words, and a checksum of the token shards ("" where there are none). Both are "" in a
  // checkpoint written before they were kept.
  std::string source, data_xxh64;
};

// Small text files stored with a checkpoint: config.resolved.yaml, vocab.txt, tokenizer_config.json.
using ExtraFiles = std::map<std::string, std::string>;

// Writes CHECKPOINTS/step-… and moves `latest` to it. Throws IoError and leaves what was there: a full disk costs nothing but
// this checkpoint.
std::filesystem::path save_checkpoint(const std::filesystem::path& checkpoints, const ElectraConfig& config,
                                      const ParameterStore& store, const TrainState& state, const ExtraFiles& extra);
// Points `best` at the checkpoint of a step.
void mark_best(const std::filesystem::path& checkpoints, int64_t step);
// Removes all but the newest `keep` checkpoints and what `best` points at (with keep_best).
void prune_checkpoints(const std::filesystem::path& checkpoints, int64_t keep, bool keep_best);
// Steps of the checkpoints there are, ascending.
std::vector<int64_t> list_checkpoints(const std::filesystem::path& checkpoints);

// A checkpoint, every file checked against state.json.
class Checkpoint {
 public:
  // path: a run (its latest checkpoint), RUN/checkpoints, or a checkpoint. Throws IoError where there is none and FormatError,
  // naming file and newest good checkpoint, for a damaged one and where `latest` is missing or points nowhere.
  static Checkpoint open(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  const TrainState& state() const { return state_; }
  std::filesystem::path file(const std::string& name) const { return path_ / name; }
  // Weights alone. Throws FormatError naming tensor, expected and got for another model, be it that the model lacks a tensor of
  // the files. Only a half that the configuration has none of (uniform_generator, electra_objective) is left behind, and said
  // to be. With whole = false the store holds a part of the model, and what has no place in it is passed over.
  void load_weights(const ElectraConfig& config, ParameterStore& store, bool whole = true) const;
  // Weights and Adam's moments.
  void load_all(const ElectraConfig& config, ParameterStore& store) const;

 private:
  explicit Checkpoint(std::filesystem::path path);
  std::filesystem::path path_;
  TrainState state_;
};

}  // namespace electra
