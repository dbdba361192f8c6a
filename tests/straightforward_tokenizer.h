// Tokenization step by step, each step on the whole span and every piece looked up in the vocabulary by its text: slow, and close to
// the definition. The oracle of tokenizer/tokenizer.h.
#pragma once
#include "tokenizer/tokenizer.h"

namespace electra::test {

class StraightforwardTokenizer {
 public:
  StraightforwardTokenizer(const Vocabulary& vocabulary, const TokenizerOptions& options);  // refers to the vocabulary
  void encode(std::string_view text, Encoding& out) const;

 private:
  struct Word {
    std::u32string text;
    std::vector<ByteRange> source;  // of each character
  };
  void encode_segment(std::string_view text, uint32_t base, Encoding& out, int32_t& word_index) const;
  void map_span(const std::u32string& raw, const std::vector<ByteRange>& raw_source, Word& mapped) const;
  std::u32string lowercase(const std::u32string& raw, size_t i) const;
  void encode_word(const Word& word, Encoding& out, int32_t word_index) const;

  const Vocabulary& vocabulary_;
  TokenizerOptions options_;
  bool strip_accents_;
};

}  // namespace electra::test
