#include "trainer/data/data_build.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>

#include "kernels/core/error.h"
#include "kernels/core/thread_pool.h"
#include "tokenizer/sentences.h"
#include "trainer/build_info.h"
#include "trainer/data/build_directory.h"
#include "trainer/data/data_set.h"
#include "trainer/data/heldout_split.h"

namespace electra {
namespace {

namespace fs = std::filesystem;

constexpr size_t kUnitsPerRound = 256, kBytesPerRound = 8 << 20;  // one of them is reached between two writes
constexpr uint64_t kBytesPerCheckpoint = 64 << 10;  // at least, of text
struct Unit {
  std::vector<std::string> paragraphs;
  bool heldout = false;
};

uint64_t hash_of(const std::vector<std::string>& paragraphs, size_t begin, size_t end) {
  uint64_t h = 0;
  for (size_t i = begin; i < end; ++i) h = xxh64(paragraphs[i], h);
  return h;
}

template <class Visit> void for_each_unit(const Document& document, int64_t block, Visit visit) { for_each_block(document.paragraphs.size(), block, visit); }

// Sentences of a unit as ids, laid end to end.
struct TokenizedUnit {
  std::vector<int32_t> ids;
  std::vector<size_t> ends;
};

// splitter: none where a paragraph is a sentence. Stopped, out is incomplete.
void tokenize(const Unit& unit, const Tokenizer& tokenizer, SentenceSplitter* splitter, std::vector<std::string_view>& sentences,
              const std::function<bool()>& stop, TokenizedUnit& out) {
  out.ids.clear();
  out.ends.clear();
  for (const std::string& paragraph : unit.paragraphs) {
    if (splitter) splitter->split(paragraph, sentences);
    else sentences.assign(1, paragraph);
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

// What a build does, in this order; each is a reading of the text but the last.
enum Stage : int { kCount, kFindSmallest, kTokenize, kComplete };

// All that a build needs to go on between two documents, beside the files that it writes.
struct BuildState {
  int stage = kCount;
  CorpusPosition at;
  uint64_t hashes = 0;        // of distinct paragraphs before at
  HeldoutSplit split;
  uint64_t corpus_hash = 0;   // of the whole text, as it was counted
  uint64_t read_hash = 0;     // of the text before at, as it was tokenized
  ShardProgress train, heldout;
  DataBuildReport report;     // without train, heldout and stopped
  uint64_t result_hash = 0;   // of the sidecars, which have hashes of everything else
};

using Json = nlohmann::ordered_json;

Json to_json(const ShardProgress& p) { return {p.tokens, p.sentences, p.documents}; }
ShardProgress shard_progress(const Json& json) { return {json.at(0), json.at(1), json.at(2)}; }

Json to_json(const BuildState& s) {
  const DataBuildReport& r = s.report;
  return {{"stage", s.stage},
          {"at", {s.at.file, s.at.byte, s.at.line, s.at.skipped, s.at.duplicates, s.at.bytes, s.at.stored}},
          {"hashes", s.hashes},
          {"split", {s.split.block, s.split.threshold, s.split.smallest}},
          {"corpus", {s.corpus_hash, s.read_hash}},
          {"train", to_json(s.train)},
          {"heldout", to_json(s.heldout)},
          {"report", {r.documents, r.paragraphs, r.skipped_lines, r.duplicate_paragraphs, r.unknown, r.text_bytes}},
          {"lengths", r.lengths.counts},
          {"longest", r.lengths.longest},
          {"seconds", r.seconds},
          {"result", s.result_hash}};
}

BuildState build_state(const Json& json) {
  BuildState s;
  json.at("stage").get_to(s.stage);
  if (s.stage < kCount || s.stage > kComplete) throw std::out_of_range("stage");
  const Json& at = json.at("at");
  s.at = {.file = at.at(0), .byte = at.at(1), .line = at.at(2), .skipped = at.at(3), .duplicates = at.at(4), .bytes = at.at(5), .stored = at.at(6)};
  json.at("hashes").get_to(s.hashes);
  json.at("split").at(0).get_to(s.split.block);
  json.at("split").at(1).get_to(s.split.threshold);
  json.at("split").at(2).get_to(s.split.smallest);
  s.corpus_hash = json.at("corpus").at(0);
  s.read_hash = json.at("corpus").at(1);
  s.train = shard_progress(json.at("train"));
  s.heldout = shard_progress(json.at("heldout"));
  DataBuildReport& r = s.report;
  int64_t* const counts[] = {&r.documents, &r.paragraphs, &r.skipped_lines, &r.duplicate_paragraphs, &r.unknown};
  for (size_t i = 0; i < std::size(counts); ++i) json.at("report").at(i).get_to(*counts[i]);
  r.text_bytes = json.at("report").at(std::size(counts));
  json.at("lengths").get_to(r.lengths.counts);
  json.at("longest").get_to(r.lengths.longest);
  for (const int64_t count : r.lengths.counts) r.lengths.sentences += count;
  r.lengths.tokens = s.train.tokens + s.heldout.tokens;
  json.at("seconds").get_to(r.seconds);
  json.at("result").get_to(s.result_hash);
  return s;
}

// What the result depends on: an interrupted build with anything else is another one. Files are told by size and time, what came
// through a pipe by its content.
Json settings_of(const DataBuildOptions& options, const std::vector<CorpusFile>& files, const std::string& vocabulary_sha256) {
  const CorpusOptions& c = options.corpus;
  const TokenizerOptions& t = options.tokenizer;
  Json texts = Json::array();
  for (const CorpusFile& file : files) {
    Json id;
    if (file.path.string() == file.name) id = fs::last_write_time(file.path).time_since_epoch().count();
    else id = hex64(xxh64(MappedFile(file.path).bytes()));
    texts.push_back({file.name, fs::file_size(file.path), id});
  }
  return {{"program", build_info().version},
          {"--vocab", vocabulary_sha256},
          {"--heldout", options.heldout},
          {"--format", static_cast<int>(c.format)},
          {"--field", c.field},
          {"--documents", static_cast<int>(c.boundary)},
          {"--normalize", c.normal_form ? static_cast<int>(*c.normal_form) : -1},
          {"--deduplicate", c.deduplicate},
          {"--skip-invalid", c.skip_invalid},
          {"longest line", c.max_line_bytes},
          {"--sentences", options.split_sentences},
          {"--mode", static_cast<int>(t.mode)},
          {"--cased", !t.lowercase},
          {"--strip-accents", t.strip_accents ? static_cast<int>(*t.strip_accents) : -1},
          {"--split-chinese", t.split_chinese},
          {"texts", texts}};
}

// The first thing that differs, for people; empty: nothing.
std::string difference(const Json& before, const Json& now) {
  for (const auto& [key, value] : now.items()) {
    if (before.contains(key) && before[key] == value) continue;
    if (key == "program") return "version " + before.value(key, "unknown") + " of the program made it, this is " + value.get<std::string>();
    if (key == "--vocab") return "the vocabulary (--vocab) has changed";
    if (key != "texts") return key + " has changed";
    const Json texts = before.value(key, Json::array());
    for (size_t i = 0; i < std::min(texts.size(), value.size()); ++i)
      if (texts[i] != value[i]) return texts[i].at(0) == value[i].at(0) ? value[i].at(0).get<std::string>() + " has changed" : "the list of texts has changed";
    return "the list of texts has changed";
  }
  return "";
}

uint64_t hash_of_sidecars(const fs::path& directory) { return xxh64(read_file(directory / "heldout.json"), xxh64(read_file(directory / "train.json"))); }

class Build {
 public:
  explicit Build(const DataBuildOptions& options)
      : options_(options), files_(corpus_files(options.texts)), tokenizer_(load(options), options.tokenizer), pool_(options.threads), corpus_(options.corpus) {
    corpus_.record_hashes = corpus_.deduplicate;
    corpus_.stop = stop_;
    for (int i = 0; i < pool_.threads(); ++i) splitters_.push_back(std::make_unique<SentenceSplitter>());
    sentences_.resize(static_cast<size_t>(pool_.threads()));
  }

  DataBuildReport run() {
    directory_.emplace(options_.out);
    try {
      if (!copy_pipes()) return stopped();
      begin();
      if (state_.stage == kCount && !count()) return stopped();
      if (state_.stage == kFindSmallest && !find_smallest()) return stopped();
      if (state_.stage == kTokenize && (!tokenize_all() || !complete())) return stopped();
      check_replaceable(options_.out);  // again: building takes a while
      DataBuildReport report = state_.report;
      const fs::path result = fs::exists(directory_->result()) ? directory_->result() : options_.out;
      report.train = TokenShard(result / "train").info();
      report.heldout = TokenShard(result / "heldout").info();
      directory_->publish();
      report.seconds = seconds();
      return report;
    } catch (const DataError&) {
      directory_->discard();
      throw;
    }
  }

 private:
  using Clock = std::chrono::steady_clock;

  static Vocabulary load(const DataBuildOptions& options) {
    Vocabulary vocabulary = Vocabulary::load(options.vocabulary);
    if (!(options.heldout > 0 && options.heldout < 1))
      throw ConfigError("data build", "expected a held-out share in (0, 1), got " + std::to_string(options.heldout));
    check_replaceable(options.out);
    return vocabulary;
  }

  // What is done stays where there is something to go on from.
  DataBuildReport stopped() {
    if (begun_ && (state_.stage > kCount || state_.at.bytes > 0)) save();
    DataBuildReport report = state_.report;
    report.stopped = true;
    return report;
  }

  bool copy_pipes() {
    size_t copies = 0;
    for (CorpusFile& file : files_) {
      if (fs::is_regular_file(file.path)) continue;
      const fs::path copy = directory_->work() / (BuildDirectory::kInput + std::to_string(copies++));
      if (!copy_input(file.path, copy, stop_)) return false;
      file.path = copy;
    }
    return true;
  }

  // Goes on with an interrupted build, or starts.
  void begin() {
    for (const CorpusFile& file : files_) stored_bytes_ += fs::file_size(file.path);
    settings_ = settings_of(options_, files_, tokenizer_.vocabulary().sha256());
    std::string why;
    if (const auto saved = directory_->state()) {
      try {
        const Json json = Json::parse(*saved);
        why = difference(json.at("settings"), settings_);
        state_ = build_state(json.at("state"));
        if (why.empty() && !can_go_on()) why = "its files are damaged";
      } catch (const std::exception&) {
        why = "its state cannot be read";
      }
      const std::string what = "an interrupted build of " + options_.out.string();
      if (why.empty()) notice(fmt::format("going on with {}: {}", what, description()), false);
      else notice(fmt::format("starting over, for {} cannot be gone on with: {}", what, why), true);
    }
    if (!why.empty() || !directory_->state()) {
      directory_->clear();
      state_ = {};
    }
    seconds_before_ = state_.report.seconds;
    if (state_.stage == kComplete) return;
    if (state_.stage < kTokenize) state_.train = state_.heldout = {};
    open_files();
    begun_ = true;
  }

  bool can_go_on() const {
    if (state_.stage == kComplete) {
      for (const fs::path& place : {directory_->result(), options_.out})
        if (fs::exists(place / "train.json") && fs::exists(place / "heldout.json")) return hash_of_sidecars(place) == state_.result_hash;
      return false;
    }
    if (state_.at.file > files_.size()) return false;
    std::error_code error;
    if (corpus_.deduplicate && state_.hashes > 0 && (fs::file_size(hashes_path(state_.stage), error) < 8 * state_.hashes || error)) return false;
    return state_.stage < kTokenize || (TokenShardWriter::can_resume(directory_->result() / "train", vocab_size(), directory_->work() / "train", state_.train) &&
                                        TokenShardWriter::can_resume(directory_->result() / "heldout", vocab_size(), directory_->work() / "heldout", state_.heldout));
  }

  std::string description() const {
    if (state_.stage == kComplete) return "it was complete";
    constexpr const char* kDone[] = {"counted", "divided", "tokenized"};
    return fmt::format("{:.1f} MB of text were {}", static_cast<double>(state_.at.bytes) / 1e6, kDone[state_.stage]);
  }

  void notice(const std::string& text, bool starts_over) const {
    if (options_.notice) options_.notice(text, starts_over);
  }

  int64_t vocab_size() const { return tokenizer_.vocabulary().size(); }
  fs::path hashes_path(int stage) const { return directory_->work() / ("hashes-" + std::to_string(stage)); }

  // The files that a stage writes, as far as the state says.
  void open_files() {
    hashes_.reset();
    if (corpus_.deduplicate) hashes_.emplace(hashes_path(state_.stage), 8 * state_.hashes);
    if (state_.stage != kTokenize) return;
    train_.emplace(directory_->result() / "train", vocab_size(), directory_->work() / "train", state_.train);
    heldout_.emplace(directory_->result() / "heldout", vocab_size(), directory_->work() / "heldout", state_.heldout);
  }

  CorpusReader reader() const {
    if (state_.hashes == 0) return CorpusReader(files_, corpus_, state_.at);
    const MappedFile seen(hashes_path(state_.stage));
    return CorpusReader(files_, corpus_, state_.at, std::span(reinterpret_cast<const uint64_t*>(seen.bytes().data()), state_.hashes));
  }

  // What was read so far is done with.
  void advance(CorpusReader& reader) {
    state_.at = reader.position();
    if (hashes_)
      for (const uint64_t hash : reader.take_hashes()) {
        hashes_->append_value(hash);
        ++state_.hashes;
      }
    if (state_.at.bytes < asked_ + kBytesPerCheckpoint) return;
    asked_ = state_.at.bytes;
    if (Clock::now() - saved_ >= std::chrono::duration<double>(options_.checkpoint_seconds)) save();
  }

  void save() {
    if (hashes_) hashes_->sync();
    if (train_) train_->sync();
    if (heldout_) heldout_->sync();
    saved_ = Clock::now();
    state_.report.seconds = seconds();
    directory_->save(Json({{"settings", settings_}, {"state", to_json(state_)}}).dump());
    std::error_code ignored;
    for (int stage = kCount; stage < state_.stage; ++stage) fs::remove(hashes_path(stage), ignored);
  }

  void progress(const CorpusReader& reader) const {
    constexpr const char* kDoing[] = {"counting", "dividing", "tokenizing"};
    if (options_.progress)
      options_.progress(kDoing[state_.stage], static_cast<double>(reader.stored_bytes_read()) / static_cast<double>(std::max<uint64_t>(stored_bytes_, 1)), static_cast<double>(reader.bytes_read()));
  }

  double seconds() const { return seconds_before_ + std::chrono::duration<double>(Clock::now() - started_).count(); }

  void go_to(Stage stage) {
    state_.stage = stage;
    state_.at = {};
    state_.hashes = asked_ = 0;
    open_files();
  }

  // The stages; false: told to stop.
  bool count() {
    DataBuildReport& report = state_.report;
    CorpusReader reader = this->reader();
    for (Document d; reader.next(d);) {
      const uint64_t hash = hash_of(d.paragraphs, 0, d.paragraphs.size());
      ++report.documents;
      report.paragraphs += static_cast<int64_t>(d.paragraphs.size());
      state_.corpus_hash = add_document(state_.corpus_hash, hash);
      state_.split.smallest = std::min(state_.split.smallest, hash);
      advance(reader);
      progress(reader);
    }
    if (stop_()) return false;
    report.text_bytes = reader.bytes_read();
    report.duplicate_paragraphs = reader.duplicates();
    report.skipped_lines = reader.skipped_lines();
    if (report.paragraphs < 2)
      throw DataError("data build", "expected text of at least two paragraphs, one to train on and one held out, got " + std::to_string(report.paragraphs));
    const uint64_t smallest = state_.split.smallest;
    state_.split = HeldoutSplit(options_.heldout, report.documents, report.paragraphs);
    const bool few = state_.split.block > 0;
    if (!few) state_.split.smallest = smallest;
    go_to(few ? kFindSmallest : kTokenize);
    return true;
  }

  bool find_smallest() {
    CorpusReader reader = this->reader();
    for (Document d; reader.next(d);) {
      for_each_unit(d, state_.split.block, [&](size_t begin, size_t end) { state_.split.smallest = std::min(state_.split.smallest, hash_of(d.paragraphs, begin, end)); });
      advance(reader);
      progress(reader);
    }
    if (stop_()) return false;
    go_to(kTokenize);
    return true;
  }

  bool tokenize_all() {
    const HeldoutSplit& split = state_.split;
    uint64_t read_hash = state_.read_hash, flushed = state_.at.bytes;
    CorpusReader reader = this->reader();
    const auto flush = [&] {
      if (!tokenize_units()) return false;
      state_.read_hash = read_hash;
      flushed = reader.bytes_read();
      advance(reader);
      return true;
    };
    for (Document d; reader.next(d);) {
      read_hash = add_document(read_hash, hash_of(d.paragraphs, 0, d.paragraphs.size()));
      bool joins = false;  // neighbouring training blocks of a document stay one document
      for_each_unit(d, split.block, [&](size_t begin, size_t end) {
        const bool out = split.is_heldout(hash_of(d.paragraphs, begin, end));
        if (joins && !out) {
          auto& last = units_.back().paragraphs;
          last.insert(last.end(), d.paragraphs.begin() + static_cast<ptrdiff_t>(begin), d.paragraphs.begin() + static_cast<ptrdiff_t>(end));
        } else {
          units_.push_back({{d.paragraphs.begin() + static_cast<ptrdiff_t>(begin), d.paragraphs.begin() + static_cast<ptrdiff_t>(end)}, out});
        }
        joins = !out;
      });
      if ((units_.size() >= kUnitsPerRound || reader.bytes_read() - flushed >= kBytesPerRound) && !flush()) return false;
      progress(reader);
    }
    if (stop_() || !flush()) return false;
    if (read_hash != state_.corpus_hash)
      throw DataError("data build", "expected the same text at every reading, got another: a file changed while it was read");
    return true;
  }

  // Appends the units that were gathered to the shards.
  bool tokenize_units() {
    if (tokenized_.size() < units_.size()) {
      tokenized_.resize(units_.size());
      failures_.resize(units_.size());
    }
    pool_.parallel_for(static_cast<int64_t>(units_.size()), [&](int64_t i, int worker) {
      const auto u = static_cast<size_t>(i), w = static_cast<size_t>(worker);
      try {
        tokenize(units_[u], tokenizer_, options_.split_sentences ? splitters_[w].get() : nullptr, sentences_[w], stop_, tokenized_[u]);
      } catch (...) {
        failures_[u] = std::current_exception();
      }
    });
    for (const std::exception_ptr& failure : failures_)
      if (failure) std::rethrow_exception(failure);
    if (given_up_) return false;  // some are incomplete
    for (size_t u = 0; u < units_.size(); ++u) write(tokenized_[u], tokenizer_.vocabulary().unk(), units_[u].heldout ? *heldout_ : *train_, state_.report);
    units_.clear();
    state_.train = train_->progress();
    state_.heldout = heldout_->progress();
    return true;
  }

  bool complete() {
    if (train_->tokens() == 0 || heldout_->tokens() == 0)
      throw DataError("data build", "expected text on both sides of the split, got " + std::to_string(train_->tokens()) + " training and " +
                                        std::to_string(heldout_->tokens()) + " held-out pieces; give more text or another --heldout");
    const ShardInfo info = shard_info(tokenizer_.vocabulary(), options_.tokenizer, state_.split.description("paragraphs"), state_.corpus_hash);
    const fs::path& result = directory_->result();
    train_->finish(info);
    heldout_->finish(info);
    write_tokenizer(result, tokenizer_.vocabulary(), options_.tokenizer);
    if (stop_()) return false;
    train_.reset();
    heldout_.reset();
    sync_directory(result);
    state_.stage = kComplete;
    state_.result_hash = hash_of_sidecars(result);
    if (directory_->state() || Clock::now() - saved_ >= std::chrono::duration<double>(options_.checkpoint_seconds)) save();
    return true;
  }

  const DataBuildOptions& options_;
  std::atomic<bool> given_up_ = false;  // stays, so that what was left out is never published
  const std::function<bool()> stop_ = [this] {
    if (!given_up_ && options_.stop && options_.stop()) given_up_ = true;
    return given_up_.load();
  };
  std::vector<CorpusFile> files_;
  const Tokenizer tokenizer_;
  ThreadPool pool_;
  CorpusOptions corpus_;
  std::optional<BuildDirectory> directory_;
  Json settings_;
  uint64_t stored_bytes_ = 0;  // of all files
  BuildState state_;
  bool begun_ = false;  // there is something to save
  const Clock::time_point started_ = Clock::now();
  Clock::time_point saved_ = started_;
  uint64_t asked_ = 0;  // bytes of text before the last look at the time
  double seconds_before_ = 0;
  std::optional<OutputFile> hashes_;
  std::optional<TokenShardWriter> train_, heldout_;
  std::vector<std::unique_ptr<SentenceSplitter>> splitters_;
  std::vector<std::vector<std::string_view>> sentences_;
  std::vector<Unit> units_;
  std::vector<TokenizedUnit> tokenized_;
  std::vector<std::exception_ptr> failures_;
};

}  // namespace

DataBuildReport build_data(const DataBuildOptions& options) { return Build(options).run(); }

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

}  // namespace electra
