// The configuration of a pre-training run: YAML file or embedded preset, then key=value overrides.
//
// Every key is declared once, in the table of config.cc: name, type, range, documentation, whether
// a resumed run may change it. Parsing, validation, suggestions, `config show`, `config list` and
// config.resolved.yaml all come from there.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/masking.h"
#include "model/config.h"

namespace electra {

enum class Precision { automatic, fp32, bf16 };  // automatic: fp32 on the CPU, bf16 on a GPU
// Who computes matrix products on a GPU; automatic: the library where there is one.
enum class GemmChoice { automatic, library, own };
// fixed: our correction of a known deviation of the original code; google: as the original does it.
enum class Recipe { fixed, google };

// Where a key has no initialiser that a run could use (0 or empty), a preset or the file must give
// it.
// Steps [begin, end) of a run, on sequences of at most seq_len tokens.
struct LengthPhase {
  int64_t begin = 0, end = 0, seq_len = 0;
  bool operator==(const LengthPhase&) const = default;
};

struct PretrainConfig {
  std::string size =
      "custom";  // tiny | small | small++ | base | large: the preset that unnamed keys come from
  Recipe compat = Recipe::fixed;

  ElectraConfig
      model;  // model.generator is derived; model.vocab_size is that of the data once there is data
  struct {
    double width_fraction = 0;   // of the discriminator's hidden size
    double layers_fraction = 1;  // of its layers
  } generator;

  std::string data;  // absolute once loaded; may be empty, or several, separated by commas (data_directories)
  std::string data_weights = "size";  // of several, separated by commas; size: in proportion to their examples
  std::string run;
  int64_t seq_len = 0;
  double mask_prob = 0;
  struct {
    int64_t sequences = 0;   // sequences a step, or 0: tokens is set
    int64_t tokens = 0;      // capacity of a step in tokens, or 0: sequences is set
    int64_t accumulate = 1;  // micro-batches a step
  } batch;
  struct {
    bool replacement = false;  // masked positions are drawn with replacement
    MaskUnit unit = MaskUnit::token;
    double span_words = 3;     // mean length of a span
  } masking;
  struct {
    Recipe overflow = Recipe::fixed;  // fixed: what overflows an example starts the next; google:
                                      // it is thrown away
  } examples;

  int64_t train_steps = 0;
  int64_t warmup_steps = 0;
  int64_t log_steps = 100;
  int64_t eval_steps = 1000;
  int64_t checkpoint_steps = 1000;
  int64_t seed = 0;
  Precision precision = Precision::automatic;
  Recompute recompute = Recompute::none;
  GemmChoice gemm = GemmChoice::automatic;

  struct {
    double learning_rate = 0;
    double weight_decay = 0.01;
    double beta1 = 0.9;
    double beta2 = 0.999;
    double eps = 1e-6;
    double clip_norm = 1;
    bool bias_correction = false;
  } optimizer;
  struct {
    bool first_step_zero = false;
    double power = 1;
    std::string lengths = "none";  // "128:9000,256:500": what comes before seq_len
  } schedule;
  struct {
    Recipe layer_decay = Recipe::fixed;  // recorded for fine-tuning
  } finetune;
  struct {
    bool auc_padding = false;
  } metrics;
  struct {
    int64_t batches = 32;  // held-out batches an evaluation
  } eval;
  struct {
    int64_t keep = 3;       // newest checkpoints kept
    bool keep_best = true;  // also the one with the lowest held-out loss
  } checkpoint;

  // In order and without a gap; the last is of seq_len and has no end. schedule.lengths says what comes before.
  std::vector<LengthPhase> phases() const;
  LengthPhase phase_at(int64_t step) const;
  std::vector<double> weights() const;  // data_weights as numbers; empty for size
  int64_t max_predictions() const;  // masked positions a sequence: int((mask_prob + 0.005) seq_len)
  int64_t tokens_per_step() const;  // capacity of all micro-batches of a step
  int64_t tokens_per_micro_batch() const;  // capacity of one
  // Most sequences of one micro-batch: batch.sequences / accumulate. With batch.tokens twice what
  // fits at full length: a batch is full when it has run out of tokens or of sequences.
  int64_t sequences_per_micro_batch() const;
};

// Where a value came from.
struct Origin {
  enum class Layer { builtin, compat, preset, file, command_line, found };
  Layer layer = Layer::builtin;
  std::string text = "default";  // "preset tiny:7", "my.yaml:3", "command line", "compat: google",
                                 // "data", "default"
};

struct ResolvedConfig {
  PretrainConfig config;
  std::vector<Origin> origins;        // of each key of config_keys(), in order
  std::vector<std::string> warnings;  // questionable, yet allowed
  const Origin& origin(std::string_view key) const;
};

// One key as `config list` shows it.
struct KeyInfo {
  std::string name, expected, fallback, doc;  // fallback: its default, or "-" where there is none
  bool may_change_on_resume = false;
};
const std::vector<KeyInfo>& config_keys();

struct Preset {
  std::string name, summary, text;  // text: the YAML file
};
// The files under configs/, smallest model first.
const std::vector<Preset>& presets();

// source: the name of a preset, or a file. Throws ConfigError naming key, place, what was expected
// and what came; IoError when there is no such file.
ResolvedConfig load_config(const std::string& source, const std::vector<std::string>& overrides);
// The same from the text of a file; name stands for it in origins and messages.
ResolvedConfig parse_config(std::string_view yaml, const std::string& name,
                            const std::vector<std::string>& overrides);

// Sets a key to what was found elsewhere, such as the vocabulary size of the data; origin: words
// for where.
void set_value(ResolvedConfig& resolved, const std::string& key, const std::string& value,
               const std::string& origin);

// Every key with its origin in a comment. Loaded again it gives the same configuration.
std::string to_yaml(const ResolvedConfig& resolved);
// Which known deviations from the original are in force, one line each: "masking.replacement: false
// (the original: true, …)".
std::vector<std::string> deviations(const PretrainConfig& config);
// 16 hex digits over every key that a resumed run may not change.
std::string config_hash(const PretrainConfig& config);
// What an error about a resumed run ends with.
inline constexpr std::string_view kFixedOnResume =
    "a resumed run cannot change it: start a new run with --init-from to take the weights along";
// Throws ConfigError for the first key that differs and may not change when a run is resumed; it
// names --init-from.
void check_resume(const PretrainConfig& before, const ResolvedConfig& now);

}  // namespace electra
