// Texts that tokenizers get wrong: tests/golden/adversarial_texts.json, what it says to repeat, and all pairs of the short ones.
#pragma once
#include <catch2/catch.hpp>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace electra::test {

// As write_tokenizer_golden.py makes them.
inline std::vector<std::string> adversarial_texts() {
  constexpr size_t kLongestOfPairs = 30;  // bytes of both together
  std::ifstream in(ELECTRA_SOURCE_DIR "/tests/golden/adversarial_texts.json");
  REQUIRE(in);
  const auto json = nlohmann::json::parse(in);
  auto texts = json.at("texts").get<std::vector<std::string>>();
  const std::vector<std::string> single = texts;
  for (const int times : json.at("times"))
    for (const std::string letters : json.at("repeated")) {
      std::string repeated;
      for (int k = 0; k < times; ++k) repeated += letters;
      texts.push_back(repeated);
      texts.push_back("x" + repeated + "y z");
    }
  for (const std::string& left : single)
    for (const std::string& right : single)
      if (left.size() + right.size() < kLongestOfPairs) texts.push_back(left + right);
  return texts;
}

}  // namespace electra::test
