// Unicode properties behind a few functions: the one place that includes ICU for them (sentences.cc has its break iterator).
#pragma once
#include <cstddef>
#include <string>
#include <string_view>

#include "tokenizer/tokenizer.h"

namespace electra::unicode {

inline constexpr size_t kValid = static_cast<size_t>(-1);
// Byte offset of the first ill-formed UTF-8 sequence, or kValid.
size_t find_invalid_utf8(std::string_view text);
// Decodes the code point at text[at] of valid UTF-8 and moves at behind it.
inline char32_t decode(std::string_view text, size_t& at) {
  const auto byte = [&](size_t k) { return static_cast<char32_t>(static_cast<unsigned char>(text[at + k])); };
  const char32_t lead = byte(0);
  char32_t c = lead;
  size_t length = 1;
  if (lead >= 0xF0) {
    c = (lead & 7) << 18 | (byte(1) & 63) << 12 | (byte(2) & 63) << 6 | (byte(3) & 63);
    length = 4;
  } else if (lead >= 0xE0) {
    c = (lead & 15) << 12 | (byte(1) & 63) << 6 | (byte(2) & 63);
    length = 3;
  } else if (lead >= 0xC0) {
    c = (lead & 31) << 6 | (byte(1) & 63);
    length = 2;
  }
  at += length;
  return c;
}
void append_utf8(char32_t c, std::string& text);

// What the cleaning step removes: in hf mode Cc, Cf and Co as of Unicode 8, in google mode every category C…; never tab, line
// feed and carriage return. U+0000 and U+FFFD always.
bool is_removed(char32_t c, TokenizerMode mode);
bool is_white_space(char32_t c);
// Split into a token of its own: ASCII symbols and category P… (as of Unicode 8 in hf mode).
bool is_punctuation(char32_t c, TokenizerMode mode);
// The blocks whose characters are words of their own; the modes differ in one bound of extension E.
bool is_chinese(char32_t c, TokenizerMode mode);
// What stripping accents removes after decomposition (as of Unicode 8 in hf mode).
bool is_nonspacing_mark(char32_t c, TokenizerMode mode);
// Canonical decomposition, or the character itself; characters newer than Unicode 9 stay whole in hf mode.
std::u32string decompose(char32_t c, TokenizerMode mode);
// Canonical combining class; 0 for characters newer than Unicode 9 in hf mode.
int combining_class(char32_t c, TokenizerMode mode);
// Full lower-case mapping of one character without context.
std::u32string lowercase(char32_t c);
// For the final-sigma rule of google mode.
bool is_cased(char32_t c);
bool is_case_ignorable(char32_t c);

// The normal form of valid UTF-8: canonical (NFC) or compatibility (NFKC) composition.
enum class NormalForm { nfc, nfkc };
std::string normalize(std::string_view text, NormalForm form);

const char* icu_version();

}  // namespace electra::unicode
