#include "trainer/data/data_exchange.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <span>

#include "kernels/core/error.h"
#include "trainer/data/corpus.h"
#include "trainer/data/data_set.h"
#include "trainer/data/foreign_data.h"
#include "trainer/data/heldout_split.h"
#include "trainer/tfrecord.h"

namespace electra {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kDocumentsPerProgress = 1024;
constexpr const char* kWriting = "writing";

std::vector<fs::path> files_of(const std::vector<std::string>& patterns) {
  std::vector<fs::path> paths;
  const auto name = [](fs::path path) {  // the same for both files of a dataset
    if (path.extension() == ".bin" || path.extension() == ".idx") path.replace_extension();
    return path;
  };
  for (const std::string& pattern : patterns) {
    std::error_code error;
    if (fs::exists(pattern + ".idx", error)) {
      paths.emplace_back(pattern + ".idx");
      continue;
    }
    for (const std::string& path : matching_paths(pattern, "a TFRecord file or an indexed dataset")) {
      const bool again = std::any_of(paths.begin(), paths.end(), [&](const fs::path& earlier) { return name(earlier) == name(path); });
      if (!again) paths.emplace_back(path);
    }
  }
  if (paths.empty()) throw DataError("data import", "expected at least one file, got none");
  return paths;
}

// Hash of sentences [begin, end).
uint64_t hash_of(const TokenDocument& document, size_t begin, size_t end) {
  uint64_t hash = 0;
  for (size_t s = begin; s < end; ++s) {
    const size_t first = s == 0 ? 0 : document.ends[s - 1];
    hash = xxh64(std::as_bytes(std::span(document.ids).subspan(first, document.ends[s] - first)), hash);
  }
  return hash;
}

}  // namespace

DataImportReport import_data(const DataImportOptions& options) {
  const std::vector<fs::path> files = files_of(options.files);
  const Vocabulary vocabulary = Vocabulary::load(options.vocabulary);
  if (!(options.heldout > 0 && options.heldout < 1)) throw ConfigError("data import", "expected a held-out share in (0, 1), got " + std::to_string(options.heldout));
  check_replaceable(options.out);
  std::error_code error;
  for (const fs::path& file : files)
    if (fs::equivalent(file.has_parent_path() ? file.parent_path() : ".", options.out, error))
      throw ConfigError("--out", "expected another folder than that of " + file.string() + ", which would be replaced, got " + options.out.string());
  DataImportReport report;
  report.files = static_cast<int64_t>(files.size());
  int64_t documents = 0, sentences = 0;
  // False: told to stop.
  const auto for_each_document = [&](const char* stage, const auto& visit) {
    TokenDocument document;
    int64_t done = 0, file = 0;
    for (const fs::path& path : files) {
      if (stage != kWriting && options.progress) options.progress(stage, static_cast<double>(file++) / static_cast<double>(files.size()));
      const auto data = open_foreign_data(path, vocabulary, options.dictionary);
      if (std::find(report.formats.begin(), report.formats.end(), data->format()) == report.formats.end()) report.formats.emplace_back(data->format());
      while (data->next(document)) {
        if (options.stop && options.stop()) return false;
        if (document.ends.empty()) continue;
        visit(document);
        if (stage == kWriting && options.progress && ++done % kDocumentsPerProgress == 0) options.progress(stage, static_cast<double>(done) / static_cast<double>(documents));
      }
    }
    return true;
  };
  const auto stopped = [&] {
    report.stopped = true;
    return report;
  };

  uint64_t corpus_hash = 0, smallest = HeldoutSplit().smallest;
  const bool counted = for_each_document("validating", [&](const TokenDocument& document) {
    const uint64_t hash = hash_of(document, 0, document.ends.size());
    ++documents;
    sentences += static_cast<int64_t>(document.ends.size());
    corpus_hash = add_document(corpus_hash, hash);
    smallest = std::min(smallest, hash);
  });
  if (!counted) return stopped();
  if (sentences < 2) throw DataError("data import", "expected at least two sentences, one to train on and one held out, got " + std::to_string(sentences));
  HeldoutSplit split(options.heldout, documents, sentences);
  const auto for_each_unit = [&](const TokenDocument& document, const auto& visit) {
    for_each_block(document.ends.size(), split.block, [&](size_t begin, size_t end) { visit(begin, end, hash_of(document, begin, end)); });
  };
  if (split.block == 0) split.smallest = smallest;
  else if (!for_each_document("dividing", [&](const TokenDocument& document) {
             for_each_unit(document, [&](size_t, size_t, uint64_t hash) { split.smallest = std::min(split.smallest, hash); });
           }))
    return stopped();

  StagedDirectory staging(options.out);
  TokenShardWriter train(staging.path() / "train", vocabulary.size()), heldout(staging.path() / "heldout", vocabulary.size());
  const bool written = for_each_document(kWriting, [&](const TokenDocument& document) {
    for_each_unit(document, [&](size_t begin, size_t end, uint64_t hash) {
      TokenShardWriter& writer = split.is_heldout(hash) ? heldout : train;
      if (&writer == &heldout) train.end_document();  // neighbouring training blocks of a document stay one document
      for (size_t s = begin; s < end; ++s) {
        const size_t first = s == 0 ? 0 : document.ends[s - 1];
        writer.add_sentence(std::span(document.ids).subspan(first, document.ends[s] - first));
      }
      if (&writer == &heldout) heldout.end_document();
    });
    train.end_document();
  });
  if (!written) return stopped();
  if (train.tokens() == 0 || heldout.tokens() == 0)
    throw DataError("data import", "expected tokens on both sides of the split, got " + std::to_string(train.tokens()) + " training and " + std::to_string(heldout.tokens()) + " held-out tokens; give another --heldout");
  const ShardInfo info = shard_info(vocabulary, options.tokenizer, split.description("sentences"), corpus_hash);
  train.finish(info);
  heldout.finish(info);
  write_tokenizer(staging.path(), vocabulary, options.tokenizer);
  report.train = TokenShard(staging.path() / "train").info();
  report.heldout = TokenShard(staging.path() / "heldout").info();
  check_replaceable(options.out);  // again
  staging.publish();
  return report;
}

DataExportReport export_tfrecords(const DataExportOptions& options) {
  constexpr int64_t kMostFiles = 10000;
  if (options.files < 1 || options.files > kMostFiles) throw ConfigError("--files", fmt::format("expected 1 to {}, got {}", kMostFiles, options.files));
  const DataSet data(options.data);
  const TokenShard& shard = options.heldout ? data.heldout() : data.train();
  const ExampleIndex index(shard, options.examples, data.special());
  std::error_code error;
  if (fs::exists(options.out, error) && !(fs::is_directory(options.out, error) && fs::is_empty(options.out, error)))
    throw IoError(options.out.string(), "expected a new folder or an empty one, got something else");
  StagedDirectory staging(options.out);
  const fs::path folder = staging.path() / "pretrain_tfrecords";
  fs::create_directory(folder);
  DataExportReport report;
  std::vector<int32_t> ids, segments;
  // A file after the other, each with every N-th example, so that one is open at a time.
  for (int64_t f = 0; f < options.files; ++f) {
    OutputFile file(folder / fmt::format("pretrain_data.tfrecord-{}-of-{}", f, options.files));
    for (int64_t i = f; i < index.size(); i += options.files) {
      if (options.stop && options.stop()) {
        report.stopped = true;
        return report;
      }
      ids.resize(static_cast<size_t>(index.length(i)));
      segments.resize(ids.size());
      index.build(i, ids.data(), segments.data());
      file.append(tfrecord(to_tf_example(ids, segments, options.examples.seq_len)));
      report.tokens += index.length(i);
      if (++report.examples % kDocumentsPerProgress == 0 && options.progress) options.progress(kWriting, static_cast<double>(report.examples) / static_cast<double>(index.size()));
    }
    file.sync();
  }
  std::string tokens;
  for (const std::string& token : data.vocabulary().tokens()) tokens.append(token).push_back('\n');
  write_file(staging.path() / "vocab.txt", tokens);
  sync_directory(folder);
  staging.publish();
  return report;
}

}  // namespace electra
