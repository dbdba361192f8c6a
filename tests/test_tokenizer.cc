// WordPiece in both modes: golden strings, offsets, bad vocabularies.
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "kernels/core/error.h"
#include "tests/error_of.h"
#include "tests/temporary_directory.h"
#include "tokenizer/sentences.h"
#include "tokenizer/sha256.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/unicode.h"

using namespace electra;

namespace {

std::vector<std::string> base_tokens() {
  return {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", ",", "world", "!", "una", "##ffa", "##ble", "don", "'", "t",
          "$", "5", "^", "ο", "##δ", "##ο", "##σ", "##ς", "x", "##y", "z", "i", "am", "and", "[", "mask", "]", "##x", "istanbul", "a", "##a",
          "東", "京", "cafe", "naive", "é", "e", "##é"};
}

Tokenizer make(TokenizerOptions options = {}) { return Tokenizer(Vocabulary::from_tokens(base_tokens(), "test"), options); }

std::string pieces(const Tokenizer& t, std::string_view text) {
  Encoding e;
  t.encode(text, e);
  std::string out;
  for (const int32_t id : e.ids) out.append(out.empty() ? "" : " ").append(t.vocabulary().token(id));
  return out;
}

TokenizerOptions google() {
  TokenizerOptions o;
  o.mode = TokenizerMode::google;
  return o;
}

std::string repeat(const std::string& s, int n) {
  std::string out;
  for (int i = 0; i < n; ++i) out += s;
  return out;
}

std::string error_of(const std::vector<std::string>& tokens) {
  return test::error_of<DataError>([&] { Vocabulary::from_tokens(tokens, "v.txt"); });
}

}  // namespace

TEST_CASE("hf mode gives the published golden strings") {
  const Tokenizer t = make();
  CHECK(pieces(t, "Hello, world! unaffable") == "hello , world ! una ##ffa ##ble");
  CHECK(pieces(t, "don't $5 ^ ") == "don ' t $ 5 ^");
  CHECK(pieces(t, "ΟΔΟΣ") == "ο ##δ ##ο ##σ");
  CHECK(pieces(t, std::string_view("x\0y \xEF\xBF\xBD z", 9)) == "x ##y z");
  CHECK(pieces(t, "I am [MASK] and [mask] [CLS]x") == "i am [MASK] and [ mask ] [CLS] x");
  CHECK(pieces(t, "İstanbul") == "istanbul");
  CHECK(pieces(t, "東京 café naïve") == "東 京 cafe naive");
}

TEST_CASE("google mode differs where the original does") {
  const Tokenizer t = make(google());
  CHECK(pieces(t, "ΟΔΟΣ") == "ο ##δ ##ο ##ς");
  CHECK(pieces(t, "ΟΔΟΣΟ") == "ο ##δ ##ο ##σ ##ο");
  CHECK(pieces(t, "[MASK]") == "[ mask ]");
  CHECK(pieces(t, "Hello, world!") == "hello , world !");
}

TEST_CASE("words are limited to 100 characters in hf mode and 200 in google mode") {
  const auto count = [](const Tokenizer& t, int n) {
    Encoding e;
    t.encode(repeat("a", n), e);
    return e.ids == std::vector<int32_t>{t.vocabulary().unk()} ? size_t{0} : e.ids.size();
  };
  const Tokenizer hf = make(), original = make(google());
  CHECK(count(hf, 100) == 100);
  CHECK(count(hf, 101) == 0);
  CHECK(count(original, 200) == 200);
  CHECK(count(original, 201) == 0);
}

TEST_CASE("capitals and accents are independent of each other") {
  TokenizerOptions o;
  o.strip_accents = false;
  CHECK(pieces(make(o), "É") == "é");
  o.lowercase = false;
  CHECK(pieces(make(o), "É") == "[UNK]");
  o.strip_accents = true;
  CHECK(pieces(make(o), "é") == "e");
  TokenizerOptions whole;
  whole.split_chinese = false;
  CHECK(pieces(make(whole), "東京") == "[UNK]");
}

TEST_CASE("offsets and word numbers refer to the text as typed") {
  const Tokenizer t = make();
  Encoding e;
  const std::string text = "Unaffable caf\xC3\xA9, \xE6\x9D\xB1 qqq";
  t.encode(text, e);
  const auto piece = [&](size_t i) { return text.substr(e.offsets[i].begin, e.offsets[i].end - e.offsets[i].begin); };
  REQUIRE(e.ids.size() == 7);
  CHECK(piece(0) == "Una");
  CHECK(piece(1) == "ffa");
  CHECK(piece(2) == "ble");
  CHECK(piece(3) == "caf\xC3\xA9");
  CHECK(piece(4) == ",");
  CHECK(piece(5) == "\xE6\x9D\xB1");
  CHECK(piece(6) == "qqq");  // [UNK] spans its word
  CHECK(e.word_ids == std::vector<int32_t>{0, 0, 0, 1, 2, 3, 4});
}

TEST_CASE("ids alone are the ids of an encoding") {
  const Tokenizer t = make();
  Encoding e;
  std::vector<int32_t> ids{7};
  t.encode("Hello unaffable [SEP] café", e);
  t.encode_ids("Hello unaffable [SEP] café", ids);
  REQUIRE(ids.size() == e.ids.size() + 1);
  CHECK(std::equal(e.ids.begin(), e.ids.end(), ids.begin() + 1));
}

TEST_CASE("a vocabulary that cannot work is refused with its line") {
  const auto with = [](std::vector<std::string> more) {
    std::vector<std::string> t = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
    t.insert(t.end(), more.begin(), more.end());
    return t;
  };
  CHECK(error_of(with({"a", "b", "a"})) == "[v.txt:8] expected each token once, got 'a' again after line 6");
  CHECK(error_of(with({"a", "", "b"})) == "[v.txt:7] expected a token, got an empty line");
  CHECK(error_of(with({"a\xFF"})) == "[v.txt:6] expected valid UTF-8, got other bytes");
  CHECK(error_of({"[PAD]", "[CLS]", "[SEP]", "[MASK]"}) == "[v.txt] expected a vocabulary with [UNK], got none among 4 tokens");
  CHECK(error_of({}) == "[v.txt] expected one token a line, got an empty vocabulary");
  CHECK_THROWS_AS(Vocabulary::load("/nonexistent/vocab.txt"), IoError);
}

TEST_CASE("a vocabulary file may end without a line feed and have CRLF") {
  const test::TemporaryDirectory dir;
  test::write_file(dir / "v.txt", "[PAD]\r\n[UNK]\r\n[CLS]\r\n[SEP]\r\n[MASK]\r\nword");
  const Vocabulary v = Vocabulary::load(dir / "v.txt");
  CHECK(v.size() == 6);
  CHECK(v.find("word") == 5);
  CHECK(v.sha256() == sha256("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nword\n"));
}

TEST_CASE("sha256 has its published values") {
  CHECK(sha256("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(sha256("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") == "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

TEST_CASE("ill-formed UTF-8 is found where it begins") {
  CHECK(unicode::find_invalid_utf8("plain \xC3\xA9 \xF0\x9F\x98\x80") == unicode::kValid);
  CHECK(unicode::find_invalid_utf8("ab\xC0\x80") == 2);              // overlong
  CHECK(unicode::find_invalid_utf8("\xED\xA0\x80") == 0);            // surrogate
  CHECK(unicode::find_invalid_utf8("a\xF4\x90\x80\x80") == 1);       // above U+10FFFF
  CHECK(unicode::find_invalid_utf8("abc\xE2\x82") == 3);             // cut off
  CHECK(unicode::find_invalid_utf8("\x80") == 0);                    // continuation alone
}

TEST_CASE("sentences are found and trimmed") {
  SentenceSplitter splitter;
  std::vector<std::string_view> s;
  splitter.split("  It rains. Does it?  Yes! \xC3\x89t\xC3\xA9 comes.", s);
  CHECK(s == std::vector<std::string_view>{"It rains.", "Does it?", "Yes!", "\xC3\x89t\xC3\xA9 comes."});
  splitter.split("   ", s);
  CHECK(s.empty());
}

TEST_CASE("every error of a vocabulary is found, with its line") {
  const test::TemporaryDirectory dir;
  const std::string file = dir / "v.txt";
  test::write_file(file, "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n\nb\na\n\xFF\n\n");
  CHECK(Vocabulary::errors(file) == std::vector<std::string>{"[" + file + ":6] expected a token, got an empty line",
                                                             "[" + file + ":8] expected each token once, got 'a' again after line 5",
                                                             "[" + file + ":9] expected valid UTF-8, got other bytes",
                                                             "[" + file + ":10] expected a token, got an empty line",
                                                             "[" + file + "] expected a vocabulary with [MASK], got none among 10 tokens"});
  test::write_file(file, "");
  CHECK(Vocabulary::errors(file).front() == "[" + file + "] expected one token a line, got an empty vocabulary");
  test::write_file(file, "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n");
  CHECK(Vocabulary::errors(file).empty());
}
