// Normalisation and splitting into words: what happens to text before word pieces are looked up.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace electra {

// A normalised word. Character k covers bytes [starts[k], starts[k + 1]) of text and stems from source[k].
struct Word {
  std::string text;
  std::vector<uint32_t> starts;     // characters + 1 entries
  std::vector<ByteRange> source;
  size_t characters() const { return source.size(); }
};

class PreTokenizer {
 public:
  explicit PreTokenizer(const TokenizerOptions& options);

  // Buffers of one caller; they keep their capacity.
  struct Buffers {
    Word word;
    std::vector<char32_t> raw, mapped;
    std::vector<ByteRange> raw_source, mapped_source;
  };

  // Calls visit(const Word&) for each word of valid UTF-8 in order. base is added to the offsets.
  template <class Visit> void for_each_word(std::string_view text, uint32_t base, Buffers& buffers, Visit visit) const {
    size_t at = 0;
    while (next_span(text, base, at, buffers)) {
      size_t i = 0;
      while (next_word(buffers, i)) visit(buffers.word);
    }
  }

  const TokenizerOptions& options() const { return options_; }

 private:
  enum Flags : uint8_t { kRemoved = 1, kSpace = 2, kChinese = 4, kPunctuation = 8, kMark = 16, kPlain = 32 };
  // Code points below this have their properties in a table; the rest asks ICU each time.
  static constexpr char32_t kTableSize = 0x3400;

  uint8_t classify(char32_t c) const;
  uint8_t flags(char32_t c) const { return c < kTableSize ? flags_[c] : classify(c); }
  // Reads cleaned characters up to white space; false at the end of the text.
  bool next_span(std::string_view text, uint32_t base, size_t& at, Buffers& buffers) const;
  void map_span(Buffers& buffers) const;
  bool next_word(Buffers& buffers, size_t& i) const;
  void append_lowercase(const std::vector<char32_t>& raw, size_t i, std::u32string& out) const;

  TokenizerOptions options_;
  bool strip_accents_;
  std::vector<uint8_t> flags_;
};

}  // namespace electra
