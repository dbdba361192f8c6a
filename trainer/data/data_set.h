// A data directory, what `electra data build` makes: train and held-out token shards, the vocabulary and the tokenizer's
// settings, so that everything later needs nothing else.
#pragma once
#include <array>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "kernels/masking.h"
#include "tokenizer/tokenizer.h"
#include "trainer/data/corpus.h"
#include "trainer/data/token_shards.h"

namespace electra {

struct DataBuildOptions {
  std::vector<std::string> texts;   // as corpus_files takes them; what can be read once, a pipe, is copied beside out until done
  CorpusOptions corpus;             // its stop is not used
  std::filesystem::path vocabulary; // vocab.txt
  std::filesystem::path out;
  TokenizerOptions tokenizer;
  double heldout = 0.01;            // share of the text kept out of training
  int threads = 1;
  std::function<void(double)> progress;  // share of the text done; may be empty
  std::function<bool()> stop;            // true: give up, leaving nothing; asked often, by several threads; may be empty
};

// Of sentences, in tokens.
struct SentenceLengths {
  std::array<int64_t, 6> counts{};  // of up to 8, 16, 32, 64, 128 tokens, and of more
  int64_t sentences = 0, tokens = 0, longest = 0;
  void add(int64_t length);
  std::string text() const;  // one line
};

struct DataBuildReport {
  ShardInfo train, heldout;
  int64_t documents = 0, paragraphs = 0;  // read, after what was left out
  int64_t skipped_lines = 0, duplicate_paragraphs = 0;
  int64_t unknown = 0;        // [UNK] on both sides, as are the lengths
  SentenceLengths lengths;
  uint64_t text_bytes = 0;    // decompressed
  double seconds = 0;
  bool stopped = false;
};

// Tokenizes text into options.out: a new folder, an empty one, or an earlier build, which is replaced. The result is a function
// of text, vocabulary and options alone, not of threads. Throws IoError (also where out is a file or holds anything that a build
// does not write), DataError, and ConfigError for a held-out share outside (0, 1); out is complete or untouched.
DataBuildReport build_data(const DataBuildOptions& options);

// For people, some lines; for machines, one JSON object.
std::string report_text(const DataBuildReport& report);
std::string report_json(const DataBuildReport& report);

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

// tokenizer_config.json with transformers' keys, and its way back.
std::string tokenizer_config_json(const TokenizerOptions& options);
TokenizerOptions parse_tokenizer_config(const std::filesystem::path& file);

}  // namespace electra
