// `electra data build`: text to a data directory (data_set.h).
#pragma once
#include <array>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

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
  bool split_sentences = true;      // by Unicode's rules; false: the text has a sentence a line
  double heldout = 0.01;            // share of the text kept out of training
  int threads = 1;
  double checkpoint_seconds = 5;         // an interrupted build goes on from where it was at most so long ago
  // Told that an interrupted build is gone on with, or (true) that this one starts over, and why; may be empty.
  std::function<void(const std::string&, bool)> notice;
  // What is done with the text, how much of it (by the files' sizes) is done, and how many bytes that is, decompressed; may be empty.
  std::function<void(const char* stage, double share, double bytes)> progress;
  std::function<bool()> stop;            // true: stop, to go on another time; asked often, by several threads; may be empty
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
  double seconds = 0;         // of all processes that had a part in it
  bool stopped = false;
};

// Tokenizes text into options.out: a new folder, an empty one, or an earlier build, which is replaced. The result is a function
// of text, vocabulary and options alone, not of threads or interruptions. Throws IoError (also where out is a file or holds anything
// that a build does not write, and where another process builds it), DataError, and ConfigError for a held-out share outside (0, 1);
// out is complete or untouched. A build that is stopped, killed or refused by the operating system leaves what it has done beside out
// (see BuildDirectory), and the same build goes on from there; what has other texts, vocabulary or options starts over.
DataBuildReport build_data(const DataBuildOptions& options);

// For people, some lines; for machines, one JSON object.
std::string report_text(const DataBuildReport& report);
std::string report_json(const DataBuildReport& report);

}  // namespace electra
