// What tests/golden/write_tokenizer_golden.py and the tests that read its like make in two languages: texts, a vocabulary.
#pragma once
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "kernels/core/philox.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/unicode.h"

namespace electra::test {

inline std::filesystem::path golden_file(const std::string& name) { return std::filesystem::path(ELECTRA_SOURCE_DIR) / "tests" / "golden" / name; }

inline bool is_surrogate(char32_t c) { return c >= 0xD800 && c <= 0xDFFF; }

inline std::string utf8(char32_t c) {
  std::string out;
  unicode::append_utf8(c, out);
  return out;
}

// Code points that ICU does not know, and what the package makes of them in lower case.
inline std::map<char32_t, char32_t> golden_exceptions() {
  std::map<char32_t, char32_t> out;
  std::ifstream in(golden_file("tokenizer_exceptions.txt"));
  REQUIRE(in);
  for (std::string line; std::getline(in, line);) {
    if (line.empty() || line[0] == '#') continue;
    std::istringstream fields(line);
    uint32_t c = 0, lower = 0;
    REQUIRE(fields >> std::hex >> c >> lower);
    out.emplace(c, lower);
  }
  return out;
}

// The special tokens, then each code point of some ranges as a word's beginning and as its continuation.
inline std::vector<std::string> golden_vocabulary() {
  std::vector<std::string> tokens = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
  for (const auto& [begin, end] : {std::pair<char32_t, char32_t>{1, 0x32400}, {0xE0000, 0xE0200}, {0xF0000, 0xF0100}})
    for (char32_t c = begin; c < end; ++c) {
      if (is_surrogate(c)) continue;
      tokens.push_back(utf8(c));
      tokens.push_back("##" + tokens.back());
    }
  return tokens;
}

// One of 300,000 random texts over all scripts.
inline std::string golden_text(uint32_t number, const std::map<char32_t, char32_t>& left_out) {
  constexpr uint32_t kMaxDraws = 24;
  static const std::vector<std::u32string> typed = {U"[MASK]", U"[UNK]", U"[CLS]", U"[SEP]", U"[PAD]", U"[mask]", U"[", U"]", U"##a", U"\t", U"\r\n", U"'", U".", U"\u00a0", U"\u2028", U"\u03a3"};
  const uint64_t key = 20200323 ^ fnv1a64("tokenizer/random_strings");
  const Bits128 head = philox(key, {.step = number});
  const uint32_t block = head.word[1] >> 16 & 1 ? head.word[1] % 104 : (head.word[1] >> 8) % 1544;
  std::u32string points;
  if (number % 64 == 0) points.append(90 + head.word[3] % 120, block * 128 + head.word[2] % 128);
  for (uint32_t j = 0; j < head.word[0] % (kMaxDraws + 1); ++j) {
    const Bits128 draw = philox(key, {.step = number, .position = 1 + j});
    const uint32_t kind = draw.word[0] % 16, value = draw.word[1];
    if (kind == 0) points += typed[value % typed.size()];
    else if (kind <= 2) points += U' ';
    else if (kind <= 5) points += static_cast<char32_t>(0x300 + value % 0x70);
    else if (kind <= 8) points += static_cast<char32_t>(value % 128);
    else if (kind == 9) points += static_cast<char32_t>(value % 0x110000);
    else points += static_cast<char32_t>(block * 128 + value % 128);
  }
  std::string out;
  for (const char32_t c : points)
    if (!is_surrogate(c) && !left_out.contains(c)) unicode::append_utf8(c, out);
  return out;
}

// Little-endian.
inline void append_u32(uint32_t word, std::string& out) {
  for (int k = 0; k < 4; ++k) out.push_back(static_cast<char>(word >> 8 * k & 0xff));
}

// Number of tokens; id, begin and end of each, in code points.
inline void append_case(const Tokenizer& tokenizer, const std::string& text, std::string& stream) {
  static Encoding e;
  tokenizer.encode(text, e);
  std::vector<uint32_t> point(text.size() + 1);
  for (size_t k = 0; k < text.size(); ++k) point[k + 1] = point[k] + ((static_cast<unsigned char>(text[k]) & 0xC0) != 0x80);
  append_u32(static_cast<uint32_t>(e.ids.size()), stream);
  for (size_t k = 0; k < e.ids.size(); ++k) {
    append_u32(static_cast<uint32_t>(e.ids[k]), stream);
    append_u32(point[e.offsets[k].begin], stream);
    append_u32(point[e.offsets[k].end], stream);
  }
}

}  // namespace electra::test
