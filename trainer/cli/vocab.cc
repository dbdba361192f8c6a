// electra vocab train | inspect | check
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <unistd.h>

#include <algorithm>
#include <filesystem>
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

// Bytes of the files as they are stored; none where one is a pipe.
std::optional<uint64_t> stored_bytes(const std::vector<CorpusFile>& files) {
  uint64_t bytes = 0;
  for (const CorpusFile& file : files) {
    std::error_code error;
    if (!std::filesystem::is_regular_file(file.path, error)) return std::nullopt;
    bytes += std::filesystem::file_size(file.path, error);
    if (error) return std::nullopt;
  }
  return bytes;
}

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
  const Progress::Mode mode = quiet ? Progress::Mode::quiet : Progress::Mode::automatic;
  std::optional<WorkProgress> progress(std::in_place, "vocab train", mode, true);  // of counting, then of what follows
  options.progress = [&](const char* stage, double share) { progress->update(stage, share); };
  VocabularyTrainer trainer(options);
  CorpusOptions corpus = args.text.options();
  corpus.stop = stop;
  const std::vector<CorpusFile> files = corpus_files(args.text.texts);
  const std::optional<uint64_t> bytes = stored_bytes(files);
  CorpusReader reader(files, corpus);
  for (Document d; reader.next(d);) {
    for (std::string& paragraph : d.paragraphs) trainer.add(std::move(paragraph));
    if (bytes) progress->update("counting words", static_cast<double>(reader.stored_bytes_read()) / static_cast<double>(std::max<uint64_t>(*bytes, 1)), static_cast<double>(reader.bytes_read()));
  }
  if (stop()) return signals.exit_status();
  warn_of_skipped_lines("vocab train", reader.skipped_lines());
  progress.emplace("vocab train", mode, false);
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

std::string_view class_of(const std::string& token) {
  if (token.size() > 2 && token.front() == '[' && token.back() == ']') return token.rfind("[unused", 0) == 0 ? "unused" : "special";
  if (token.rfind("##", 0) == 0 && token.size() > 2) return "continuing piece";
  size_t at = 0;
  unicode::decode(token, at);
  return at == token.size() ? "character" : "word or first piece";
}

int inspect(const std::string& file, const TextArguments& text, const TokenizerArguments& arguments) {
  Vocabulary vocabulary = Vocabulary::load(file);
  std::map<std::string_view, int64_t> classes;
  std::vector<std::string> longest = vocabulary.tokens();
  for (const std::string& token : vocabulary.tokens()) ++classes[class_of(token)];
  std::stable_sort(longest.begin(), longest.end(), [](const auto& a, const auto& b) { return a.size() > b.size(); });
  longest.resize(std::min<size_t>(longest.size(), 5));
  // Everything that can fail comes before the first line of output.
  int64_t words = 0, pieces = 0, unknown = 0;
  const int32_t unk = vocabulary.unk(), size = vocabulary.size();
  const std::string sha = vocabulary.sha256();
  if (!text.texts.empty()) {
    const Tokenizer tokenizer(std::move(vocabulary), arguments.options());
    CorpusReader reader(corpus_files(text.texts), text.options());
    Encoding encoding;
    for (Document d; reader.next(d);)
      for (const std::string& paragraph : d.paragraphs) {
        tokenizer.encode(paragraph, encoding);
        pieces += static_cast<int64_t>(encoding.ids.size());
        words += encoding.word_ids.empty() ? 0 : encoding.word_ids.back() + 1;
        unknown += std::count(encoding.ids.begin(), encoding.ids.end(), unk);
      }
    warn_of_skipped_lines("vocab inspect", reader.skipped_lines());
  }
  fmt::print("entries           {}\nsha256            {}\n", size, sha);
  for (const auto& [name, count] : classes) fmt::print("{:<18}{}\n", name, count);
  fmt::print("longest           {}\n", fmt::join(longest, ", "));
  if (!text.texts.empty() && words > 0)
    fmt::print("text              {} words, {} pieces, {:.3f} pieces a word, {} [UNK] ({:.4f} %)\n", words, pieces,
               static_cast<double>(pieces) / static_cast<double>(words), unknown, 100 * static_cast<double>(unknown) / static_cast<double>(std::max<int64_t>(pieces, 1)));
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
  };
  const auto inspect_args = std::make_shared<InspectArguments>();
  command = add_command(*group, "inspect", "entries by class, the longest, and coverage of a text", "electra vocab inspect vocab.txt corpus.txt", invocation);
  command->add_option("file", inspect_args->file, "a vocabulary")->required()->option_text("FILE");
  add_text_arguments(*command, inspect_args->text);
  add_tokenizer_arguments(*command, inspect_args->tokenizer);
  command->callback([inspect_args, &invocation] {
    invocation.action = [inspect_args] { return inspect(inspect_args->file, inspect_args->text, inspect_args->tokenizer); };
  });

  const auto file = std::make_shared<std::string>();
  command = add_command(*group, "check", "say whether a vocabulary can be used, or every reason why not with its line; exit status 1 then", "electra vocab check vocab.txt", invocation);
  command->add_option("file", *file, "a vocabulary")->required()->option_text("FILE");
  command->callback([file, &invocation] { invocation.action = [file] { return check(*file); }; });
}

}  // namespace electra::cli
