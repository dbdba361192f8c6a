// WordPiece in both modes: golden strings, offsets, bad vocabularies, training.
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "kernels/core/error.h"
#include "tests/temporary_directory.h"
#include "tokenizer/sentences.h"
#include "tokenizer/sha256.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/unicode.h"
#include "tokenizer/vocabulary_trainer.h"

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
  try {
    Vocabulary::from_tokens(tokens, "v.txt");
  } catch (const DataError& error) {
    return error.what();
  }
  return "no error";
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

TEST_CASE("training merges the most frequent pairs first and breaks ties by text") {
  VocabularyTrainerOptions o;
  o.size = 12;
  VocabularyTrainer trainer(o);
  trainer.add("ab ab ab cd cd cd abc");
  // Pieces: a c ##b ##c ##d; pairs a##b 4, c##d 3, ##b##c 1 (below the least frequency).
  CHECK(trainer.train() == std::vector<std::string>{"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "c", "##b", "##c", "##d", "ab", "cd"});
  CHECK(trainer.distinct_words() == 3);
}

TEST_CASE("training is exact in size, the same every time, and uses every piece once") {
  std::string text;
  for (int i = 0; i < 400; ++i) text += "The cat number " + std::to_string(i * 37 % 101) + " sat on mat " + std::to_string(i % 13) + "; happily so.\n";
  VocabularyTrainerOptions o;
  o.size = 70;
  std::vector<std::vector<std::string>> results;
  for (int run = 0; run < 2; ++run) {
    VocabularyTrainer trainer(o);
    trainer.add(text);
    results.push_back(trainer.train());
  }
  CHECK(results[0] == results[1]);
  CHECK(results[0].size() == 70);
  CHECK_NOTHROW(Vocabulary::from_tokens(results[0], "trained"));
  o.size = 100000;
  VocabularyTrainer greedy(o);
  greedy.add(text);
  CHECK(greedy.train().size() < 200);  // the text yields no more
  CHECK_THROWS_AS(VocabularyTrainer(VocabularyTrainerOptions{}).train(), DataError);
}

TEST_CASE("a vocabulary has room for a character and fits an embedding table") {
  VocabularyTrainerOptions o;
  for (const int64_t size : {kMinVocabularySize - 1, kMaxVocabularySize + 1, int64_t{-3}}) {
    o.size = size;
    CHECK_THROWS_AS(VocabularyTrainer(o), ConfigError);
    CHECK_THROWS_WITH(VocabularyTrainer(o), "[vocab train] expected a size of 6 to 16777216 entries, got " + std::to_string(size));
  }
  o.size = kMinVocabularySize;
  VocabularyTrainer least(o);
  least.add("a b b");
  CHECK(least.train() == std::vector<std::string>{"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "b"});
  o.size = kMaxVocabularySize;
  CHECK_NOTHROW(VocabularyTrainer(o));
}

TEST_CASE("reserved and unused entries stand behind the special tokens, and each entry once") {
  VocabularyTrainerOptions o;
  o.size = 17;
  o.reserved = {"ab", "c", "[DOC]"};
  o.unused = 2;
  VocabularyTrainer trainer(o);
  trainer.add("ab ab ab cd cd cd abc");
  // As above, but ab and c are there already, so that merging a and ##b makes no new entry.
  CHECK(trainer.train() ==
        std::vector<std::string>{"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ab", "c", "[DOC]", "[unused0]", "[unused1]", "a", "##b", "##c", "##d", "cd"});
  const auto refused = [](VocabularyTrainerOptions bad) {
    try {
      VocabularyTrainer t(bad);
    } catch (const ConfigError& error) {
      return std::string(error.what());
    }
    return std::string("none");
  };
  for (const auto& [entry, message] : {std::pair<std::string, std::string>{"", "expected a reserved entry without white space, got an empty one"},
                                       {"a b", "expected a reserved entry without white space, got 'a b', with white space"},
                                       {"\xFF", "expected a reserved entry without white space, got one that is not UTF-8"},
                                       {"[CLS]", "expected each reserved entry once, got '[CLS]' again"},
                                       {"[unused1]", "expected each reserved entry once, got '[unused1]' again"}}) {
    o.reserved = {"x", entry};
    CHECK(refused(o) == "[vocab train] " + message);
  }
  o.reserved.clear();
  o.unused = 12;
  CHECK(refused(o) == "[vocab train] expected a size of 18 to 16777216 entries, 17 of them special, reserved or unused, got 17");
  o.unused = 11;
  CHECK(refused(o) == "none");
  o.min_frequency = 0;
  CHECK(refused(o) == "[vocab train] expected a least frequency of at least 1, got 0");
}

TEST_CASE("a size is rounded up, and filled up where the text yields less") {
  VocabularyTrainerOptions o;
  const auto size_of = [&](int64_t size, int64_t multiple, bool exact) {
    o.size = size;
    o.multiple_of = multiple;
    o.exact_size = exact;
    VocabularyTrainer trainer(o);
    trainer.add("ab ab ab cd cd cd abc");  // twelve entries
    const std::vector<std::string> tokens = trainer.train();
    CHECK_NOTHROW(Vocabulary::from_tokens(tokens, "trained"));
    return std::pair(trainer.size(), static_cast<int64_t>(tokens.size()));
  };
  using Sizes = std::pair<int64_t, int64_t>;
  CHECK(size_of(100, 1, false) == Sizes(100, 12));
  CHECK(size_of(100, 1, true) == Sizes(100, 100));
  CHECK(size_of(10, 1, true) == Sizes(10, 10));
  CHECK(size_of(100, 64, false) == Sizes(128, 64));
  CHECK(size_of(100, 64, true) == Sizes(128, 128));
  CHECK(size_of(9, 4, false) == Sizes(12, 12));
  o.unused = 3;
  o.size = 18;
  o.multiple_of = 1;
  o.exact_size = true;
  VocabularyTrainer trainer(o);
  trainer.add("ab ab ab cd cd cd abc");
  const auto tokens = trainer.train();
  CHECK(std::vector<std::string>(tokens.begin() + 14, tokens.end()) == std::vector<std::string>{"cd", "[unused3]", "[unused4]", "[unused5]"});
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

TEST_CASE("training that is told to stop makes no vocabulary") {
  VocabularyTrainerOptions o;
  int asked = 0, most = 0;
  o.stop = [&] { return ++asked > most; };
  VocabularyTrainer trainer(o);
  trainer.add("abcdef abcdef abc abc bcd bcd");
  for (; most < 3; ++most) {
    asked = 0;
    CHECK(trainer.train().empty());
    CHECK(asked == most + 1);
  }
  most = 1000;
  asked = 0;
  CHECK(trainer.train().size() > 15);
  CHECK(asked > 3);
}
