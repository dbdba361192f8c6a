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
  int64_t size = 30522;
  int64_t min_frequency = 2;      // of a merged pair
  int64_t alphabet_limit = 1000;  // distinct characters kept, the most frequent; words with others are left out
  std::function<bool()> stop;     // asked at each merge; true: give up; may be empty
};

class VocabularyTrainer {
 public:
  // Throws ConfigError for a size outside kMinVocabularySize … kMaxVocabularySize.
  explicit VocabularyTrainer(const VocabularyTrainerOptions& options);
  // Counts the words of valid UTF-8. Memory grows with the number of distinct words alone.
  void add(std::string_view text);
  // [PAD] [UNK] [CLS] [SEP] [MASK], the alphabet in code point order (each character as first and as continuing piece where
  // it occurs so), then the merges in order. Fewer than options.size where the text yields no more; none where options.stop said
  // so. Throws DataError when the text has no words.
  std::vector<std::string> train() const;
  int64_t distinct_words() const { return static_cast<int64_t>(counts_.size()); }

 private:
  VocabularyTrainerOptions options_;
  PreTokenizer pre_tokenizer_;
  Word word_;
  std::unordered_map<std::string, int64_t> counts_;
};

}  // namespace electra
