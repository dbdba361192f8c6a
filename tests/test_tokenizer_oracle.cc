// google mode against what the original's tokenizer wrote, and hf mode against the PyPI package `tokenizers` on text of many languages.
#include <algorithm>
#include <catch2/catch.hpp>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/golden_texts.h"
#include "tests/shared_data.h"
#include "tests/straightforward_tokenizer.h"
#include "tokenizer/sha256.h"
#include "tokenizer/tokenizer.h"
#include "trainer/data/input_stream.h"

using namespace electra;

namespace {

void compare(const std::string& golden, const std::string& vocabulary, bool lowercase) {
  TokenizerOptions options;
  options.mode = TokenizerMode::google;
  options.lowercase = lowercase;
  const Tokenizer tokenizer(Vocabulary::load(test::shared_data("vocab/" + vocabulary)), options);
  std::ifstream in(test::shared_data("golden/" + golden));
  int lines = 0;
  for (std::string line; std::getline(in, line); ++lines) {
    const auto json = nlohmann::json::parse(line);
    std::vector<int32_t> ids;
    tokenizer.encode_ids(json.at("text").get<std::string>(), ids);
    INFO(golden << ":" << lines + 1 << " " << json.at("text").dump().substr(0, 200));
    CHECK(ids == json.at("ids").get<std::vector<int32_t>>());
  }
  CHECK(lines > 500);
}

}  // namespace

TEST_CASE("uncased texts give the original's ids") {
  compare("electra-official-uncased.jsonl", "bert-base-uncased-vocab.txt", true);
}

TEST_CASE("multilingual cased texts give the original's ids") {
  compare("electra-official-multilingual-cased.jsonl", "bert-base-multilingual-cased-vocab.txt", false);
}

// The same texts in every mode and with every published vocabulary, against the straightforward tokenizer.
TEST_CASE("the golden texts are encoded as the straightforward tokenizer does") {
  std::vector<std::string> texts;
  for (const char* golden : {"electra-official-uncased.jsonl", "electra-official-multilingual-cased.jsonl"}) {
    std::ifstream in(test::shared_data(std::string("golden/") + golden));
    for (std::string line; std::getline(in, line);) texts.push_back(nlohmann::json::parse(line).at("text").get<std::string>());
  }
  for (const char* name : {"bert-base-uncased", "bert-base-cased", "bert-base-chinese", "bert-base-multilingual-cased"})
    for (const TokenizerMode mode : {TokenizerMode::hf, TokenizerMode::google})
      for (const bool lowercase : {true, false}) {
        const Tokenizer tokenizer(Vocabulary::load(test::shared_data(std::string("vocab/") + name + "-vocab.txt")), {.mode = mode, .lowercase = lowercase, .strip_accents = {}});
        const test::StraightforwardTokenizer straightforward(tokenizer.vocabulary(), tokenizer.options());
        Encoding actual, expected;
        for (const std::string& text : texts) {
          tokenizer.encode(text, actual);
          straightforward.encode(text, expected);
          INFO(name << " " << text.substr(0, 200));
          REQUIRE(actual.ids == expected.ids);
          REQUIRE(actual.word_ids == expected.word_ids);
          REQUIRE(actual.offsets == expected.offsets);
        }
      }
}

// Every line of every text, with the four published vocabularies: ids and offsets as hashes of tests/golden/write_tokenizer_golden.py.
TEST_CASE("hf mode equals the package on text of many languages") {
  const auto left_out = test::golden_exceptions();
  std::ifstream in(test::golden_file("tokenizer_corpora.txt"));
  REQUIRE(in);
  std::map<std::string, Tokenizer> tokenizers;
  std::map<std::string, std::string> texts;
  int compared = 0;
  for (std::string line; std::getline(in, line);) {
    if (line[0] == '#') continue;
    std::istringstream fields(line);
    std::string vocabulary, path, hash;
    REQUIRE(fields >> vocabulary >> path >> hash);
    if (!tokenizers.contains(vocabulary))
      tokenizers.emplace(vocabulary, Tokenizer(Vocabulary::load(test::shared_data("vocab/" + vocabulary + "-vocab.txt")), {.lowercase = vocabulary.find("-cased") == std::string::npos, .strip_accents = {}}));
    if (!texts.contains(path)) {
      InputStream stream(test::shared_data("corpus/" + path), path);
      std::vector<char> buffer(1 << 16);
      std::string& text = texts[path];
      while (const size_t n = stream.read(buffer)) text.append(buffer.data(), n);
    }
    std::istringstream text(texts[path]);
    std::string words;
    for (std::string paragraph; std::getline(text, paragraph);) {
      bool known = true;
      for (size_t at = 0; at < paragraph.size();) known = !left_out.contains(unicode::decode(paragraph, at)) && known;
      if (known) test::append_case(tokenizers.at(vocabulary), paragraph, words);
    }
    INFO(vocabulary << " " << path);
    CHECK(sha256(words).substr(0, 16) == hash);
    ++compared;
  }
  CHECK(compared == static_cast<int>(tokenizers.size() * texts.size()));
  CHECK(compared > 100);
}
