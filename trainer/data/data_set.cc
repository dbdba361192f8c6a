#include "trainer/data/data_set.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <vector>

#include "kernels/core/error.h"
#include "trainer/data/example_plan.h"

namespace electra {
namespace {

namespace fs = std::filesystem;

// All files of a build; runs add plans of examples, which go with the build they are of.
constexpr const char* kBuildFiles[] = {"train.bin", "train.idx", "train.json", "heldout.bin", "heldout.idx", "heldout.json", "vocab.txt", "tokenizer_config.json"};

}  // namespace

DataSet::DataSet(const fs::path& directory)
    : directory_(directory), vocabulary_([&] {
        if (!fs::is_directory(directory))
          throw IoError(directory.string(), "expected a data directory made by 'electra data build', got none");
        return Vocabulary::load(directory / "vocab.txt");
      }()),
      train_(directory / "train"),
      heldout_(directory / "heldout") {
  for (const auto& [name, shard] : {std::pair{"train.json", &train_}, std::pair{"heldout.json", &heldout_}})
    if (shard->info().tokenizer_sha256 != vocabulary_.sha256())
      throw DataError((directory / name).string(), "expected tokens of the vocabulary with sha256 " + vocabulary_.sha256() +
                                                       " (vocab.txt), got tokens of " + shard->info().tokenizer_sha256);
}

SpecialIds DataSet::special() const {
  return {vocabulary_.pad(), vocabulary_.unk(), vocabulary_.cls(), vocabulary_.sep(), vocabulary_.mask()};
}

TokenizerOptions DataSet::tokenizer_options() const {
  const ShardInfo& info = train_.info();
  return {.mode = info.mode == "hf" ? TokenizerMode::hf : TokenizerMode::google,
          .lowercase = info.lowercase,
          .strip_accents = info.strip_accents,
          .split_chinese = info.split_chinese};
}

double DataSet::heldout_unigram_entropy() const {
  const TokenShard* const shard = &heldout_;
  return unigram_entropy({&shard, 1});
}

double unigram_entropy(std::span<const TokenShard* const> shards) {
  std::vector<int64_t> counts(static_cast<size_t>(shards.front()->info().vocab_size), 0);
  int64_t tokens = 0;
  for (const TokenShard* shard : shards) {
    for (int64_t i = 0; i < shard->tokens(); ++i) ++counts[static_cast<size_t>(shard->token(i))];
    tokens += shard->tokens();
  }
  double entropy = 0;
  for (const int64_t c : counts) {
    if (c == 0) continue;
    const double p = static_cast<double>(c) / static_cast<double>(tokens);
    entropy -= p * std::log(p);
  }
  return entropy;
}

void check_replaceable(const fs::path& out) {
  std::error_code error;
  const fs::file_status status = fs::status(out, error);
  if (!fs::exists(status)) return;
  const std::string expected = "expected a new folder, an empty one or an earlier build, got ";
  if (!fs::is_directory(status)) throw IoError(out.string(), expected + "a file");
  const bool built = fs::is_regular_file(out / "train.json", error);
  for (const auto& entry : fs::directory_iterator(out)) {
    const std::string name = entry.path().filename().string();
    const bool ours = std::find(std::begin(kBuildFiles), std::end(kBuildFiles), name) != std::end(kBuildFiles) || is_plan_name(name);
    if (!built || !ours || !entry.is_regular_file()) throw IoError(out.string(), expected + "a folder with other files, such as '" + name + "'");
  }
}

ShardInfo shard_info(const Vocabulary& vocabulary, const TokenizerOptions& options, const std::string& split_unit, uint64_t corpus_hash) {
  ShardInfo info;
  info.tokenizer_sha256 = vocabulary.sha256();
  info.mode = options.mode == TokenizerMode::hf ? "hf" : "google";
  info.lowercase = options.lowercase;
  info.strip_accents = options.strip_accents.value_or(options.lowercase);
  info.split_chinese = options.split_chinese;
  info.split_unit = split_unit;
  info.corpus_xxh64 = hex64(corpus_hash);
  return info;
}

void write_tokenizer(const fs::path& directory, const Vocabulary& vocabulary, const TokenizerOptions& options) {
  std::string tokens;
  for (const std::string& token : vocabulary.tokens()) tokens.append(token).push_back('\n');
  write_file(directory / "vocab.txt", tokens);
  write_file(directory / "tokenizer_config.json", tokenizer_config_json(options));
}

std::string tokenizer_config_json(const TokenizerOptions& options) {
  nlohmann::ordered_json json = {{"tokenizer_class", "ElectraTokenizer"}, {"do_lower_case", options.lowercase},
                                 {"strip_accents", nullptr}, {"tokenize_chinese_chars", options.split_chinese},
                                 {"model_max_length", 512}, {"unk_token", "[UNK]"}, {"sep_token", "[SEP]"}, {"pad_token", "[PAD]"},
                                 {"cls_token", "[CLS]"}, {"mask_token", "[MASK]"},
                                 {"electra_mode", options.mode == TokenizerMode::hf ? "hf" : "google"}};
  if (options.strip_accents) json["strip_accents"] = *options.strip_accents;
  return json.dump(2) + "\n";
}

TokenizerOptions parse_tokenizer_config(const fs::path& file) {
  try {
    const auto json = nlohmann::json::parse(read_file(file));
    TokenizerOptions options;
    options.lowercase = json.value("do_lower_case", true);
    options.split_chinese = json.value("tokenize_chinese_chars", true);
    const std::string mode = json.value("electra_mode", "hf");
    if (mode != "hf" && mode != "google") throw FormatError(file.string(), "electra_mode: expected hf or google, got '" + mode + "'");
    options.mode = mode == "google" ? TokenizerMode::google : TokenizerMode::hf;
    if (json.contains("strip_accents") && json["strip_accents"].is_boolean()) options.strip_accents = json["strip_accents"].get<bool>();
    return options;
  } catch (const nlohmann::json::exception& error) {
    throw FormatError(file.string(), std::string("expected tokenizer settings in JSON, got '") + error.what() + "'");
  }
}

}  // namespace electra
