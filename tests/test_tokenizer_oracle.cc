// google mode against what the original's tokenizer wrote.
#include <algorithm>
#include <catch2/catch.hpp>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/shared_data.h"
#include "tests/straightforward_tokenizer.h"
#include "tokenizer/tokenizer.h"

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
