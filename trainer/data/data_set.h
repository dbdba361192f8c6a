// A data directory, what `electra data build` makes: train and held-out token shards, the vocabulary and the tokenizer's
// settings, so that everything later needs nothing else.
#pragma once
#include <filesystem>
#include <span>
#include <string>

#include "kernels/masking.h"
#include "tokenizer/tokenizer.h"
#include "trainer/data/token_shards.h"

namespace electra {

class DataSet {
 public:
  // Opens and validates. Throws IoError for what is missing, DataError for shards of another vocabulary or damaged ones.
  explicit DataSet(const std::filesystem::path& directory);
  const std::filesystem::path& directory() const { return directory_; }
  const Vocabulary& vocabulary() const { return vocabulary_; }
  SpecialIds special() const;
  TokenizerOptions tokenizer_options() const;
  const TokenShard& train() const { return train_; }
  const TokenShard& heldout() const { return heldout_; }
  // Entropy of the held-out pieces' own frequencies, in nats: what a model reaches that has learnt only word frequencies.
  double heldout_unigram_entropy() const;

 private:
  std::filesystem::path directory_;
  Vocabulary vocabulary_;
  TokenShard train_, heldout_;
};

// Throws IoError unless a data directory may be made there: nothing, an empty folder, or an earlier data directory and no more.
void check_replaceable(const std::filesystem::path& out);
// What the sidecars say, without the counts.
ShardInfo shard_info(const Vocabulary& vocabulary, const TokenizerOptions& options, const std::string& split_unit, uint64_t corpus_hash);
// vocab.txt and tokenizer_config.json.
void write_tokenizer(const std::filesystem::path& directory, const Vocabulary& vocabulary, const TokenizerOptions& options);
// Entropy of the pieces' own frequencies in all shards together, in nats; the shards are of one vocabulary.
double unigram_entropy(std::span<const TokenShard* const> shards);

// tokenizer_config.json with transformers' keys, and its way back.
std::string tokenizer_config_json(const TokenizerOptions& options);
TokenizerOptions parse_tokenizer_config(const std::filesystem::path& file);

}  // namespace electra
