// Vocabulary training: byte-pair merging over word pieces, as transformers' WordPiece trainer does it, with 64-bit counts and
// one result for one text: ties are broken by the tokens' text.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/tokenizer.h"

namespace electra {

struct VocabularyTrainerOptions {
  TokenizerOptions tokenizer;
  int64_t size = 30522;
  int64_t min_frequency = 2;      // of a merged pair
  int64_t alphabet_limit = 1000;  // distinct characters kept, the most frequent; words with others are left out
};

class VocabularyTrainer {
 public:
  explicit VocabularyTrainer(const VocabularyTrainerOptions& options);
  // Counts the words of valid UTF-8. Memory grows with the number of distinct words alone.
  void add(std::string_view text);
  // [PAD] [UNK] [CLS] [SEP] [MASK], the alphabet in code point order (each character as first and as continuing piece where
  // it occurs so), then the merges in order. Fewer than options.size where the text yields no more. Throws DataError when the
  // text has no words, ConfigError when size leaves no room for a character.
  std::vector<std::string> train() const;
  int64_t distinct_words() const { return static_cast<int64_t>(counts_.size()); }

 private:
  VocabularyTrainerOptions options_;
  PreTokenizer pre_tokenizer_;
  PreTokenizer::Buffers buffers_;
  std::unordered_map<std::string, int64_t> counts_;
};

}  // namespace electra
