#include "tokenizer/vocabulary_trainer.h"

#include <algorithm>
#include <queue>
#include <unordered_set>

#include "kernels/core/error.h"
#include "tokenizer/unicode.h"

namespace electra {
namespace {

constexpr const char* kSpecial[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
static_assert(kMinVocabularySize == std::size(kSpecial) + 1);

struct TrainingWord {
  std::vector<int32_t> pieces;
  int64_t count;
};

uint64_t pair_key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

struct Pair {
  int64_t count = 0;
  std::vector<int32_t> words;  // that have contained the pair; a word may stand here twice
};

// A pair with the count it had when it was queued; the queue holds stale ones, which are dropped or queued again when met.
struct Candidate {
  int64_t count;
  int32_t left, right;
};

class Merger {
 public:
  Merger(std::vector<std::string> tokens, std::vector<TrainingWord> words)
      : tokens_(std::move(tokens)), words_(std::move(words)), queue_(Less{&tokens_}) {
    for (size_t i = 0; i < tokens_.size(); ++i) ids_.emplace(tokens_[i], static_cast<int32_t>(i));
    for (size_t w = 0; w < words_.size(); ++w)
      for (size_t i = 0; i + 1 < words_[w].pieces.size(); ++i)
        change(words_[w].pieces[i], words_[w].pieces[i + 1], words_[w].count, static_cast<int32_t>(w));
    for (const auto& [key, pair] : pairs_) push(key, pair.count);
  }

  std::vector<std::string> run(int64_t size, int64_t min_frequency, const std::function<bool()>& stop) {
    while (static_cast<int64_t>(tokens_.size()) < size && !queue_.empty()) {
      if (stop && stop()) return {};
      const Candidate top = queue_.top();
      queue_.pop();
      const uint64_t key = pair_key(top.left, top.right);
      const int64_t count = pairs_[key].count;
      if (count < min_frequency) continue;
      if (count != top.count) {
        push(key, count);
        continue;
      }
      merge(top.left, top.right);
    }
    return std::move(tokens_);
  }

 private:
  struct Less {
    const std::vector<std::string>* tokens;
    bool operator()(const Candidate& a, const Candidate& b) const {
      if (a.count != b.count) return a.count < b.count;
      const auto text = [&](int32_t id) -> const std::string& { return (*tokens)[static_cast<size_t>(id)]; };
      if (a.left != b.left) return text(a.left) > text(b.left);
      return text(a.right) > text(b.right);
    }
  };

  void push(uint64_t key, int64_t count) {
    if (count > 0) queue_.push({count, static_cast<int32_t>(key >> 32), static_cast<int32_t>(key & 0xffffffffu)});
  }

  void change(int32_t left, int32_t right, int64_t by, int32_t word) {
    Pair& pair = pairs_[pair_key(left, right)];
    pair.count += by;
    if (by > 0) pair.words.push_back(word);
  }

  int32_t id_of(const std::string& token) {
    const auto [it, inserted] = ids_.emplace(token, static_cast<int32_t>(tokens_.size()));
    if (inserted) tokens_.push_back(token);
    return it->second;
  }

  void merge(int32_t left, int32_t right) {
    const std::string& second = tokens_[static_cast<size_t>(right)];
    const int32_t merged = id_of(tokens_[static_cast<size_t>(left)] + second.substr(second.rfind("##", 0) == 0 ? 2 : 0));
    const std::vector<int32_t> affected = std::move(pairs_[pair_key(left, right)].words);
    pairs_[pair_key(left, right)].words.clear();
    std::vector<uint64_t> raised;
    for (const int32_t w : affected) {
      TrainingWord& word = words_[static_cast<size_t>(w)];
      std::vector<int32_t>& p = word.pieces;
      for (size_t i = 0; i + 1 < p.size(); ++i) {
        if (p[i] != left || p[i + 1] != right) continue;
        change(left, right, -word.count, w);
        if (i > 0) {
          change(p[i - 1], left, -word.count, w);
          change(p[i - 1], merged, word.count, w);
          raised.push_back(pair_key(p[i - 1], merged));
        }
        if (i + 2 < p.size()) {
          change(right, p[i + 2], -word.count, w);
          change(merged, p[i + 2], word.count, w);
          raised.push_back(pair_key(merged, p[i + 2]));
        }
        p[i] = merged;
        p.erase(p.begin() + static_cast<ptrdiff_t>(i) + 1);
      }
    }
    std::sort(raised.begin(), raised.end());
    raised.erase(std::unique(raised.begin(), raised.end()), raised.end());
    for (const uint64_t key : raised) push(key, pairs_[key].count);
  }

  std::vector<std::string> tokens_;
  std::vector<TrainingWord> words_;
  std::unordered_map<std::string, int32_t> ids_;
  std::unordered_map<uint64_t, Pair> pairs_;
  std::priority_queue<Candidate, std::vector<Candidate>, Less> queue_;
};

std::vector<char32_t> characters_of(const std::string& word) {
  std::vector<char32_t> out;
  for (size_t at = 0; at < word.size();) out.push_back(unicode::decode(word, at));
  return out;
}

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
    : options_(options), size_(options.size), pre_tokenizer_(options.tokenizer) {
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

void VocabularyTrainer::add(std::string_view text) {
  pre_tokenizer_.for_each_word(text, word_, [&](const Word& word) { ++counts_[word.text]; });
}

std::vector<std::string> VocabularyTrainer::train() const {
  if (counts_.empty()) throw DataError("vocab train", "expected text with at least one word, got none");
  // In one order whatever the hash table's: by text.
  std::vector<std::pair<std::string_view, int64_t>> sorted(counts_.begin(), counts_.end());
  std::sort(sorted.begin(), sorted.end());

  std::unordered_map<char32_t, int64_t> frequency;
  std::unordered_map<std::string, int64_t> pieces;
  for (const auto& [word, count] : sorted) {
    const auto characters = characters_of(std::string(word));
    for (size_t i = 0; i < characters.size(); ++i) {
      frequency[characters[i]] += count;
      pieces[piece_of(characters[i], i == 0)] += count;
    }
  }
  std::vector<std::pair<char32_t, int64_t>> alphabet(frequency.begin(), frequency.end());
  std::sort(alphabet.begin(), alphabet.end(), [](const auto& a, const auto& b) { return a.second != b.second ? a.second > b.second : a.first < b.first; });
  if (static_cast<int64_t>(alphabet.size()) > options_.alphabet_limit) alphabet.resize(static_cast<size_t>(options_.alphabet_limit));

  // Where not even the alphabet fits, its most frequent pieces are kept.
  const std::unordered_set<std::string_view> fixed(fixed_.begin(), fixed_.end());
  const int64_t room = size_ - static_cast<int64_t>(fixed_.size());
  std::vector<std::pair<std::string, int64_t>> initial;
  for (const auto& [c, count] : alphabet)
    for (const bool first : {true, false}) {
      const auto it = pieces.find(piece_of(c, first));
      if (it != pieces.end() && !fixed.contains(it->first)) initial.push_back(*it);
    }
  std::stable_sort(initial.begin(), initial.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  if (static_cast<int64_t>(initial.size()) > room) initial.resize(static_cast<size_t>(room));
  std::vector<std::string> tokens = fixed_;
  for (const auto& [piece, count] : initial) tokens.push_back(piece);
  const auto text_of = [](const std::string& s) { return s.rfind("##", 0) == 0 && s.size() > 2 ? s.substr(2) : s; };
  std::sort(tokens.begin() + static_cast<ptrdiff_t>(fixed_.size()), tokens.end(), [&](const std::string& a, const std::string& b) {
    const bool a_first = text_of(a) == a, b_first = text_of(b) == b;
    return a_first != b_first ? a_first : a < b;
  });

  std::unordered_map<std::string, int32_t> ids;
  for (size_t i = 0; i < tokens.size(); ++i) ids.emplace(tokens[i], static_cast<int32_t>(i));
  std::vector<TrainingWord> words;
  for (const auto& [word, count] : sorted) {
    TrainingWord training{{}, count};
    const auto characters = characters_of(std::string(word));
    bool known = true;
    for (size_t i = 0; known && i < characters.size(); ++i) {
      const auto it = ids.find(piece_of(characters[i], i == 0));
      known = it != ids.end();
      if (known) training.pieces.push_back(it->second);
    }
    if (known) words.push_back(std::move(training));
  }
  tokens = Merger(std::move(tokens), std::move(words)).run(size_, options_.min_frequency, options_.stop);
  if (tokens.empty()) return tokens;
  const int64_t filled = options_.exact_size ? size_ : round_up(static_cast<int64_t>(tokens.size()), options_.multiple_of);
  const std::unordered_set<std::string> taken(tokens.begin(), tokens.end());
  for (int64_t number = 0; static_cast<int64_t>(tokens.size()) < filled; ++number)
    if (std::string entry = unused_entry(number); !taken.contains(entry)) tokens.push_back(std::move(entry));
  return tokens;
}

}  // namespace electra
