// electra vocab train | inspect | check
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "kernels/core/error.h"
#include "tokenizer/unicode.h"
#include "tokenizer/vocabulary_trainer.h"
#include "trainer/cli/cli.h"
#include "trainer/cli/text_arguments.h"
#include "trainer/cli/tokenizer_arguments.h"
#include "trainer/files.h"
#include "trainer/log.h"
#include "trainer/progress.h"
#include "trainer/signals.h"

namespace electra::cli {
namespace {

constexpr uint64_t kLeastMemory = 64 << 20;  // for --memory

struct TrainArguments {
  TextArguments text;
  std::string out, temporary, algorithm = "bpe";
  uint64_t memory = 0;  // bytes; 0: half of the machine's
  VocabularyTrainerOptions options;
  TokenizerArguments tokenizer;
};

uint64_t machine_memory() { return static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(sysconf(_SC_PAGESIZE)); }

// Progress of counting a text's words, where its length is known: there is no pipe among the files.
class CountingProgress {
 public:
  CountingProgress(const std::string& command, const std::vector<CorpusFile>& files, bool quiet) : progress_(command, quiet ? Progress::Mode::quiet : Progress::Mode::automatic, true) {
    for (const CorpusFile& file : files) {
      std::error_code error;
      known_ = known_ && std::filesystem::is_regular_file(file.path, error);
      if (known_) bytes_ += std::filesystem::file_size(file.path, error);
    }
  }
  void update(const CorpusReader& reader) {
    if (known_) progress_.update("counting words", static_cast<double>(reader.stored_bytes_read()) / static_cast<double>(std::max<uint64_t>(bytes_, 1)), static_cast<double>(reader.bytes_read()));
  }

 private:
  WorkProgress progress_;
  uint64_t bytes_ = 0;
  bool known_ = true;
};

int train(const TrainArguments& args, int threads, bool quiet) {
  const SignalGuard signals;
  const auto stop = [&] { return signals.received() != 0; };
  VocabularyTrainerOptions options = args.options;
  options.tokenizer = args.tokenizer.options();
  options.algorithm = args.algorithm == "bpe" ? VocabularyAlgorithm::bpe : VocabularyAlgorithm::top_down;
  options.threads = threads;
  options.memory = args.memory > 0 ? args.memory : machine_memory() / 2;
  options.folder = args.temporary.empty() ? std::filesystem::path(args.out).parent_path() : std::filesystem::path(args.temporary);
  options.stop = stop;
  std::optional<WorkProgress> progress;  // of what follows counting
  options.progress = [&](const char* stage, double share) { progress->update(stage, share); };
  VocabularyTrainer trainer(options);
  CorpusOptions corpus = args.text.options();
  corpus.stop = stop;
  const std::vector<CorpusFile> files = corpus_files(args.text.texts);
  CorpusReader reader(files, corpus);
  {
    CountingProgress counting("vocab train", files, quiet);
    for (Document d; reader.next(d); counting.update(reader))
      for (std::string& paragraph : d.paragraphs) trainer.add(std::move(paragraph));
  }
  if (stop()) return signals.exit_status();
  warn_of_skipped_lines("vocab train", reader.skipped_lines());
  progress.emplace("vocab train", quiet ? Progress::Mode::quiet : Progress::Mode::automatic, false);
  const std::vector<std::string> tokens = trainer.train();
  progress.reset();
  if (stop()) return signals.exit_status();
  if (trainer.spilled()) log::info("vocab train: words and pairs beyond --memory were kept in temporary files");
  if (static_cast<int64_t>(tokens.size()) < trainer.size())
    log::warning(fmt::format("[vocab train] expected {} entries, the text yields {}", trainer.size(), tokens.size()));
  std::string content;
  for (const std::string& token : tokens) content.append(token).push_back('\n');
  replace_file(args.out, content);
  fmt::print("{}: {} entries from {} distinct words\n", args.out, tokens.size(), trainer.distinct_words());
  return 0;
}

constexpr size_t kShown = 5;  // of what is longest or most frequent
constexpr size_t kMostUnknownWords = 1 << 20;  // distinct ones that are told apart

constexpr std::string_view kClasses[] = {"special", "unused", "characters", "continuing characters", "words and first pieces", "continuing pieces"};

// Index of kClasses.
size_t class_of(const std::string& token) {
  if (token.size() > 2 && token.front() == '[' && token.back() == ']') return token.starts_with("[unused") ? 1 : 0;
  const bool continuing = token.starts_with("##") && token.size() > 2;
  size_t at = continuing ? 2 : 0;
  unicode::decode(token, at);
  return (at == token.size() ? 2 : 4) + continuing;
}

int64_t characters_of(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

template <class Key> std::vector<std::pair<Key, int64_t>> most_frequent(const std::map<Key, int64_t>& counts) {
  std::vector<std::pair<Key, int64_t>> out(counts.begin(), counts.end());
  std::stable_sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  out.resize(std::min(out.size(), kShown));
  return out;
}

// What a vocabulary makes of a text.
class Coverage {
 public:
  explicit Coverage(const Tokenizer& tokenizer) : tokenizer_(tokenizer), used_(static_cast<size_t>(tokenizer.vocabulary().size())) {}

  void add(const std::string& text) {
    const int32_t unk = tokenizer_.vocabulary().unk();
    tokenizer_.encode(text, encoding_);
    characters += characters_of(text);
    pieces += static_cast<int64_t>(encoding_.ids.size());
    for (size_t k = 0; k < encoding_.ids.size(); ++k) {
      const bool first = k == 0 || encoding_.word_ids[k] != encoding_.word_ids[k - 1], last = k + 1 == encoding_.ids.size() || encoding_.word_ids[k] != encoding_.word_ids[k + 1];
      words += first;
      used_[static_cast<size_t>(encoding_.ids[k])] = true;
      if (encoding_.ids[k] == unk) add_unknown(text.substr(encoding_.offsets[k].begin, encoding_.offsets[k].end - encoding_.offsets[k].begin));
      else whole += first && last;
    }
  }
  int64_t used() const { return std::count(used_.begin(), used_.end(), true); }

  int64_t characters = 0, words = 0, pieces = 0, whole = 0, unknown = 0;
  std::map<std::string, int64_t> unknown_words, missing;  // words as typed, and the characters in them that have no piece

 private:
  void add_unknown(const std::string& word) {
    ++unknown;
    if (const auto it = unknown_words.find(word); it != unknown_words.end()) ++it->second;
    else if (unknown_words.size() < kMostUnknownWords) unknown_words.emplace(word, 1);
    for (size_t at = 0, begin = 0; at < word.size(); begin = at) {
      unicode::decode(word, at);
      const std::string character = word.substr(begin, at - begin);
      const auto [it, is_new] = is_missing_.emplace(character, false);
      if (is_new) {
        tokenizer_.encode(character, scratch_);
        it->second = std::count(scratch_.ids.begin(), scratch_.ids.end(), tokenizer_.vocabulary().unk()) > 0;
      }
      if (it->second) ++missing[character];
    }
  }

  const Tokenizer& tokenizer_;
  Encoding encoding_, scratch_;
  std::vector<bool> used_;
  std::map<std::string, bool> is_missing_;
};

int inspect(const std::string& file, const TextArguments& text, const TokenizerArguments& arguments, bool as_json, bool quiet) {
  const SignalGuard signals;
  Vocabulary vocabulary = Vocabulary::load(file);
  int64_t classes[std::size(kClasses)] = {};
  int64_t characters = 0;
  std::vector<std::string> longest[2];  // that begin a word, that continue one
  for (const std::string& token : vocabulary.tokens()) {
    const size_t k = class_of(token);
    ++classes[k];
    if (k < 2) continue;
    characters += characters_of(token) - (k % 2 ? 2 : 0);
    longest[k % 2].push_back(token);
  }
  for (std::vector<std::string>& tokens : longest) {
    std::stable_sort(tokens.begin(), tokens.end(), [](const auto& a, const auto& b) { return characters_of(a) > characters_of(b); });
    tokens.resize(std::min(tokens.size(), kShown));
  }
  const auto share = [](int64_t part, int64_t of) { return static_cast<double>(part) / static_cast<double>(std::max<int64_t>(of, 1)); };
  const int64_t size = vocabulary.size();
  const double mean = share(characters, size - classes[0] - classes[1]);
  const std::string sha = vocabulary.sha256();
  const Tokenizer tokenizer(std::move(vocabulary), arguments.options());
  Coverage c(tokenizer);
  // Everything that can fail comes before the first line of output.
  if (!text.texts.empty()) {
    CorpusOptions corpus = text.options();
    corpus.stop = [&] { return signals.received() != 0; };
    const std::vector<CorpusFile> files = corpus_files(text.texts);
    CountingProgress progress("vocab inspect", files, quiet);
    CorpusReader reader(files, corpus);
    for (Document d; reader.next(d); progress.update(reader))
      for (const std::string& paragraph : d.paragraphs) c.add(paragraph);
    if (reader.stopped()) return signals.exit_status();
    warn_of_skipped_lines("vocab inspect", reader.skipped_lines());
  }
  const auto unknown_words = most_frequent(c.unknown_words), missing = most_frequent(c.missing);
  if (as_json) {
    nlohmann::ordered_json json = {{"entries", size}, {"sha256", sha}};
    for (size_t k = 0; k < std::size(kClasses); ++k) json["classes"][std::string(kClasses[k])] = classes[k];
    json["characters_per_entry"] = mean;
    json["longest"] = {{"first", longest[0]}, {"continuing", longest[1]}};
    if (!text.texts.empty())
      json["text"] = {{"words", c.words}, {"pieces", c.pieces}, {"pieces_per_word", share(c.pieces, c.words)}, {"characters_per_piece", share(c.characters, c.pieces)},
                      {"whole_words", c.whole}, {"unknown_words", c.unknown}, {"entries_used", c.used()}, {"most_frequent_unknown", unknown_words}, {"missing_characters", missing}};
    fmt::print("{}\n", json.dump());
    return 0;
  }
  const auto listed = [](const std::vector<std::pair<std::string, int64_t>>& counts) {
    std::string out;
    for (const auto& [name, count] : counts) out += fmt::format("{}{} ({})", out.empty() ? "" : ", ", name, count);
    return out;
  };
  fmt::print("entries                 {}\nsha256                  {}\n", size, sha);
  for (size_t k = 0; k < std::size(kClasses); ++k)
    if (classes[k] > 0) fmt::print("{:<24}{}\n", kClasses[k], classes[k]);
  fmt::print("mean length             {:.2f} characters\n", mean);
  fmt::print("longest                 {}\n", fmt::join(longest[0], ", "));
  if (!longest[1].empty()) fmt::print("longest inside          {}\n", fmt::join(longest[1], ", "));
  if (text.texts.empty() || c.words == 0) return 0;
  fmt::print("text                    {} words, {} pieces, {:.3f} pieces a word, {:.2f} characters a piece\n", c.words, c.pieces, share(c.pieces, c.words), share(c.characters, c.pieces));
  fmt::print("whole words             {} ({:.2f} %)\n", c.whole, 100 * share(c.whole, c.words));
  fmt::print("unknown words           {} ({:.4f} %){}{}\n", c.unknown, 100 * share(c.unknown, c.words), unknown_words.empty() ? "" : ": ", listed(unknown_words));
  if (!missing.empty()) fmt::print("no piece for            {}\n", listed(missing));
  fmt::print("entries used            {} ({:.2f} %)\n", c.used(), 100 * share(c.used(), size));
  return 0;
}

int check(const std::string& file) {
  const std::vector<std::string> errors = Vocabulary::errors(file);
  if (!errors.empty()) {  // a verdict, not a failure of the command
    fmt::print("{}: bad, {} errors\n{}\n", file, errors.size(), fmt::join(errors, "\n"));
    return 1;
  }
  const Vocabulary vocabulary = Vocabulary::load(file);
  fmt::print("{}: good, {} entries, sha256 {}\n", file, vocabulary.size(), vocabulary.sha256());
  return 0;
}

}  // namespace

void register_vocab(CLI::App& root, Invocation& invocation) {
  CLI::App* group = add_group(root, "vocab", "train a vocabulary from text, look at one, check one", "electra vocab train corpus.txt --size 8192 --out vocab.txt");

  const auto train_args = std::make_shared<TrainArguments>();
  CLI::App* command = add_command(*group, "train", "learn word pieces from text", "electra vocab train corpus.txt --size 8192 --out vocab.txt", invocation);
  add_text_arguments(*command, train_args->text)->required();
  command->add_option("--out", train_args->out, "the vocabulary file to write")->required()->option_text("FILE");
  command->add_option("--size", train_args->options.size, "entries; fewer where the text yields no more")->check(CLI::Range(kMinVocabularySize, kMaxVocabularySize))->capture_default_str()->option_text("N");
  command->add_option("--min-frequency", train_args->options.min_frequency, "occurrences that a piece needs")->check(CLI::PositiveNumber)->capture_default_str();
  command->add_option("--alphabet-limit", train_args->options.alphabet_limit, "distinct characters kept, the most frequent; others are left out of their words")->check(CLI::PositiveNumber)->capture_default_str()->option_text("N");
  command->add_option("--reserved", train_args->options.reserved, "an entry to have in any case, behind the special tokens; may be given several times")->allow_extra_args(false)->option_text("ENTRY");
  command->add_option("--unused", train_args->options.unused, "[unusedN] entries behind these")->check(CLI::NonNegativeNumber)->capture_default_str()->option_text("N");
  command->add_flag("--exact-size", train_args->options.exact_size, "fill up with [unusedN] entries where the text yields fewer than --size");
  command->add_option("--multiple-of", train_args->options.multiple_of, "round --size up to a multiple of this, 64 for example, and fill up to one with [unusedN] entries")->check(CLI::Range(int64_t{1}, kMaxVocabularySize))->capture_default_str()->option_text("N");
  command->add_option("--memory", train_args->memory, "what words and pairs may take, at least 64M; the rest goes to temporary files without a name. Half of the machine's memory by default")
      ->transform(CLI::AsSizeValue(false))
      ->check(CLI::Range(kLeastMemory, uint64_t{1} << 50, "64M to 1024T"))
      ->option_text("BYTES|64M|8G");
  command->add_option("--temporary", train_args->temporary, "the folder for these; by default that of --out")->option_text("DIR");
  command->add_option("--algorithm", train_args->algorithm, "bpe merges the most frequent pair of pieces; topdown keeps frequent words, then parts of the others")
      ->check(CLI::IsMember({"bpe", "topdown"}))
      ->capture_default_str()
      ->option_text("bpe|topdown");
  add_tokenizer_arguments(*command, train_args->tokenizer);
  command->callback([train_args, &invocation] { invocation.action = [train_args, &invocation] { return train(*train_args, thread_count(invocation), invocation.quiet); }; });

  struct InspectArguments {
    std::string file;
    TextArguments text;
    TokenizerArguments tokenizer;
    bool json = false;
  };
  const auto inspect_args = std::make_shared<InspectArguments>();
  command = add_command(*group, "inspect", "entries by class, the longest, and what they make of a text", "electra vocab inspect vocab.txt corpus.txt", invocation);
  command->add_option("file", inspect_args->file, "a vocabulary")->required()->option_text("FILE");
  add_text_arguments(*command, inspect_args->text);
  add_tokenizer_arguments(*command, inspect_args->tokenizer);
  command->add_flag("--json", inspect_args->json, "one JSON object");
  command->callback([inspect_args, &invocation] {
    invocation.action = [inspect_args, &invocation] { return inspect(inspect_args->file, inspect_args->text, inspect_args->tokenizer, inspect_args->json, invocation.quiet); };
  });

  const auto file = std::make_shared<std::string>();
  command = add_command(*group, "check", "say whether a vocabulary can be used, or every reason why not with its line; exit status 1 then", "electra vocab check vocab.txt", invocation);
  command->add_option("file", *file, "a vocabulary")->required()->option_text("FILE");
  command->callback([file, &invocation] { invocation.action = [file] { return check(*file); }; });
}

}  // namespace electra::cli
