// `electra data import` and `export`: data directories from and to the files of other programs.
#pragma once
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "tokenizer/tokenizer.h"
#include "trainer/data/examples.h"
#include "trainer/data/token_shards.h"

namespace electra {

struct DataImportOptions {
  std::vector<std::string> files;    // as open_foreign_data takes them, or patterns; .bin and .idx of one dataset count once
  std::filesystem::path vocabulary;  // that the ids are of
  std::optional<std::filesystem::path> dictionary;  // fairseq's
  std::filesystem::path out;
  TokenizerOptions tokenizer;        // that the tokens were made with: recorded
  double heldout = 0.01;
  std::function<void(const char* stage, double share)> progress;  // share done of the stage; may be empty
  std::function<bool()> stop;            // true: give up, leaving nothing; may be empty
};

struct DataImportReport {
  ShardInfo train, heldout;
  std::vector<std::string> formats;  // that were met, each once
  int64_t files = 0;
  bool stopped = false;
};

// Everything is validated before anything is written. Throws as build_data does, and what open_foreign_data throws.
DataImportReport import_data(const DataImportOptions& options);

struct DataExportOptions {
  std::filesystem::path data, out;  // out: a new folder or an empty one
  bool heldout = false;             // that part instead of the training part
  ExampleOptions examples;
  int64_t files = 10;               // that the examples are dealt out to in turn
  std::function<void(const char* stage, double share)> progress;
  std::function<bool()> stop;
};

struct DataExportReport {
  int64_t examples = 0, tokens = 0;  // tokens: with [CLS] and [SEP], without padding
  bool stopped = false;
};

// Writes OUT/pretrain_tfrecords/pretrain_data.tfrecord-I-of-N and OUT/vocab.txt, which is a --data-dir of the original's run_pretraining.py. Throws
// IoError, DataError, and ConfigError for fewer than one file, more than 10,000 or a bad seq_len.
DataExportReport export_tfrecords(const DataExportOptions& options);

}  // namespace electra
