// Inputs for a model against the PyPI package `tokenizers`: hashes that tests/golden/write_input_golden.py wrote, and what the package
// has no word for.
#include "tokenizer/model_input.h"

#include <array>

#include "kernels/core/error.h"
#include "tests/error_of.h"
#include "tests/golden_texts.h"
#include "tokenizer/sha256.h"

using namespace electra;
using namespace electra::test;

namespace {

constexpr uint32_t kCases = 16384, kBlock = 1024;

struct Case {
  uint32_t first = 0;
  std::optional<uint32_t> second;
  ModelInputOptions options;
};

Case case_of(uint32_t number) {
  const auto [a, b, c, d] = std::to_array(philox(20200323 ^ fnv1a64("tokenizer/model_inputs"), {.step = number}).word);
  Case k;
  const bool pair = a % 4 != 0;
  k.first = a >> 8 & 0x3FFF;
  if (pair) k.second = b >> 8 & 0x3FFF;
  k.options.truncation = std::array{Truncation::longest_first, Truncation::only_first, Truncation::only_second}[d % (pair ? 3 : 2)];
  const uint32_t length = 5 + b % 36;
  k.options.max_length = length;
  k.options.stride = c >> 16 & 1 ? c % (length - 3) : c % 3;
  k.options.overflow = true;
  k.options.offsets = OffsetUnit::code_points;
  return k;
}

void append_case(const Tokenizer& tokenizer, const std::vector<std::string>& texts, const Case& k, std::string& stream) {
  std::vector<ModelInput> inputs;
  try {
    inputs = encode_inputs(tokenizer, texts[k.first], k.second ? std::optional<std::string_view>(texts[*k.second]) : std::nullopt, k.options);
  } catch (const ConfigError&) {  // the package refuses it, too
  }
  append_u32(static_cast<uint32_t>(inputs.size()), stream);
  for (const ModelInput& input : inputs) {
    append_u32(static_cast<uint32_t>(input.ids.size()), stream);
    for (size_t i = 0; i < input.ids.size(); ++i)
      for (const auto value : {static_cast<uint32_t>(input.ids[i]), static_cast<uint32_t>(input.segment_ids[i]), static_cast<uint32_t>(input.sequence_ids[i]),
                               static_cast<uint32_t>(input.word_ids[i]), input.offsets[i].begin, input.offsets[i].end})
        append_u32(value, stream);
  }
}

Tokenizer small() {
  return Tokenizer(Vocabulary::from_tokens({"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "d", "##d", "\u00e9"}, "test"), {.lowercase = true, .strip_accents = false, .split_chinese = true});
}

std::vector<std::vector<int32_t>> ids_of(const std::vector<ModelInput>& inputs) {
  std::vector<std::vector<int32_t>> out;
  for (const ModelInput& input : inputs) out.push_back(input.ids);
  return out;
}

std::string error_of(std::string_view first, std::optional<std::string_view> second, const ModelInputOptions& options) {
  return test::error_of<ConfigError>([&] { encode_inputs(small(), first, second, options); });
}

}  // namespace

TEST_CASE("inputs equal the package's for texts and pairs, strategies, strides and overflow") {
  const auto left_out = golden_exceptions();
  std::vector<std::string> texts;
  for (uint32_t i = 0; i < 0x4000; ++i) texts.push_back(golden_text(i, left_out));
  const Tokenizer tokenizer(Vocabulary::from_tokens(golden_vocabulary(), "golden"), {});
  std::ifstream in(golden_file("input_hashes.txt"));
  uint32_t number = 0;
  for (std::string hash; std::getline(in, hash);) {
    std::string stream;
    const uint32_t begin = number;
    for (; number < begin + kBlock; ++number) append_case(tokenizer, texts, case_of(number), stream);
    INFO("cases " << begin << " to " << number - 1 << "; tests/golden/write_input_golden.py --show N shows the package's inputs of one");
    CHECK(sha256(stream).substr(0, 16) == hash);
  }
  CHECK(number == kCases);
}

TEST_CASE("a pair has its special tokens, segments, words and offsets") {
  const std::vector<ModelInput> inputs = encode_inputs(small(), "a \u00c9d", "b", {});
  REQUIRE(inputs.size() == 1);
  const ModelInput& input = inputs[0];
  CHECK(input.ids == std::vector<int32_t>{2, 5, 10, 9, 3, 6, 3});
  CHECK(input.segment_ids == std::vector<int32_t>{0, 0, 0, 0, 0, 1, 1});
  CHECK(input.sequence_ids == std::vector<int32_t>{-1, 0, 0, 0, -1, 1, -1});
  CHECK(input.word_ids == std::vector<int32_t>{-1, 0, 1, 1, -1, 0, -1});
  CHECK(input.offsets == std::vector<ByteRange>{{0, 0}, {0, 1}, {2, 4}, {4, 5}, {0, 0}, {0, 1}, {0, 0}});
  CHECK(encode_inputs(small(), "a \u00c9d", "b", {.offsets = OffsetUnit::code_points})[0].offsets == std::vector<ByteRange>{{0, 0}, {0, 1}, {2, 3}, {3, 4}, {0, 0}, {0, 1}, {0, 0}});
  CHECK(encode_inputs(small(), "", std::nullopt, {})[0].ids == std::vector<int32_t>{2, 3});
}

TEST_CASE("what is cut off goes to further inputs if at all") {
  ModelInputOptions o{.max_length = 5};
  CHECK(ids_of(encode_inputs(small(), "a b c d a b", std::nullopt, o)) == std::vector<std::vector<int32_t>>{{2, 5, 6, 7, 3}});
  o.stride = 7;  // of no effect
  CHECK(encode_inputs(small(), "a b c d a b", std::nullopt, o).size() == 1);
  o.overflow = true;
  o.stride = 1;
  CHECK(ids_of(encode_inputs(small(), "a b c d a b", std::nullopt, o)) == std::vector<std::vector<int32_t>>{{2, 5, 6, 7, 3}, {2, 7, 8, 5, 3}, {2, 5, 6, 3}});
  o.truncation = Truncation::none;
  CHECK(ids_of(encode_inputs(small(), "a b c d a b", std::nullopt, o)) == std::vector<std::vector<int32_t>>{{2, 5, 6, 7, 8, 5, 6, 3}});
}

TEST_CASE("an input that cannot be cut as asked is refused") {
  CHECK(error_of("a", "b", {.max_length = 4}) == "[truncation] expected a length of at least 5 tokens, got 4");
  CHECK(error_of("a", std::nullopt, {.max_length = 2}) == "[truncation] expected a length of at least 3 tokens, got 2");
  CHECK(error_of("a", std::nullopt, {.truncation = Truncation::only_second}) == "[truncation] expected a second text to cut, got none");
  CHECK(error_of("a", "b c d a b c", {.truncation = Truncation::only_first, .max_length = 7}) == "[truncation] expected a text of more than 3 tokens, which are to be cut, got 1");
  CHECK(error_of("a b c d", std::nullopt, {.max_length = 5, .overflow = true, .stride = 3}) == "[truncation] expected a stride below the 3 tokens of a part, got 3");
  CHECK(error_of("a", std::nullopt, {.stride = -1}) == "[truncation] expected a stride of at least 0, got -1");
}
