#include "trainer/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <optional>
#include <sstream>
#include <tuple>

#include "kernels/core/error.h"
#include "kernels/core/philox.h"
#include "trainer/build_info.h"
#include "trainer/config_yaml.h"
#include "trainer/data/data_sets.h"
#include "trainer/data/examples.h"
#include "trainer/nearest.h"

namespace electra {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr int64_t kMaxInteger = int64_t{1}
                                << 53;  // survives JSON readers that store every number as a double
constexpr int64_t kMaxSize = int64_t{1} << 24;  // of one axis of the model or the batch

std::optional<int64_t> parse_integer(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<double> parse_decimal(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value))
    return std::nullopt;
  return value;
}

// "1/3" as well as "0.25": generator widths are thirds and quarters.
std::optional<double> parse_real(std::string_view text) {
  const size_t slash = text.find('/');
  if (slash == std::string_view::npos) return parse_decimal(text);
  const auto above = parse_decimal(text.substr(0, slash)),
             below = parse_decimal(text.substr(slash + 1));
  if (!above || !below || *below == 0) return std::nullopt;
  return *above / *below;
}

std::optional<bool> parse_flag(std::string_view text) {
  if (text == "true" || text == "yes" || text == "on") return true;
  if (text == "false" || text == "no" || text == "off") return false;
  return std::nullopt;
}

// Interval of allowed numbers, with its words.
struct Range {
  double low = -kInfinity, high = kInfinity;
  bool low_open = false, high_open = false;
  bool contains(double x) const {
    return (low_open ? x > low : x >= low) && (high_open ? x < high : x <= high);
  }
  std::string text(const char* noun) const {
    if (std::isinf(low) && std::isinf(high)) return noun;
    if (std::isinf(high))
      return fmt::format("{} {} {}", noun, low_open ? "above" : "of at least", low);
    return fmt::format("{} in {}{}, {}{}", noun, low_open ? '(' : '[', low, high,
                       high_open ? ')' : ']');
  }
};

constexpr Range at_least(double low) { return {.low = low}; }
constexpr Range above(double low) { return {.low = low, .low_open = true}; }
constexpr Range up_to(double low, double high) { return {.low = low, .high = high}; }
constexpr Range above_up_to(double low, double high) {
  return {.low = low, .high = high, .low_open = true};
}
constexpr Range below(double low, double high) {
  return {.low = low, .high = high, .high_open = true};
}

enum class OnResume { fixed, may_change };
enum class Fallback { builtin, none };  // none: a preset or the file must give the value

struct Key {
  std::string name, doc, expected;
  OnResume on_resume = OnResume::fixed;
  Fallback fallback = Fallback::builtin;
  std::function<bool(PretrainConfig&, std::string_view)> set;  // false: not what is expected
  std::function<std::string(const PretrainConfig&)> get;       // as YAML; empty: not set
};

template <class T> using Field = T& (*)(PretrainConfig&);

template <class T> const T& value_of(const PretrainConfig& config, Field<T> field) {
  return field(const_cast<PretrainConfig&>(config));
}

Key integer(const char* name, Field<int64_t> field, Range range, Fallback fallback,
            OnResume on_resume, const char* doc) {
  const auto set = [=](PretrainConfig& config, std::string_view text) {
    const auto value = parse_integer(text);
    if (!value || !range.contains(static_cast<double>(*value)) || *value > kMaxInteger)
      return false;
    field(config) = *value;
    return true;
  };
  return {name,
          doc,
          range.text("an integer"),
          on_resume,
          fallback,
          set,
          [=](const PretrainConfig& config) { return fmt::format("{}", value_of(config, field)); }};
}

Key real(const char* name, Field<double> field, Range range, Fallback fallback, const char* doc) {
  const auto set = [=](PretrainConfig& config, std::string_view text) {
    const auto value = parse_real(text);
    if (!value || !range.contains(*value)) return false;
    field(config) = *value;
    return true;
  };
  return {name,
          doc,
          range.text("a number"),
          OnResume::fixed,
          fallback,
          set,
          [=](const PretrainConfig& config) { return fmt::format("{}", value_of(config, field)); }};
}

Key flag(const char* name, Field<bool> field, OnResume on_resume, const char* doc) {
  const auto set = [=](PretrainConfig& config, std::string_view text) {
    const auto value = parse_flag(text);
    if (value) field(config) = *value;
    return value.has_value();
  };
  return {name,
          doc,
          "true or false",
          on_resume,
          Fallback::builtin,
          set,
          [=](const PretrainConfig& config) { return value_of(config, field) ? "true" : "false"; }};
}

// Enum: its values in order are the names.
template <class Enum>
Key choice(const char* name, Field<Enum> field, std::vector<std::string> names, const char* doc) {
  const auto set = [=](PretrainConfig& config, std::string_view text) {
    const auto found = std::find(names.begin(), names.end(), text);
    if (found != names.end()) field(config) = static_cast<Enum>(found - names.begin());
    return found != names.end();
  };
  return {name,
          doc,
          fmt::format("one of {}", fmt::join(names, ", ")),
          OnResume::fixed,
          Fallback::builtin,
          set,
          [=](const PretrainConfig& config) {
            return names[static_cast<size_t>(value_of(config, field))];
          }};
}

// YAML's double-quoted form; paths hold no control characters worth keeping readable.
std::string yaml_string(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    else
      out += c;
  }
  return out + "\"";
}

std::string absolute_path(const std::string& text) {
  std::filesystem::path absolute = std::filesystem::absolute(text).lexically_normal();
  if (!absolute.has_filename()) absolute = absolute.parent_path();
  return absolute.string();
}

// As path(), or several, separated by commas.
Key paths(const char* name, Field<std::string> field, const char* doc) {
  const auto set = [=](PretrainConfig& config, std::string_view text) {
    field(config).clear();
    if (text.empty()) return true;
    for (const std::string& directory : data_directories(std::string(text))) {
      if (directory.empty()) return false;
      field(config) += (field(config).empty() ? "" : ",") + absolute_path(directory);
    }
    return true;
  };
  return {name,
          doc,
          "a path, or several separated by commas",
          OnResume::fixed,
          Fallback::builtin,
          set,
          [=](const PretrainConfig& config) { return yaml_string(value_of(config, field)); }};
}

// Numbers above 0, separated by commas.
std::optional<std::vector<double>> parse_weights(std::string_view text) {
  std::vector<double> weights;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const auto weight = parse_real(text.substr(begin, end - begin));
    if (!weight || !(*weight > 0)) return std::nullopt;
    weights.push_back(*weight);
    begin = end + 1;
  }
  return weights;
}

// "128:9000,256:500" as phases one after the other.
std::optional<std::vector<LengthPhase>> parse_lengths(std::string_view text) {
  std::vector<LengthPhase> phases;
  if (text == "none") return phases;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string_view part = text.substr(begin, end - begin);
    const size_t colon = std::min(part.find(':'), part.size());
    const auto length = parse_integer(part.substr(0, colon));
    const auto steps = parse_integer(part.substr(std::min(colon + 1, part.size())));
    if (!length || !steps || *length < kMinSeqLen || *length > kMaxSeqLen || *steps < 1 || *steps > kMaxInteger / 1024 || phases.size() == 1000)
      return std::nullopt;
    const int64_t first = phases.empty() ? 0 : phases.back().end;
    phases.push_back({first, first + *steps, *length});
    begin = end + 1;
  }
  return phases;
}

Key lengths(const char* name, Field<std::string> field, const char* doc) {
  const auto set = [=](PretrainConfig& config, std::string_view text) {
    field(config) = text;
    return parse_lengths(text).has_value();
  };
  return {name,
          doc,
          fmt::format("none, or length:steps separated by commas, lengths in [{}, {}]", kMinSeqLen, kMaxSeqLen),
          OnResume::fixed,
          Fallback::builtin,
          set,
          [=](const PretrainConfig& config) { return value_of(config, field); }};
}

Key weights(const char* name, Field<std::string> field, const char* doc) {
  const auto set = [=](PretrainConfig& config, std::string_view text) {
    field(config) = text;
    return text == "size" || parse_weights(text).has_value();
  };
  return {name,
          doc,
          "size, or numbers above 0 separated by commas",
          OnResume::fixed,
          Fallback::builtin,
          set,
          [=](const PretrainConfig& config) { return value_of(config, field); }};
}

Key path(const char* name, Field<std::string> field, OnResume on_resume, const char* doc) {
  const auto set = [=](PretrainConfig& config, std::string_view text) {
    field(config).clear();
    if (text.empty()) return true;
    field(config) = absolute_path(std::string(text));
    return true;
  };
  return {
      name, doc, "a path", on_resume, Fallback::builtin, set, [=](const PretrainConfig& config) {
        return yaml_string(value_of(config, field));
      }};
}

Key size_name(const char* name, Field<std::string> field, const char* doc) {
  std::vector<std::string> names;
  for (const Preset& preset : presets()) names.push_back(preset.name);
  names.push_back("custom");
  const auto set = [=](PretrainConfig& config, std::string_view text) {
    field(config) = text;
    return std::find(names.begin(), names.end(), text) != names.end();
  };
  return {name,
          doc,
          fmt::format("one of {}", fmt::join(names, ", ")),
          OnResume::fixed,
          Fallback::builtin,
          set,
          [=](const PretrainConfig& config) { return value_of(config, field); }};
}

// 0 in the field stands for "not set" and has no text.
Key unless_zero(Key key) {
  key.get = [get = key.get](const PretrainConfig& config) {
    const std::string text = get(config);
    return text == "0" ? "" : text;
  };
  return key;
}

#define ELECTRA_FIELD(member) \
  [](PretrainConfig & c) -> auto& { return c.member; }

std::vector<Key> make_table() {
  using enum OnResume;
  constexpr Fallback given = Fallback::none, builtin = Fallback::builtin;
  const Range size = up_to(1, static_cast<double>(kMaxSize));
  const std::vector<std::string> recipes = {"fixed", "google"};
  return {
      size_name("size", ELECTRA_FIELD(size),
                "preset that every key not given comes from; custom: none, give them all"),
      choice<Recipe>(
          "compat", ELECTRA_FIELD(compat), recipes,
          "defaults of masking.replacement, schedule.first_step_zero, optimizer.bias_correction, "
          "examples.overflow, finetune.layer_decay and metrics.auc_padding"),

      integer("vocab_size", ELECTRA_FIELD(model.vocab_size), size, given, fixed,
              "entries of the vocabulary; a run takes that of its data"),
      integer("embedding_size", ELECTRA_FIELD(model.embedding_size), size, given, fixed,
              "width of the shared embeddings; projected where the hidden size differs"),
      integer("hidden_size", ELECTRA_FIELD(model.discriminator.hidden_size), size, given, fixed,
              "width of the discriminator"),
      integer("num_layers", ELECTRA_FIELD(model.discriminator.num_layers), up_to(1, 1024), given,
              fixed, "layers of the discriminator"),
      integer("num_heads", ELECTRA_FIELD(model.discriminator.num_heads), up_to(1, 1024), given,
              fixed, "attention heads of the discriminator; a divisor of hidden_size"),
      integer("intermediate_size", ELECTRA_FIELD(model.discriminator.intermediate_size), size,
              given, fixed, "width of the discriminator's feed-forward layers"),
      integer("max_position_embeddings", ELECTRA_FIELD(model.max_position_embeddings), size, given,
              fixed, "longest sequence the model has positions for"),
      real("hidden_dropout", ELECTRA_FIELD(model.hidden_dropout), below(0, 1), given,
           "probability of dropping an activation"),
      real("attention_dropout", ELECTRA_FIELD(model.attention_dropout), below(0, 1), given,
           "probability of dropping an attention weight"),
      real("generator.width_fraction", ELECTRA_FIELD(generator.width_fraction), above_up_to(0, 1),
           given, "width of the generator as a fraction of hidden_size, such as 1/4"),
      real("generator.layers_fraction", ELECTRA_FIELD(generator.layers_fraction), above_up_to(0, 1),
           builtin, "layers of the generator as a fraction of num_layers"),

      flag("electra_objective", ELECTRA_FIELD(model.electra_objective), fixed,
           "false: masked-LM training of the full-size encoder, no discriminator"),
      flag("uniform_generator", ELECTRA_FIELD(model.uniform_generator), fixed,
           "replacements are uniform and the generator is not trained"),
      flag("untied_generator", ELECTRA_FIELD(model.untied_generator), fixed,
           "false: the discriminator's own encoder, run on the masked input, is the generator"),
      flag("untied_generator_embeddings", ELECTRA_FIELD(model.untied_generator_embeddings), fixed,
           "the generator has embeddings of its own, as wide as its hidden layer"),
      flag("disallow_correct", ELECTRA_FIELD(model.disallow_correct), fixed,
           "never sample the original token"),
      real("gen_weight", ELECTRA_FIELD(model.gen_weight), at_least(0), builtin,
           "weight of the masked-LM loss"),
      real("disc_weight", ELECTRA_FIELD(model.disc_weight), at_least(0), builtin,
           "weight of the replaced-token loss"),
      real("temperature", ELECTRA_FIELD(model.temperature), above(0), builtin,
           "divides the generator's logits for sampling only"),

      paths("data", ELECTRA_FIELD(data),
            "directory that 'electra data build' wrote; several are mixed as data_weights says"),
      weights("data_weights", ELECTRA_FIELD(data_weights),
              "shares of the examples that come from each of several data sets; size: in proportion to their examples"),
      path("run", ELECTRA_FIELD(run), may_change, "directory the run writes to"),
      integer("seq_len", ELECTRA_FIELD(seq_len), up_to(kMinSeqLen, kMaxSeqLen), given, fixed,
              "tokens of an example, [CLS] and [SEP] included"),
      real("mask_prob", ELECTRA_FIELD(mask_prob),
           {.low = 0, .high = 1, .low_open = true, .high_open = true}, given,
           "share of the tokens that are masked"),
      unless_zero(integer("batch.sequences", ELECTRA_FIELD(batch.sequences), size, builtin, fixed,
                          "sequences a step, over all micro-batches; or give batch.tokens")),
      unless_zero(
          integer("batch.tokens", ELECTRA_FIELD(batch.tokens), size, builtin, fixed,
                  "tokens a step, filled with as many sequences as fit; or give batch.sequences")),
      integer("batch.accumulate", ELECTRA_FIELD(batch.accumulate), up_to(1, 65536), builtin, fixed,
              "micro-batches a step, whose gradients are added: less memory, the same step"),
      flag("masking.replacement", ELECTRA_FIELD(masking.replacement), fixed,
           "draw masked positions with replacement, as the original does (7 % of them collide)"),
      choice<MaskUnit>("masking.unit", ELECTRA_FIELD(masking.unit), {"token", "word", "span"},
                       "what is masked together: single tokens, whole words, or runs of whole words; as many tokens in any case"),
      real("masking.span_words", ELECTRA_FIELD(masking.span_words), up_to(1, 1000), builtin,
           "mean length of a span in words, for masking.unit: span"),
      choice<Recipe>(
          "examples.overflow", ELECTRA_FIELD(examples.overflow), recipes,
          "what overflows an example starts the next one (fixed) or is thrown away (google)"),

      integer("train_steps", ELECTRA_FIELD(train_steps), at_least(1), given, may_change,
              "optimizer steps of the whole run"),
      integer("warmup_steps", ELECTRA_FIELD(warmup_steps), at_least(0), given, fixed,
              "steps over which the learning rate rises from zero"),
      integer("log_steps", ELECTRA_FIELD(log_steps), at_least(1), builtin, may_change,
              "steps from one train line to the next"),
      integer("eval_steps", ELECTRA_FIELD(eval_steps), at_least(1), builtin, may_change,
              "steps from one evaluation to the next"),
      integer("eval.batches", ELECTRA_FIELD(eval.batches), at_least(1), builtin, may_change,
              "held-out batches an evaluation, at most all there are"),
      integer("checkpoint_steps", ELECTRA_FIELD(checkpoint_steps), at_least(1), builtin, may_change,
              "steps from one checkpoint to the next"),
      integer("checkpoint.keep", ELECTRA_FIELD(checkpoint.keep), at_least(1), builtin, may_change,
              "newest checkpoints kept"),
      flag("checkpoint.keep_best", ELECTRA_FIELD(checkpoint.keep_best), may_change,
           "also keep the checkpoint with the lowest held-out loss"),
      integer("seed", ELECTRA_FIELD(seed), at_least(0), builtin, fixed,
              "of initialisation, data order, masks, samples and dropout"),
      choice<Precision>("precision", ELECTRA_FIELD(precision), {"auto", "fp32", "bf16"},
                        "storage of activations and working weights; auto: fp32 on the CPU, bf16 on a GPU"),
      choice<Recompute>("recompute", ELECTRA_FIELD(recompute), {"none", "gelu", "layers"},
                        "what backward computes again instead of keeping it"),
      choice<GemmChoice>("gemm", ELECTRA_FIELD(gemm), {"auto", "library", "own"},
                         "who multiplies matrices on a GPU: cuBLASLt, or this program's own kernels; auto: the library where there is one"),

      real("optimizer.learning_rate", ELECTRA_FIELD(optimizer.learning_rate), at_least(0), given,
           "peak learning rate"),
      real("optimizer.weight_decay", ELECTRA_FIELD(optimizer.weight_decay), at_least(0), builtin,
           "decoupled; not on biases and LayerNorm"),
      real("optimizer.beta1", ELECTRA_FIELD(optimizer.beta1), below(0, 1), builtin,
           "decay of the first moment"),
      real("optimizer.beta2", ELECTRA_FIELD(optimizer.beta2), below(0, 1), builtin,
           "decay of the second moment"),
      real("optimizer.eps", ELECTRA_FIELD(optimizer.eps), above(0), builtin,
           "added to the root of the second moment"),
      real("optimizer.clip_norm", ELECTRA_FIELD(optimizer.clip_norm), above(0), builtin,
           "largest norm of the whole gradient; longer ones are scaled down"),
      flag("optimizer.bias_correction", ELECTRA_FIELD(optimizer.bias_correction), fixed,
           "divide the moments by 1 - beta^step; the original does not"),
      flag(
          "schedule.first_step_zero", ELECTRA_FIELD(schedule.first_step_zero), fixed,
          "count steps from 0, so that the first update has learning rate 0, as the original does"),
      real("schedule.power", ELECTRA_FIELD(schedule.power), at_least(0), builtin,
           "of the polynomial decay to zero; 1: linear, 0: constant"),
      lengths("schedule.lengths", ELECTRA_FIELD(schedule.lengths),
              "shorter or longer sequences first: lengths before seq_len and for how many steps, such as 128:9000"),
      choice<Recipe>("finetune.layer_decay", ELECTRA_FIELD(finetune.layer_decay), recipes,
                     "layer-wise learning rates: the top layer at full rate (fixed) or two decays "
                     "below (google)"),
      flag("metrics.auc_padding", ELECTRA_FIELD(metrics.auc_padding), fixed,
           "count padding as certain negatives in disc_auc, as the original does"),
  };
}

#undef ELECTRA_FIELD

const std::vector<Key>& table() {
  static const std::vector<Key> keys = make_table();
  return keys;
}

size_t index_of(std::string_view name) {
  for (size_t i = 0; i < table().size(); ++i)
    if (table()[i].name == name) return i;
  throw ConfigError("configuration", fmt::format("expected a configuration key, got '{}'", name));
}

// What compat sets where nothing else did. original: what the original's value means.
struct Deviation {
  const char* key;
  const char* fixed;
  const char* google;
  const char* original;
};
constexpr Deviation kDeviations[] = {
    {"masking.replacement", "false", "true", "masked positions are drawn with replacement"},
    {"schedule.first_step_zero", "false", "true", "the first update has learning rate 0"},
    {"optimizer.bias_correction", "false", "false",
     "Adam's moments are not corrected for their start at zero"},
    {"examples.overflow", "fixed", "google", "what overflows an example is thrown away"},
    {"finetune.layer_decay", "fixed", "google",
     "the top layer is fine-tuned two decays below the head"},
    {"metrics.auc_padding", "false", "true", "disc_auc counts padding as certain negatives"},
};

struct Setting {
  std::string key, value;
  Origin origin;
};
using Settings = std::vector<Setting>;

// "[my.yaml:3] train_steps: …"
ConfigError key_error(const Origin& origin, std::string_view key, std::string_view what) {
  return ConfigError(origin.text, fmt::format("{}: {}", key, what));
}

Settings settings_of(std::string_view yaml, const std::string& name, Origin::Layer layer) {
  Settings settings;
  for (YamlEntry& entry : read_yaml(yaml, name))
    settings.push_back({entry.key, entry.value, {layer, fmt::format("{}:{}", name, entry.line)}});
  return settings;
}

Settings settings_of(const std::vector<std::string>& overrides) {
  Settings settings;
  for (const std::string& override : overrides) {
    const size_t equals = override.find('=');
    if (equals == std::string::npos || equals == 0)
      throw ConfigError("command line", fmt::format("expected key=value, got '{}'", override));
    settings.push_back({override.substr(0, equals),
                        override.substr(equals + 1),
                        {Origin::Layer::command_line, "command line"}});
  }
  return settings;
}

const Setting* find_last(const Settings& settings, std::string_view key) {
  const auto found = std::find_if(settings.rbegin(), settings.rend(),
                                  [&](const Setting& s) { return s.key == key; });
  return found == settings.rend() ? nullptr : &*found;
}

void apply(const Setting& setting, ResolvedConfig& resolved) {
  std::vector<std::string> names;
  for (size_t i = 0; i < table().size(); ++i) {
    const Key& key = table()[i];
    names.push_back(key.name);
    if (key.name != setting.key) continue;
    if (!key.set(resolved.config, setting.value))
      throw key_error(setting.origin, key.name,
                      fmt::format("expected {}, got '{}'", key.expected, setting.value));
    resolved.origins[i] = setting.origin;
    return;
  }
  const std::string near = nearest(setting.key, names);
  throw ConfigError(setting.origin.text,
                    fmt::format("expected a configuration key, got '{}'{}", setting.key,
                                near.empty() ? "; 'electra config list' shows them"
                                             : fmt::format("; did you mean '{}'?", near)));
}

// One of batch.sequences and batch.tokens is in force: the one of the highest layer.
void apply_layer(const Settings& settings, ResolvedConfig& resolved) {
  const Setting* sequences = find_last(settings, "batch.sequences");
  const Setting* tokens = find_last(settings, "batch.tokens");
  if (sequences && tokens)
    throw key_error(tokens->origin, "batch.tokens",
                    "expected either batch.sequences or batch.tokens, got both");
  if (tokens) {
    resolved.config.batch.sequences = 0;
    resolved.origins[index_of("batch.sequences")] = tokens->origin;
  }
  if (sequences) {
    resolved.config.batch.tokens = 0;
    resolved.origins[index_of("batch.tokens")] = sequences->origin;
  }
  for (const Setting& setting : settings) apply(setting, resolved);
}

void apply_compat(ResolvedConfig& resolved) {
  const bool google = resolved.config.compat == Recipe::google;
  for (const Deviation& deviation : kDeviations) {
    const size_t i = index_of(deviation.key);
    if (resolved.origins[i].layer != Origin::Layer::builtin) continue;
    table()[i].set(resolved.config, google ? deviation.google : deviation.fixed);
    resolved.origins[i] = {Origin::Layer::compat, google ? "compat: google" : "compat: fixed"};
  }
}

void check_complete(const ResolvedConfig& resolved, const std::string& name) {
  const auto missing = [&](std::string_view key) {
    return ConfigError(
        name,
        fmt::format("{}: expected a value, got none; 'size: small' would take it from a preset",
                    key));
  };
  for (size_t i = 0; i < table().size(); ++i)
    if (table()[i].fallback == Fallback::none &&
        resolved.origins[i].layer == Origin::Layer::builtin)
      throw missing(table()[i].name);
  if (resolved.config.batch.sequences == 0 && resolved.config.batch.tokens == 0)
    throw missing("batch.sequences");
}

// Runs checks of the model, which know fields and not files: "[gen_weight] expected …" becomes
// "[my.yaml:9] gen_weight: expected …".
template <class Check> void at_its_key(const ResolvedConfig& resolved, Check check) {
  try {
    check();
  } catch (const ConfigError& error) {
    const std::string field(error.where());
    const auto key =
        std::find_if(table().begin(), table().end(), [&](const Key& k) { return k.name == field; });
    if (key == table().end()) throw;
    throw key_error(resolved.origin(field), field, error.detail());
  }
}

// The options that make the generator as large as the discriminator take its sizes.
void derive_generator(ResolvedConfig& resolved) {
  PretrainConfig& c = resolved.config;
  c.model.generator = c.model.discriminator;
  if (!c.model.electra_objective || !c.model.untied_generator) return;
  at_its_key(resolved, [&] {
    c.model.generator = generator_of(c.model.discriminator, c.generator.width_fraction,
                                     c.generator.layers_fraction);
  });
}

void check(const ResolvedConfig& resolved) {
  const PretrainConfig& c = resolved.config;
  const auto fail = [&](std::string_view key, const std::string& what) -> void {
    throw key_error(resolved.origin(key), key, what);
  };
  const EncoderConfig& d = c.model.discriminator;
  if (d.hidden_size % d.num_heads != 0)
    fail("num_heads",
         fmt::format("expected a divisor of hidden_size {}, got {}", d.hidden_size, d.num_heads));
  if (c.seq_len > c.model.max_position_embeddings)
    fail("seq_len", fmt::format("expected at most max_position_embeddings ({}), got {}",
                                c.model.max_position_embeddings, c.seq_len));
  for (const LengthPhase& phase : c.phases()) {
    PretrainConfig then = c;
    then.seq_len = phase.seq_len;
    if (phase.seq_len > c.model.max_position_embeddings)
      fail("schedule.lengths", fmt::format("expected lengths of at most max_position_embeddings ({}), got {}",
                                           c.model.max_position_embeddings, phase.seq_len));
    if (then.max_predictions() < 1)
      fail("mask_prob", fmt::format("expected enough to mask one of {} tokens, got {}", phase.seq_len, c.mask_prob));
    if (phase.seq_len != c.seq_len && c.batch.tokens > 0 && c.batch.tokens / c.batch.accumulate < phase.seq_len)
      fail("batch.tokens", fmt::format("expected at least {} × batch.accumulate ({}), the longest of schedule.lengths, got {}",
                                       phase.seq_len, phase.seq_len * c.batch.accumulate, c.batch.tokens));
  }
  if (c.masking.replacement && c.masking.unit != MaskUnit::token)
    fail("masking.unit", fmt::format("expected token with masking.replacement: true, got {}",
                                     c.masking.unit == MaskUnit::word ? "word" : "span"));
  const int64_t n = c.batch.accumulate;
  if (c.batch.sequences % n != 0)
    fail("batch.accumulate",
         fmt::format("expected a divisor of batch.sequences {}, got {}", c.batch.sequences, n));
  if (c.batch.tokens % n != 0)
    fail("batch.accumulate",
         fmt::format("expected a divisor of batch.tokens {}, got {}", c.batch.tokens, n));
  if (c.batch.tokens > 0 && c.batch.tokens / n < c.seq_len)
    fail("batch.tokens", fmt::format("expected at least seq_len × batch.accumulate ({}), got {}",
                                     c.seq_len * n, c.batch.tokens));
  const size_t sets = data_directories(c.data).size();
  if (const size_t weights = c.weights().size(); weights > 0 && !c.data.empty() && weights != sets)
    fail("data_weights", fmt::format("expected {} weight{}, one for each directory of data, got {}", sets, sets > 1 ? "s" : "", weights));
  at_its_key(resolved, [&] { validate(c.model); });
}

const Preset* find_preset(std::string_view name) {
  for (const Preset& preset : presets())
    if (preset.name == name) return &preset;
  return nullptr;
}

Settings preset_settings(const Preset& preset) {
  return settings_of(preset.text, "preset " + preset.name, Origin::Layer::preset);
}

void collect_warnings(ResolvedConfig& resolved) {
  const PretrainConfig& c = resolved.config;
  if (c.warmup_steps > c.train_steps)
    resolved.warnings.push_back(fmt::format(
        "warmup_steps ({}) exceeds train_steps ({}): the learning rate never reaches {}",
        c.warmup_steps, c.train_steps, c.optimizer.learning_rate));
  if (const int64_t begin = c.phases().back().begin; begin >= c.train_steps)
    resolved.warnings.push_back(fmt::format(
        "schedule.lengths takes {} steps and the run train_steps ({}): it never comes to seq_len ({})",
        begin, c.train_steps, c.seq_len));
  if (c.model.untied_generator_embeddings)
    for (const auto& [key, has_own, value] :
         {std::tuple{"electra_objective", c.model.electra_objective, "false"},
          {"untied_generator", c.model.untied_generator, "false"},
          {"uniform_generator", !c.model.uniform_generator, "true"}})
      if (!has_own)
        resolved.warnings.push_back(
            fmt::format("untied_generator_embeddings has no effect with {}: {}: there is no "
                        "generator of its own",
                        key, value));
  const Preset* preset = find_preset(c.size);
  if (!preset) return;
  const Settings settings = preset_settings(*preset);
  const Setting* rate = find_last(settings, "optimizer.learning_rate");
  const double usual = rate ? parse_real(rate->value).value_or(kInfinity) : kInfinity;
  if (c.optimizer.learning_rate > usual)
    resolved.warnings.push_back(
        fmt::format("optimizer.learning_rate {} is above {}, that of size {}: training may diverge",
                    c.optimizer.learning_rate, usual, c.size));
}

ResolvedConfig resolve(const Settings& file, const std::string& name, const Settings& command_line,
                       bool is_preset) {
  ResolvedConfig resolved;
  resolved.origins.resize(table().size());
  const Setting* size = find_last(command_line, "size");
  if (is_preset && size)
    throw key_error(size->origin, "size",
                    fmt::format("expected the size of {} itself, got '{}'; name the preset instead",
                                name, size->value));
  if (!size) size = find_last(file, "size");
  if (size && !is_preset) {
    apply(*size, resolved);
    if (const Preset* base = find_preset(size->value))
      apply_layer(preset_settings(*base), resolved);
  }
  apply_layer(file, resolved);
  apply_layer(command_line, resolved);
  apply_compat(resolved);
  check_complete(resolved, name);
  derive_generator(resolved);
  check(resolved);
  collect_warnings(resolved);
  return resolved;
}

std::string read_file(const std::string& file) {
  std::error_code ignored;
  if (std::filesystem::is_directory(file, ignored))
    throw IoError("configuration",
                  fmt::format("expected a file or a preset, got the directory '{}'", file));
  std::ifstream in(file, std::ios::binary);
  if (!in) {
    std::vector<std::string> names;
    for (const Preset& preset : presets()) names.push_back(preset.name);
    throw IoError("configuration", fmt::format("expected a file or a preset ({}), got '{}' ({})",
                                               fmt::join(names, ", "), file, std::strerror(errno)));
  }
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

std::vector<LengthPhase> PretrainConfig::phases() const {
  std::vector<LengthPhase> phases = parse_lengths(schedule.lengths).value_or(std::vector<LengthPhase>());
  phases.push_back({phases.empty() ? 0 : phases.back().end, std::numeric_limits<int64_t>::max(), seq_len});
  return phases;
}

LengthPhase PretrainConfig::phase_at(int64_t step) const {
  const std::vector<LengthPhase> all = phases();
  return *std::find_if(all.begin(), all.end(), [&](const LengthPhase& p) { return step < p.end; });
}

std::vector<double> PretrainConfig::weights() const {
  return parse_weights(data_weights).value_or(std::vector<double>());
}

int64_t PretrainConfig::max_predictions() const {
  return static_cast<int64_t>((mask_prob + 0.005) * static_cast<double>(seq_len));
}

int64_t PretrainConfig::tokens_per_step() const {
  return batch.tokens > 0 ? batch.tokens : batch.sequences * seq_len;
}

int64_t PretrainConfig::tokens_per_micro_batch() const {
  return tokens_per_step() / batch.accumulate;
}

int64_t PretrainConfig::sequences_per_micro_batch() const {
  if (batch.sequences > 0) return batch.sequences / batch.accumulate;
  return 2 * ((tokens_per_micro_batch() + seq_len - 1) / seq_len);
}

const Origin& ResolvedConfig::origin(std::string_view key) const { return origins[index_of(key)]; }

const std::vector<KeyInfo>& config_keys() {
  static const std::vector<KeyInfo> keys = [] {
    std::vector<KeyInfo> infos;
    const PretrainConfig defaults;
    for (const Key& key : table()) {
      const std::string value = key.fallback == Fallback::none ? "" : key.get(defaults);
      infos.push_back({key.name, key.expected, value.empty() ? "-" : value, key.doc,
                       key.on_resume == OnResume::may_change});
    }
    return infos;
  }();
  return keys;
}

ResolvedConfig load_config(const std::string& source, const std::vector<std::string>& overrides) {
  const Settings command_line = settings_of(overrides);
  if (const Preset* preset = find_preset(source))
    return resolve(preset_settings(*preset), "preset " + source, command_line, true);
  return resolve(settings_of(read_file(source), source, Origin::Layer::file), source, command_line,
                 false);
}

ResolvedConfig parse_config(std::string_view yaml, const std::string& name,
                            const std::vector<std::string>& overrides) {
  return resolve(settings_of(yaml, name, Origin::Layer::file), name, settings_of(overrides), false);
}

void set_value(ResolvedConfig& resolved, const std::string& key, const std::string& value,
               const std::string& origin) {
  apply({key, value, {Origin::Layer::found, origin}}, resolved);
  derive_generator(resolved);
  check(resolved);
}

std::string to_yaml(const ResolvedConfig& resolved) {
  constexpr int kCommentColumn = 44;
  const BuildInfo build = build_info();
  std::string yaml = fmt::format("# resolved by electra {} ({}); each value with its origin\n",
                                 build.version, build.commit);
  std::vector<std::string>
      groups;  // "optimizer": a group is written once, where its first key stands
  const auto line = [&](const std::string& indented, size_t i) {
    yaml += fmt::format("{:<{}} # {}\n",
                        fmt::format("{}: {}", indented, table()[i].get(resolved.config)),
                        kCommentColumn, resolved.origins[i].text);
  };
  for (size_t i = 0; i < table().size(); ++i) {
    const std::string& name = table()[i].name;
    const size_t dot = name.find('.');
    if (dot == std::string::npos) {
      line(name, i);
      continue;
    }
    const std::string group = name.substr(0, dot);
    if (std::find(groups.begin(), groups.end(), group) != groups.end()) continue;
    groups.push_back(group);
    yaml += group + ":\n";
    for (size_t j = i; j < table().size(); ++j)
      if (table()[j].name.starts_with(group + ".") && !table()[j].get(resolved.config).empty())
        line("  " + table()[j].name.substr(dot + 1), j);
  }
  yaml += "# known deviations from the original:\n";
  for (const std::string& deviation : deviations(resolved.config))
    yaml += "#   " + deviation + "\n";
  return yaml;
}

std::vector<std::string> deviations(const PretrainConfig& config) {
  std::vector<std::string> lines;
  for (const Deviation& deviation : kDeviations) {
    const std::string value = table()[index_of(deviation.key)].get(config);
    lines.push_back(value == deviation.google
                        ? fmt::format("{}: {} (as the original)", deviation.key, value)
                        : fmt::format("{}: {} (the original: {}, {})", deviation.key, value,
                                      deviation.google, deviation.original));
  }
  return lines;
}

std::string config_hash(const PretrainConfig& config) {
  std::string text;
  for (const Key& key : table())
    if (key.on_resume == OnResume::fixed)
      text += fmt::format("{}: {}\n", key.name, key.get(config));
  return fmt::format("{:016x}", fnv1a64(text));
}

void check_resume(const PretrainConfig& before, const ResolvedConfig& now) {
  for (size_t i = 0; i < table().size(); ++i) {
    const Key& key = table()[i];
    if (key.on_resume == OnResume::may_change) continue;
    const std::string was = key.get(before), is = key.get(now.config);
    if (was == is) continue;
    throw key_error(now.origins[i], key.name,
                    fmt::format("expected {} as the run began, got {}; {}",
                                was.empty() ? "no value" : was, is.empty() ? "no value" : is,
                                kFixedOnResume));
  }
}

}  // namespace electra
