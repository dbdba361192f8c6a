// google mode against what the original's tokenizer wrote.
#include <catch2/catch.hpp>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/shared_data.h"
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
