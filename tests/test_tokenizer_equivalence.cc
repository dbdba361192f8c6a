// The one-pass tokenizer against the straightforward one: the same ids, offsets and word numbers, whatever the options and the text.
#include <algorithm>
#include <catch2/catch.hpp>
#include <random>

#include "tests/adversarial_texts.h"
#include "tests/straightforward_tokenizer.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/unicode.h"

using namespace electra;

namespace {

std::string utf8(char32_t c) {
  std::string out;
  unicode::append_utf8(c, out);
  return out;
}

bool is_surrogate(char32_t c) { return c >= 0xD800 && c <= 0xDFFF; }

std::vector<std::string> with_special(const std::vector<std::string>& more) {
  std::vector<std::string> tokens = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
  tokens.insert(tokens.end(), more.begin(), more.end());
  return tokens;
}

// Nearly every character as a piece of its own, so that offsets show each of them; some pieces of two and three.
const Vocabulary& wide_vocabulary() {
  static const Vocabulary vocabulary = [] {
    std::vector<std::string> pieces;
    const auto add = [&](const std::string& text) {
      pieces.push_back(text);
      pieces.push_back("##" + text);
    };
    for (char32_t c = 33; c < 0x3400; ++c)
      if (c % 17 != 0) add(utf8(c));
    for (char32_t c = 0xA000; c < 0x20000; c += 3)
      if (!is_surrogate(c)) add(utf8(c));
    for (const char* text : {"ab", "abc", "bc", "cab", "the", "word", "σς", "ες", "éa", "ééa", "的中", "中"}) add(text == std::string("中") ? "中国" : text);
    return Vocabulary::from_tokens(with_special(pieces), "wide");
  }();
  return vocabulary;
}

std::vector<TokenizerOptions> all_options() {
  std::vector<TokenizerOptions> all;
  for (const TokenizerMode mode : {TokenizerMode::hf, TokenizerMode::google})
    for (const bool lowercase : {true, false})
      for (const bool strip : {true, false})
        for (const bool chinese : {true, false}) all.push_back({.mode = mode, .lowercase = lowercase, .strip_accents = strip, .split_chinese = chinese});
  return all;
}

class Comparison {
 public:
  Comparison(const Vocabulary& vocabulary, const TokenizerOptions& options)
      : tokenizer_(vocabulary, options), oracle_(tokenizer_.vocabulary(), options) {}

  void check(std::string_view text) {
    tokenizer_.encode(text, actual_);
    oracle_.encode(text, expected_);
    ids_.assign(1, -7);
    tokenizer_.encode_ids(text, ids_);
    ids_.erase(ids_.begin());
    tokens_ += expected_.ids.size();
    for (const int32_t id : expected_.ids) unknown_ += id == tokenizer_.vocabulary().unk();
    if (actual_.ids == expected_.ids && ids_ == expected_.ids && actual_.word_ids == expected_.word_ids && actual_.offsets == expected_.offsets) return;
    const TokenizerOptions& o = tokenizer_.options();
    UNSCOPED_INFO((o.mode == TokenizerMode::hf ? "hf" : "google") << " lowercase " << o.lowercase << " accents " << *o.strip_accents << " chinese " << o.split_chinese);
    UNSCOPED_INFO("text " << escaped(text) << "\nexpected " << shown(expected_) << "\nactual   " << shown(actual_));
    FAIL("another encoding");
  }
  size_t tokens() const { return tokens_; }
  size_t unknown() const { return unknown_; }

 private:
  static std::string escaped(std::string_view text) {
    std::string out;
    char code[16];
    for (size_t at = 0; at < text.size();) {
      const char32_t c = unicode::decode(text, at);
      std::snprintf(code, sizeof code, c > 32 && c < 127 ? "%c" : "\\u{%x}", static_cast<unsigned>(c));
      out += code;
    }
    return out;
  }
  std::string shown(const Encoding& e) const {
    std::string out;
    for (size_t k = 0; k < e.ids.size(); ++k)
      out += escaped(tokenizer_.vocabulary().token(e.ids[k])) + ":" + std::to_string(e.offsets[k].begin) + "-" + std::to_string(e.offsets[k].end) + " ";
    return out;
  }

  Tokenizer tokenizer_;
  test::StraightforwardTokenizer oracle_;
  Encoding actual_, expected_;
  std::vector<int32_t> ids_;
  size_t tokens_ = 0, unknown_ = 0;
};

std::string repeat(const std::string& s, int n) {
  std::string out;
  for (int i = 0; i < n; ++i) out += s;
  return out;
}

}  // namespace

TEST_CASE("every code point is treated alike, alone and between others") {
  for (const TokenizerOptions& options : all_options()) {
    Comparison comparison(wide_vocabulary(), options);
    for (char32_t c = 0; c < 0x110000; ++c) {
      if (is_surrogate(c)) continue;
      if (c > 0x3200 && c < 0xA000 && c % 61 != 0) continue;  // ideographs, all alike
      if (c > 0x20000 && c % 257 != 0 && !(c > 0x2A6D0 && c < 0x2A740) && !(c > 0x2B720 && c < 0x2B930) && !(c > 0x2CEA0 && c < 0x2CEC0) && !(c > 0x2F7F0 && c < 0x2FA30)) continue;
      const std::string s = utf8(c);
      comparison.check(s + "x" + s + "y é" + s + "\u0316" + s + "Σ" + s + " ." + s);
    }
    CHECK(comparison.tokens() > 500000);
    CHECK(comparison.unknown() < comparison.tokens() / 2);
  }
}

TEST_CASE("random strings over all scripts are encoded alike") {
  std::mt19937 random(20200323);
  const std::vector<std::string> typed = {"[MASK]", "[UNK]", "[SEP", "[CLS]", "[PAD]]", " ", "\t", "\r\n", "the", "word", "abc", "\u00a0", "'", ".", "##ab", "#"};
  const char32_t blocks[] = {0x20, 0xA0, 0x100, 0x250, 0x300, 0x370, 0x400, 0x590, 0x600, 0x900, 0xE00, 0x1100, 0x1E00, 0x1F00, 0x2000, 0x2200, 0x3000, 0x3130, 0x4E00, 0xAC00, 0xF900, 0xFB00, 0xFE00, 0x10400, 0x11000, 0x1D160, 0x1E900, 0x1F600, 0x20000, 0x2B800};
  for (const TokenizerOptions& options : all_options()) {
    Comparison comparison(wide_vocabulary(), options);
    for (int i = 0; i < 8000; ++i) {
      std::string text;
      const uint32_t kind = random() % 4;
      for (uint32_t n = random() % 24; n > 0; --n) {
        const uint32_t draw = random() % 8;
        char32_t c = 'a' + random() % 4;
        if (draw == 0) {
          text += typed[random() % typed.size()];
          continue;
        }
        if (kind == 0) c = random() % 0x110000;
        else if (kind == 1) c = blocks[random() % std::size(blocks)] + random() % 128;
        else if (kind == 2) c = draw < 4 ? 0x300 + random() % 0x70 : draw < 6 ? 0x391 + random() % 0x39 : c;
        else if (draw == 1) c = random() % 128;
        if (!is_surrogate(c)) text += utf8(c);
      }
      comparison.check(text);
    }
    CHECK(comparison.tokens() > 30000);
    CHECK(comparison.unknown() < comparison.tokens() / 2);
  }
}

// Few letters and many pieces of them: the ways of the trie out of half-matched pieces.
TEST_CASE("random vocabularies split random words alike") {
  std::mt19937 random(1);
  size_t tokens = 0, unknown = 0;
  for (int round = 0; round < 400; ++round) {
    const std::vector<std::string> letters = round % 4 == 0 ? std::vector<std::string>{"a", "é", "ж", "\u0e01"} : std::vector<std::string>{"a", "b", "c"};
    const auto word = [&](uint32_t longest) {
      std::string text;
      for (uint32_t n = 1 + random() % longest; n > 0; --n) text += letters[random() % (round % 3 == 0 ? 2 : letters.size())];
      return text;
    };
    std::vector<std::string> pieces;
    for (uint32_t n = 1 + random() % 60; n > 0; --n) {
      const std::string piece = (random() % 2 ? "##" : "") + word(round % 5 == 0 ? 30 : 6);
      if (std::find(pieces.begin(), pieces.end(), piece) == pieces.end()) pieces.push_back(piece);
    }
    if (round % 7 == 0) pieces.insert(pieces.end(), {"##", "#", repeat("d", 100), repeat("d", 200), repeat("d", 250)});
    TokenizerOptions options;
    options.mode = round % 2 ? TokenizerMode::hf : TokenizerMode::google;
    options.strip_accents = false;
    Comparison comparison(Vocabulary::from_tokens(with_special(pieces), "random"), options);
    for (int i = 0; i < 300; ++i) comparison.check(i % 3 == 0 ? word(40) : word(8) + " " + word(8) + word(3) + "# " + word(120));
    for (const int n : {99, 100, 101, 199, 200, 201, 250}) comparison.check(repeat("d", n));
    tokens += comparison.tokens();
    unknown += comparison.unknown();
  }
  CHECK(tokens > 2 * unknown);
  CHECK(unknown > 1000);
}

TEST_CASE("adversarial texts are encoded alike") {
  const std::vector<std::string> texts = test::adversarial_texts();
  for (const TokenizerOptions& options : all_options()) {
    Comparison comparison(wide_vocabulary(), options);
    for (const std::string& text : texts) comparison.check(text);
    CHECK(comparison.tokens() > 20000);
  }
}
