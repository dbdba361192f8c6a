#include "tokenizer/vocabulary_trainer.h"

#include <malloc.h>

#include <algorithm>
#include <bit>
#include <exception>
#include <unordered_map>
#include <unordered_set>

#include "kernels/core/error.h"
#include "kernels/core/thread_pool.h"
#include "tokenizer/pair_merger.h"
#include "tokenizer/top_down.h"
#include "tokenizer/unicode.h"
#include "tokenizer/word_counts.h"

namespace electra {
namespace {

constexpr const char* kSpecial[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
static_assert(kMinVocabularySize == std::size(kSpecial) + 1);

constexpr size_t kBatchBytes = 1 << 20;  // of text that a thread has to count at once
constexpr int64_t kWordsPerReport = 4096;
constexpr size_t kPartBytes = 64 << 10;  // of it that it takes at a time
// What the program takes whatever the text, and parts of the rest of the memory: for tables of words (three times as much while they
// grow), for pairs and the cells of words (as much again for what is mapped of them), and for the queue, with what a candidate takes.
constexpr uint64_t kProgramBytes = 24 << 20, kTableShare = 6, kSpaceShare = 4, kQueueShare = 16, kCandidateBytes = 32, kMostCandidates = 1 << 20;

std::string piece_of(char32_t c, bool first) {
  std::string piece = first ? "" : "##";
  unicode::append_utf8(c, piece);
  return piece;
}

int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

std::string unused_entry(int64_t number) { return "[unused" + std::to_string(number) + "]"; }

// "" where it can be an entry.
std::string fault_of(const std::string& entry) {
  if (entry.empty()) return "an empty one";
  if (unicode::find_invalid_utf8(entry) != unicode::kValid) return "one that is not UTF-8";
  for (size_t at = 0; at < entry.size();)
    if (const char32_t c = unicode::decode(entry, at); c == 0 || unicode::is_white_space(c)) return "'" + entry + "', with white space";
  return "";
}

}  // namespace

VocabularyTrainer::VocabularyTrainer(const VocabularyTrainerOptions& options)
    : options_(options), size_(options.size), memory_(std::max(options.memory - std::min(options.memory, kProgramBytes), options.memory / 4)), pre_tokenizer_(options.tokenizer), pool_(std::make_unique<ThreadPool>(options.threads)) {
  const auto threads = static_cast<uint64_t>(pool_->threads());
  for (uint64_t i = 0; i < threads; ++i) counters_.emplace_back(pre_tokenizer_, memory_ / kTableShare / threads, options.folder);
  if (options.size < kMinVocabularySize || options.size > kMaxVocabularySize)
    throw ConfigError("vocab train", "expected a size of " + std::to_string(kMinVocabularySize) + " to " + std::to_string(kMaxVocabularySize) +
                                         " entries, got " + std::to_string(options.size));
  const auto at_least = [](const char* name, int64_t least, int64_t value) {
    if (value < least) throw ConfigError("vocab train", std::string("expected ") + name + " of at least " + std::to_string(least) + ", got " + std::to_string(value));
  };
  at_least("a least frequency", 1, options.min_frequency);
  at_least("an alphabet limit", 1, options.alphabet_limit);
  at_least("a number of unused entries", 0, options.unused);
  at_least("a multiple", 1, options.multiple_of);
  size_ = round_up(options.size, std::min(options.multiple_of, kMaxVocabularySize));
  const int64_t fixed = static_cast<int64_t>(std::size(kSpecial) + options.reserved.size()) + std::min(options.unused, kMaxVocabularySize);
  if (size_ > kMaxVocabularySize || fixed >= size_)
    throw ConfigError("vocab train", "expected a size of " + std::to_string(fixed + 1) + " to " + std::to_string(kMaxVocabularySize) + " entries, " + std::to_string(fixed) +
                                         " of them special, reserved or unused, got " + std::to_string(size_));
  fixed_.assign(std::begin(kSpecial), std::end(kSpecial));
  fixed_.insert(fixed_.end(), options.reserved.begin(), options.reserved.end());
  for (int64_t i = 0; i < options.unused; ++i) fixed_.push_back(unused_entry(i));
  std::unordered_set<std::string_view> seen;
  for (const std::string& entry : fixed_) {
    const std::string fault = fault_of(entry);
    if (!fault.empty()) throw ConfigError("vocab train", "expected a reserved entry without white space, got " + fault);
    if (!seen.insert(entry).second) throw ConfigError("vocab train", "expected each reserved entry once, got '" + entry + "' again");
  }
}

VocabularyTrainer::~VocabularyTrainer() = default;

void VocabularyTrainer::add(std::string text) {
  pending_bytes_ += text.size();
  pending_.push_back(std::move(text));
  if (pending_bytes_ >= kBatchBytes * counters_.size()) count_pending();
}

void VocabularyTrainer::count_pending() {
  std::vector<size_t> begins;  // of parts
  for (size_t i = 0, bytes = kPartBytes; i < pending_.size(); bytes += pending_[i++].size())
    if (bytes >= kPartBytes) {
      begins.push_back(i);
      bytes = 0;
    }
  begins.push_back(pending_.size());
  std::vector<std::exception_ptr> errors(counters_.size());
  pool_->parallel_for(static_cast<int64_t>(begins.size()) - 1, [&](int64_t part, int worker) {
    try {
      for (size_t i = begins[static_cast<size_t>(part)]; i < begins[static_cast<size_t>(part) + 1]; ++i) counters_[static_cast<size_t>(worker)].add(pending_[i]);
    } catch (...) {
      errors[static_cast<size_t>(worker)] = std::current_exception();
    }
  });
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
  pending_.clear();
  pending_bytes_ = 0;
}

// A value for each code point, all 0 at first; in pages, since a text has few.
class CodePointMap {
 public:
  int64_t& operator[](char32_t c) {
    std::vector<int64_t>& page = pages_[c / kPage];
    if (page.empty()) page.resize(kPage);
    return page[c % kPage];
  }
  int64_t get(char32_t c) const { return pages_[c / kPage].empty() ? 0 : pages_[c / kPage][c % kPage]; }
  // Those that have a value, in order.
  std::vector<char32_t> code_points() const {
    std::vector<char32_t> out;
    for (char32_t c = 0; c < kCodePoints; ++c)
      if (get(c) != 0) out.push_back(c);
    return out;
  }

 private:
  static constexpr char32_t kCodePoints = 0x110000, kPage = 256;
  std::vector<std::vector<int64_t>> pages_{kCodePoints / kPage};
};

namespace {

// The most frequent characters, at most `limit`, in code point order.
std::vector<char32_t> most_frequent(const CodePointMap& frequency, int64_t limit) {
  std::vector<char32_t> characters = frequency.code_points();
  if (static_cast<int64_t>(characters.size()) <= limit) return characters;
  std::stable_sort(characters.begin(), characters.end(), [&](char32_t a, char32_t b) { return frequency.get(a) > frequency.get(b); });
  characters.resize(static_cast<size_t>(limit));
  std::sort(characters.begin(), characters.end());
  return characters;
}

}  // namespace

void VocabularyTrainer::report(const char* stage, int64_t done, int64_t of) const {
  if (options_.progress) options_.progress(stage, static_cast<double>(done) / static_cast<double>(std::max<int64_t>(of, 1)));
}

std::vector<std::string> VocabularyTrainer::train() {
  count_pending();
  const auto has_runs = [](const WordCounter& counter) { return !counter.runs().empty(); };
  spilled_ = std::any_of(counters_.begin(), counters_.end(), has_runs);
  if (spilled_)
    for (WordCounter& counter : counters_) counter.spill();  // pairs need the memory
#if defined(__GLIBC__)
  malloc_trim(0);  // what the tables took
#endif
  CodePointMap frequency, inside;  // of characters in words, and of those that do not begin one
  distinct_words_ = 0;
  const bool counted = visit_word_counts(counters_, [&](std::string_view word, int64_t count) {
    if (distinct_words_++ % kWordsPerReport == 0 && stopped()) return false;
    for (size_t at = 0; at < word.size();) {
      const bool first = at == 0;
      const char32_t c = unicode::decode(word, at);
      frequency[c] += count;
      if (!first) inside[c] += count;
    }
    return true;
  });
  if (!counted) return {};
  if (distinct_words_ == 0) throw DataError("vocab train", "expected text with at least one word, got none");
  std::vector<std::string> tokens = options_.algorithm == VocabularyAlgorithm::bpe ? merge_pairs(frequency, inside) : learn_top_down(frequency);
  if (tokens.empty()) return {};
  const int64_t filled = options_.exact_size ? size_ : round_up(static_cast<int64_t>(tokens.size()), options_.multiple_of);
  const std::unordered_set<std::string> taken(tokens.begin(), tokens.end());
  for (int64_t number = 0; static_cast<int64_t>(tokens.size()) < filled; ++number)
    if (std::string entry = unused_entry(number); !taken.contains(entry)) tokens.push_back(std::move(entry));
  return tokens;
}

std::vector<std::string> VocabularyTrainer::merge_pairs(const CodePointMap& frequency, const CodePointMap& inside) {
  // Every character can begin a word; inside of one stand those that did. Where not even they fit, the most frequent pieces are kept.
  struct Piece {
    char32_t character;
    bool first;
    int64_t count;
    std::string text;
  };
  std::unordered_map<std::string_view, int32_t> fixed;
  for (size_t i = 0; i < fixed_.size(); ++i) fixed.emplace(fixed_[i], static_cast<int32_t>(i));
  std::vector<Piece> pieces;
  const std::vector<char32_t> characters = most_frequent(frequency, options_.alphabet_limit);
  for (const bool first : {true, false})
    for (const char32_t c : characters)
      if (first || inside.get(c) > 0) pieces.push_back({c, first, first ? frequency.get(c) - inside.get(c) : inside.get(c), piece_of(c, first)});
  const auto room = static_cast<size_t>(size_) - fixed_.size();
  const auto is_new = [&](const Piece& piece) { return !fixed.contains(piece.text); };
  if (const auto wanted = static_cast<size_t>(std::count_if(pieces.begin(), pieces.end(), is_new)); wanted > room) {
    std::vector<int64_t> counts;
    for (const Piece& piece : pieces)
      if (is_new(piece)) counts.push_back(piece.count);
    std::nth_element(counts.begin(), counts.begin() + static_cast<ptrdiff_t>(room - 1), counts.end(), std::greater<>());
    const int64_t least = counts[room - 1];
    auto ties = static_cast<int64_t>(room) - std::count_if(counts.begin(), counts.end(), [&](int64_t n) { return n > least; });
    std::erase_if(pieces, [&](const Piece& piece) { return is_new(piece) && (piece.count < least || (piece.count == least && ties-- <= 0)); });
  }
  std::vector<std::string> tokens = fixed_;
  CodePointMap first_id, inside_id;  // 1 + id; 0: none
  for (Piece& piece : pieces) {
    const auto known = fixed.find(piece.text);
    (piece.first ? first_id : inside_id)[piece.character] = 1 + (known != fixed.end() ? known->second : static_cast<int64_t>(tokens.size()));
    if (known == fixed.end()) tokens.push_back(std::move(piece.text));
  }

  ScratchSpace space(memory_ / kSpaceShare, options_.folder);
  const auto first_merge = static_cast<int64_t>(tokens.size());
  PairMerger merger(std::move(tokens), space, std::clamp<uint64_t>(memory_ / kQueueShare / kCandidateBytes, 1, kMostCandidates));
  std::vector<int32_t> word_pieces;
  int64_t words = 0;
  const bool split = visit_word_counts(counters_, [&](std::string_view word, int64_t count) {
    if (words++ % kWordsPerReport == 0) {
      report("splitting words", words - 1, distinct_words_);
      if (stopped()) return false;
    }
    word_pieces.clear();
    for (size_t at = 0; at < word.size();) {
      const CodePointMap& ids = at == 0 ? first_id : inside_id;
      if (const int64_t id = ids.get(unicode::decode(word, at)); id > 0) word_pieces.push_back(static_cast<int32_t>(id - 1));  // others are left out
    }
    merger.add_word(word_pieces, count);
    return true;
  });
  if (!split) return {};
  const auto stop = [&](int64_t made) {
    report("merging pairs", made - first_merge, size_ - first_merge);
    return stopped();
  };
  if (!merger.run(size_, options_.min_frequency, stop)) return {};
  spilled_ = spilled_ || space.on_disk();
  return merger.tokens();
}

std::vector<std::string> VocabularyTrainer::learn_top_down(const CodePointMap& frequency) {
  const auto room = static_cast<size_t>(size_) - fixed_.size();
  const std::vector<char32_t> characters = most_frequent(frequency, std::clamp<int64_t>(static_cast<int64_t>(room / 2), 1, options_.alphabet_limit));
  CodePointMap known;
  for (const char32_t c : characters) known[c] = 1;
  const std::unordered_set<std::string_view> fixed(fixed_.begin(), fixed_.end());

  std::vector<std::pair<int64_t, std::string>> words;
  const auto more_frequent = [](const auto& a, const auto& b) { return a.first != b.first ? a.first > b.first : a.second < b.second; };
  const auto keep_most_frequent = [&] {
    if (words.size() <= kMostTopDownWords) return;
    std::nth_element(words.begin(), words.begin() + kMostTopDownWords, words.end(), more_frequent);
    words.resize(kMostTopDownWords);
  };
  int64_t visited = 0;
  const bool chosen = visit_word_counts(counters_, [&](std::string_view word, int64_t count) {
    if (visited++ % kWordsPerReport == 0 && stopped()) return false;
    size_t length = 0;
    bool usable = !fixed.contains(word);
    for (size_t at = 0; usable && at < word.size(); ++length) usable = known.get(unicode::decode(word, at)) != 0 && length < TopDownLearner::kMostCharacters;
    if (usable) words.emplace_back(count, word);
    if (words.size() == 2 * kMostTopDownWords) keep_most_frequent();
    return true;
  });
  if (!chosen) return {};
  keep_most_frequent();
  TopDownLearner learner;
  for (const auto& [count, word] : words) learner.add_word(word, count);
  words = {};
  learner.build();

  // The vocabulary of a threshold, as long as it comes; none where it was stopped.
  const auto vocabulary_of = [&](int64_t threshold) {
    std::vector<TopDownLearner::Piece> pieces = learner.learn(threshold, options_.stop);
    if (stopped()) return std::vector<std::string>();
    std::vector<std::string> tokens = fixed_;
    std::unordered_set<std::string> taken(tokens.begin(), tokens.end());
    const auto take = [&](std::string token) {
      if (taken.insert(token).second) tokens.push_back(std::move(token));
    };
    for (const char32_t c : characters) take(piece_of(c, true));
    for (TopDownLearner::Piece& piece : pieces) take(std::move(piece.text));
    for (const char32_t c : characters) take(piece_of(c, false));
    return tokens;
  };
  int64_t low = options_.min_frequency, high = std::max(low, learner.most() + 1);  // what high keeps fits, as far as the alphabet does
  int64_t tries = 0;
  const int64_t most_tries = std::bit_width(static_cast<uint64_t>(high - low)) + 2;
  while (low < high) {
    report("learning pieces", tries++, most_tries);
    const int64_t middle = low + (high - low) / 2;
    const std::vector<std::string> tokens = vocabulary_of(middle);
    if (tokens.empty()) return {};
    (static_cast<int64_t>(tokens.size()) <= size_ ? high : low) = static_cast<int64_t>(tokens.size()) <= size_ ? middle : middle + 1;
  }
  std::vector<std::string> tokens = vocabulary_of(high);
  if (high > options_.min_frequency && static_cast<int64_t>(tokens.size()) < size_) {
    const std::unordered_set<std::string> taken(tokens.begin(), tokens.end());
    for (std::string& token : vocabulary_of(high - 1))
      if (!taken.contains(token)) tokens.push_back(std::move(token));
  }
  if (static_cast<int64_t>(tokens.size()) > size_) tokens.resize(static_cast<size_t>(size_));
  return tokens;
}

}  // namespace electra
