#include "trainer/data/data_set.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "kernels/core/error.h"
#include "kernels/core/thread_pool.h"
#include "tokenizer/sentences.h"

namespace electra {
namespace {

namespace fs = std::filesystem;

// A document is a unit of the split where there are enough of them; otherwise it is cut into blocks of paragraphs.
constexpr double kFewestHeldoutUnits = 10;
constexpr int64_t kParagraphsPerBlock = 16;
constexpr size_t kUnitsPerRound = 256;  // units tokenized between two writes
// All that a build writes.
constexpr const char* kBuildFiles[] = {"train.bin", "train.idx", "train.json", "heldout.bin", "heldout.idx", "heldout.json", "vocab.txt", "tokenizer_config.json"};

// Publishing replaces the whole of out, so nothing may stand there but an empty folder or an earlier build and no more.
void check_replaceable(const fs::path& out) {
  std::error_code error;
  const fs::file_status status = fs::status(out, error);
  if (!fs::exists(status)) return;
  const std::string expected = "expected a new folder, an empty one or an earlier build, got ";
  if (!fs::is_directory(status)) throw IoError(out.string(), expected + "a file");
  const bool built = fs::is_regular_file(out / "train.json", error);
  for (const auto& entry : fs::directory_iterator(out)) {
    const std::string name = entry.path().filename().string();
    const bool ours = std::find(std::begin(kBuildFiles), std::end(kBuildFiles), name) != std::end(kBuildFiles);
    if (!built || !ours || !entry.is_regular_file()) throw IoError(out.string(), expected + "a folder with other files, such as '" + name + "'");
  }
}

struct Unit {
  std::vector<std::string> paragraphs;
  bool heldout = false;
};

uint64_t hash_of(const std::vector<std::string>& paragraphs, size_t begin, size_t end) {
  uint64_t h = 0;
  for (size_t i = begin; i < end; ++i) h = xxh64(paragraphs[i], h);
  return h;
}

// How the text is divided, found by reading it twice.
struct Split {
  int64_t block = 0;  // paragraphs of a unit; 0: whole documents
  uint64_t threshold = 0;
  uint64_t smallest = std::numeric_limits<uint64_t>::max();  // this unit is held out whatever the threshold
  bool is_heldout(uint64_t hash) const { return hash < threshold || hash == smallest; }
  std::string description() const { return block == 0 ? "document" : "block of " + std::to_string(block) + " paragraphs"; }
};

template <class Visit> void for_each_unit(const Document& document, int64_t block, Visit visit) {
  const size_t n = document.paragraphs.size(), step = block == 0 ? n : static_cast<size_t>(block);
  for (size_t begin = 0; begin < n; begin += step) visit(begin, std::min(n, begin + step));
}

Split plan_split(const std::vector<CorpusFile>& files, const DataBuildOptions& options, const CorpusOptions& corpus, DataBuildReport& report, uint64_t& corpus_hash) {
  Split split;
  int64_t &documents = report.documents, &paragraphs = report.paragraphs;
  {
    CorpusReader reader(files, corpus);
    for (Document d; reader.next(d);) {
      ++documents;
      paragraphs += static_cast<int64_t>(d.paragraphs.size());
      corpus_hash = hash_of(d.paragraphs, 0, d.paragraphs.size()) ^ (corpus_hash * 0x9E3779B97F4A7C15u + 1);
    }
    if (reader.stopped()) return split;
    report.text_bytes = reader.bytes_read();
    report.duplicate_paragraphs = reader.duplicates();
  }
  if (paragraphs < 2)
    throw DataError("data build", "expected text of at least two paragraphs, one to train on and one held out, got " + std::to_string(paragraphs));
  split.threshold = static_cast<uint64_t>(std::ldexp(options.heldout, 64) < 0x1p64 ? std::ldexp(options.heldout, 64) : 0x1p64 - 2048);
  if (static_cast<double>(documents) * options.heldout < kFewestHeldoutUnits)
    split.block = std::clamp<int64_t>(paragraphs / 20, 1, kParagraphsPerBlock);
  CorpusReader reader(files, corpus);
  for (Document d; reader.next(d);)
    for_each_unit(d, split.block, [&](size_t begin, size_t end) {
      split.smallest = std::min(split.smallest, hash_of(d.paragraphs, begin, end));
    });
  return split;
}

// Sentences of a unit as ids, laid end to end.
struct TokenizedUnit {
  std::vector<int32_t> ids;
  std::vector<size_t> ends;
};

// Stopped, out is incomplete.
void tokenize(const Unit& unit, const Tokenizer& tokenizer, SentenceSplitter& splitter, std::vector<std::string_view>& sentences,
              const std::function<bool()>& stop, TokenizedUnit& out) {
  out.ids.clear();
  out.ends.clear();
  for (const std::string& paragraph : unit.paragraphs) {
    splitter.split(paragraph, sentences);
    for (const std::string_view sentence : sentences) {
      if (stop()) return;
      tokenizer.encode_ids(sentence, out.ids);
      if (out.ends.empty() ? !out.ids.empty() : out.ids.size() > out.ends.back()) out.ends.push_back(out.ids.size());
    }
  }
}

void write(const TokenizedUnit& unit, int32_t unk, TokenShardWriter& writer, DataBuildReport& report) {
  size_t begin = 0;
  report.unknown += std::count(unit.ids.begin(), unit.ids.end(), unk);
  for (const size_t end : unit.ends) {
    report.lengths.add(static_cast<int64_t>(end - begin));
    writer.add_sentence(std::span(unit.ids).subspan(begin, end - begin));
    begin = end;
  }
  writer.end_document();
}

}  // namespace

DataBuildReport build_data(const DataBuildOptions& options) {
  const auto begun = std::chrono::steady_clock::now();
  std::vector<CorpusFile> files = corpus_files(options.texts);
  Vocabulary vocabulary = Vocabulary::load(options.vocabulary);
  if (!(options.heldout > 0 && options.heldout < 1))
    throw ConfigError("data build", "expected a held-out share in (0, 1), got " + std::to_string(options.heldout));
  check_replaceable(options.out);
  const Tokenizer tokenizer(std::move(vocabulary), options.tokenizer);
  const int64_t vocab_size = tokenizer.vocabulary().size();

  DataBuildReport report;
  std::atomic<bool> given_up = false;  // stays, so that what was left out is never published
  const std::function<bool()> stop = [&] {
    if (!given_up && options.stop && options.stop()) given_up = true;
    return given_up.load();
  };
  const auto stopped = [&] {
    report.stopped = true;
    return report;
  };
  CorpusOptions corpus = options.corpus;
  corpus.stop = stop;
  std::optional<StagedDirectory> staging;
  std::vector<fs::path> copies;
  for (CorpusFile& file : files) {
    if (fs::is_regular_file(file.path)) continue;
    if (!staging) staging.emplace(options.out);
    copies.push_back(staging->path() / ("input-" + std::to_string(copies.size())));
    if (!copy_input(file.path, copies.back(), stop)) return stopped();
    file.path = copies.back();
  }
  uint64_t corpus_hash = 0;
  const Split split = plan_split(files, options, corpus, report, corpus_hash);
  if (stop()) return stopped();
  if (!staging) staging.emplace(options.out);
  TokenShardWriter train(staging->path() / "train", vocab_size), heldout(staging->path() / "heldout", vocab_size);

  ThreadPool pool(options.threads);
  std::vector<std::unique_ptr<SentenceSplitter>> splitters;
  for (int i = 0; i < pool.threads(); ++i) splitters.push_back(std::make_unique<SentenceSplitter>());
  std::vector<std::vector<std::string_view>> sentences(static_cast<size_t>(pool.threads()));
  std::vector<Unit> units;
  std::vector<TokenizedUnit> tokenized(kUnitsPerRound);
  std::vector<std::exception_ptr> failures(kUnitsPerRound);
  const auto flush = [&] {
    pool.parallel_for(static_cast<int64_t>(units.size()), [&](int64_t i, int worker) {
      const auto u = static_cast<size_t>(i), w = static_cast<size_t>(worker);
      try {
        tokenize(units[u], tokenizer, *splitters[w], sentences[w], stop, tokenized[u]);
      } catch (...) {
        failures[u] = std::current_exception();
      }
    });
    for (size_t u = 0; u < units.size(); ++u) {
      if (failures[u]) std::rethrow_exception(failures[u]);
      write(tokenized[u], tokenizer.vocabulary().unk(), units[u].heldout ? heldout : train, report);
    }
    units.clear();
  };

  CorpusReader reader(files, corpus);
  for (Document d; reader.next(d);) {
    bool joins = false;  // neighbouring training blocks of a document stay one document
    for_each_unit(d, split.block, [&](size_t begin, size_t end) {
      const bool out = split.is_heldout(hash_of(d.paragraphs, begin, end));
      if (joins && !out) {
        auto& last = units.back().paragraphs;
        last.insert(last.end(), d.paragraphs.begin() + static_cast<ptrdiff_t>(begin), d.paragraphs.begin() + static_cast<ptrdiff_t>(end));
      } else {
        units.push_back({{d.paragraphs.begin() + static_cast<ptrdiff_t>(begin), d.paragraphs.begin() + static_cast<ptrdiff_t>(end)}, out});
      }
      joins = !out;
    });
    if (tokenized.size() < units.size()) {
      tokenized.resize(units.size());
      failures.resize(units.size());
    }
    if (units.size() >= kUnitsPerRound) flush();
    if (options.progress) options.progress(static_cast<double>(reader.bytes_read()) / static_cast<double>(std::max<uint64_t>(report.text_bytes, 1)));
  }
  flush();
  if (stop()) return stopped();
  report.skipped_lines = reader.skipped_lines();
  if (train.tokens() == 0 || heldout.tokens() == 0)
    throw DataError("data build", "expected text on both sides of the split, got " + std::to_string(train.tokens()) + " training and " +
                                      std::to_string(heldout.tokens()) + " held-out pieces; give more text or another --heldout");

  ShardInfo info;
  info.tokenizer_sha256 = tokenizer.vocabulary().sha256();
  info.mode = options.tokenizer.mode == TokenizerMode::hf ? "hf" : "google";
  info.lowercase = options.tokenizer.lowercase;
  info.strip_accents = options.tokenizer.strip_accents.value_or(options.tokenizer.lowercase);
  info.split_chinese = options.tokenizer.split_chinese;
  info.split_unit = split.description();
  info.corpus_xxh64 = hex64(corpus_hash);
  train.finish(info);
  heldout.finish(info);
  std::string tokens;
  for (const std::string& token : tokenizer.vocabulary().tokens()) tokens.append(token).push_back('\n');
  write_file(staging->path() / "vocab.txt", tokens);
  write_file(staging->path() / "tokenizer_config.json", tokenizer_config_json(options.tokenizer));
  report.train = TokenShard(staging->path() / "train").info();
  report.heldout = TokenShard(staging->path() / "heldout").info();
  if (stop()) return stopped();
  check_replaceable(options.out);  // again: building takes a while
  for (const fs::path& copy : copies) fs::remove(copy);
  staging->publish();
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
  return report;
}

void SentenceLengths::add(int64_t length) {
  size_t bin = 0;
  for (int64_t limit = 8; bin + 1 < counts.size() && length > limit; limit *= 2) ++bin;
  ++counts[bin];
  ++sentences;
  tokens += length;
  longest = std::max(longest, length);
}

std::string SentenceLengths::text() const {
  return fmt::format("to 8: {}, 16: {}, 32: {}, 64: {}, 128: {}, more: {}; mean {:.1f}, longest {}", counts[0], counts[1], counts[2], counts[3], counts[4], counts[5],
                     static_cast<double>(tokens) / static_cast<double>(std::max<int64_t>(sentences, 1)), longest);
}

std::string report_text(const DataBuildReport& r) {
  const auto tokens = static_cast<double>(r.lengths.tokens), bytes = static_cast<double>(r.text_bytes);
  return fmt::format("{:.1f} MB of text, {} training pieces in {} sentences of {} documents, {} held out (split by {})\n", bytes / 1e6, r.train.tokens, r.train.sentences,
                     r.train.documents, r.heldout.tokens, r.heldout.split_unit) +
         fmt::format("read              {} documents, {} paragraphs; left out {} duplicates and {} lines\n", r.documents, r.paragraphs, r.duplicate_paragraphs, r.skipped_lines) +
         fmt::format("pieces            {} [UNK] of {} ({:.4f} %)\n", r.unknown, r.lengths.tokens, 100 * static_cast<double>(r.unknown) / tokens) +
         fmt::format("sentence lengths  {}\n", r.lengths.text()) +
         fmt::format("throughput        {:.1f} s, {:.2f} MB/s, {:.0f} pieces/s\n", r.seconds, bytes / 1e6 / r.seconds, tokens / r.seconds);
}

std::string report_json(const DataBuildReport& r) {
  const auto tokens = static_cast<double>(r.lengths.tokens), bytes = static_cast<double>(r.text_bytes);
  const nlohmann::ordered_json json = {{"documents", r.documents}, {"paragraphs", r.paragraphs}, {"duplicate_paragraphs", r.duplicate_paragraphs}, {"skipped_lines", r.skipped_lines},
                                       {"text_bytes", r.text_bytes}, {"train_tokens", r.train.tokens}, {"train_sentences", r.train.sentences}, {"train_documents", r.train.documents},
                                       {"heldout_tokens", r.heldout.tokens}, {"heldout_sentences", r.heldout.sentences}, {"heldout_documents", r.heldout.documents},
                                       {"split_unit", r.heldout.split_unit}, {"unknown", r.unknown}, {"unknown_rate", static_cast<double>(r.unknown) / tokens},
                                       {"sentence_lengths", {{"limits", {8, 16, 32, 64, 128, nullptr}}, {"counts", r.lengths.counts},
                                                             {"mean", tokens / static_cast<double>(r.lengths.sentences)}, {"longest", r.lengths.longest}}},
                                       {"seconds", r.seconds}, {"bytes_per_second", bytes / r.seconds}, {"tokens_per_second", tokens / r.seconds}};
  return json.dump() + "\n";
}

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
  std::vector<int64_t> counts(static_cast<size_t>(vocabulary_.size()), 0);
  for (int64_t i = 0; i < heldout_.tokens(); ++i) ++counts[static_cast<size_t>(heldout_.token(i))];
  double entropy = 0;
  for (const int64_t c : counts) {
    if (c == 0) continue;
    const double p = static_cast<double>(c) / static_cast<double>(heldout_.tokens());
    entropy -= p * std::log(p);
  }
  return entropy;
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
