// Vocabulary training: byte-pair merging over word pieces, as transformers' WordPiece trainer does it, with 64-bit counts and
// one result for one text: ties are broken by the tokens' text.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/tokenizer.h"

namespace electra {

// Least and largest size of a vocabulary: the special tokens and a character; the most rows of an embedding table.
inline constexpr int64_t kMinVocabularySize = 6, kMaxVocabularySize = int64_t{1} << 24;

struct VocabularyTrainerOptions {
  TokenizerOptions tokenizer;
  int64_t size = 30522;           // entries of all kinds, rounded up to multiple_of
  int64_t multiple_of = 1;        // what the text does not fill up to the next multiple, [unusedN] entries do
  bool exact_size = false;        // they fill it up to the size
  int64_t min_frequency = 2;      // of a merged pair
  int64_t alphabet_limit = 1000;  // distinct characters kept, the most frequent; words with others are left out
  std::vector<std::string> reserved;  // entries behind the special tokens, whatever the text has
  int64_t unused = 0;             // [unused0] … entries behind these
  std::function<bool()> stop;     // asked at each merge; true: give up; may be empty
};

class VocabularyTrainer {
 public:
  // Throws ConfigError for a size outside kMinVocabularySize … kMaxVocabularySize or without room for a character, for limits
  // below 1, and for a reserved entry that is empty, not UTF-8, has white space, or is an entry anyway.
  explicit VocabularyTrainer(const VocabularyTrainerOptions& options);
  // Counts the words of valid UTF-8. Memory grows with the number of distinct words alone.
  void add(std::string_view text);
  // [PAD] [UNK] [CLS] [SEP] [MASK], reserved and unused entries, the alphabet in code point order (each character as first and as continuing piece where
  // it occurs so), the merges in order, then what fills it up. Fewer than size() where the text yields no more; none where options.stop said
  // so. Throws DataError when the text has no words.
  std::vector<std::string> train() const;
  int64_t size() const { return size_; }  // options.size rounded up
  int64_t distinct_words() const { return static_cast<int64_t>(counts_.size()); }

 private:
  VocabularyTrainerOptions options_;
  int64_t size_;
  std::vector<std::string> fixed_;  // special, reserved and unused entries
  PreTokenizer pre_tokenizer_;
  Word word_;
  std::unordered_map<std::string, int64_t> counts_;
};

}  // namespace electra
