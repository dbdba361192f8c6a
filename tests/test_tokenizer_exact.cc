// hf mode against the PyPI package `tokenizers`: ids and offsets of every code point in context, 300,000 random strings and adversarial texts, as
// hashes of 4,096 cases each that tests/golden/write_tokenizer_golden.py wrote. It makes the same strings in Python.
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "tests/adversarial_texts.h"
#include "tests/golden_texts.h"
#include "tokenizer/sha256.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/unicode.h"

using namespace electra;
using namespace electra::test;

namespace {

constexpr size_t kBlock = 4096, kRandom = 300000;

const std::map<std::string, TokenizerOptions>& configurations() {
  static const std::map<std::string, TokenizerOptions> all = {
      {"uncased", {.lowercase = true, .strip_accents = {}, .split_chinese = true}},
      {"cased", {.lowercase = false, .strip_accents = {}, .split_chinese = true}},
      {"accents_kept", {.lowercase = true, .strip_accents = false, .split_chinese = false}},
      {"accents_stripped", {.lowercase = false, .strip_accents = true, .split_chinese = true}},
  };
  return all;
}

std::string in_context(char32_t c) {
  const std::string s = utf8(c);
  return "x" + s + "Y " + s + " \u00C9" + s + "\u0316";
}

// The strings of a block, by the name that the golden file has for it.
std::vector<std::string> block_strings(const std::string& name, const std::map<char32_t, char32_t>& left_out) {
  std::vector<std::string> out;
  if (name == "adversarial_0") return adversarial_texts();
  const size_t first = std::stoul(name.substr(name.find('_') + 1)) * kBlock;
  if (name.starts_with("point")) {
    static const std::vector<char32_t> points = [&] {
      std::vector<char32_t> all;
      for (char32_t c = 0; c < 0x110000; ++c)
        if (!is_surrogate(c) && !left_out.contains(c)) all.push_back(c);
      return all;
    }();
    for (size_t i = first; i < std::min(first + kBlock, points.size()); ++i) out.push_back(in_context(points[i]));
  } else {
    for (size_t i = first; i < std::min(first + kBlock, kRandom); ++i) out.push_back(golden_text(static_cast<uint32_t>(i), left_out));
  }
  return out;
}

void check_blocks(const std::string& kind, size_t expected_blocks) {
  const auto left_out = golden_exceptions();
  const Vocabulary all = Vocabulary::from_tokens(golden_vocabulary(), "exact");
  std::map<std::string, std::map<std::string, std::string>> hashes;  // block, configuration
  std::ifstream in(golden_file("tokenizer_hashes.txt"));
  REQUIRE(in);
  for (std::string line; std::getline(in, line);) {
    if (line[0] == '#') continue;
    std::istringstream fields(line);
    std::string configuration, block, hash;
    REQUIRE(fields >> configuration >> block >> hash);
    if (block.starts_with(kind)) hashes[block][configuration] = hash;
  }
  REQUIRE(hashes.size() == expected_blocks);
  std::map<std::string, Tokenizer> tokenizers;
  for (const auto& [name, options] : configurations()) tokenizers.emplace(name, Tokenizer(all, options));
  int wrong = 0;
  for (const auto& [block, of_configuration] : hashes) {
    const std::vector<std::string> strings = block_strings(block, left_out);
    REQUIRE(of_configuration.size() == configurations().size());
    for (const auto& [configuration, hash] : of_configuration) {
      std::string stream;
      for (const std::string& text : strings) append_case(tokenizers.at(configuration), text, stream);
      if (sha256(stream).substr(0, 16) == hash) continue;
      const std::filesystem::path file = std::filesystem::temp_directory_path() / ("electra_" + configuration + "_" + block);
      std::ofstream(file, std::ios::binary) << configuration << " " << block << "\n" << stream;
      INFO("to see the first differences: tests/golden/write_tokenizer_golden.py --compare " << file.string());
      CHECK(configuration + " " + block == "as in the package");
      if (++wrong == 20) FAIL("and perhaps more");
    }
  }
}

}  // namespace

TEST_CASE("hf mode equals the package on every code point in context") { check_blocks("point", (0x110000 - 0x800 - golden_exceptions().size() + kBlock - 1) / kBlock); }

TEST_CASE("hf mode equals the package on random strings over all scripts") { check_blocks("random", (kRandom + kBlock - 1) / kBlock); }

TEST_CASE("hf mode equals the package on adversarial texts") { check_blocks("adversarial", 1); }

// What is left out above: characters newer than ICU. A newer ICU must do as the package does.
TEST_CASE("the exceptions are characters that ICU does not know, or treats as the package does") {
  for (const auto& [c, lower] : golden_exceptions()) {
    INFO("U+" << std::hex << static_cast<uint32_t>(c));
    const bool unknown = unicode::is_removed(c, TokenizerMode::google);  // which removes what is not assigned
    CHECK((unknown ? unicode::lowercase(c) == std::u32string(1, c) : unicode::lowercase(c) == std::u32string(1, lower)));
    CHECK(c != lower);
  }
}
