// The algorithms of a matrix library: what is kept, written and read, and where they hold.
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "trainer/gemm_algorithms.h"

using namespace electra;

namespace {

struct Clear {
  ~Clear() { use_gemm_algorithms({}); }
};

// Two products that differ in every field.
TunedGemm example() {
  const GemmKey a{.m = 2048, .n = 256, .k = 1024, .a_type = DType::bf16, .c_type = DType::f32, .transpose_a = true, .transpose_b = false,
                  .accumulate = true, .bias = false, .workspace = uint64_t{1} << 33, .a_alignment = 256, .b_alignment = 16, .c_alignment = 4};
  const GemmKey b{.m = 1, .n = 2, .k = int64_t{1} << 40, .a_type = DType::f32, .c_type = DType::bf16, .transpose_a = false, .transpose_b = true,
                  .accumulate = false, .bias = true, .workspace = 0, .a_alignment = 8, .b_alignment = 64, .c_alignment = 128};
  return {{"cuBLASLt 13.1.0", "NVIDIA H200, compute capability 9.0"},
          {{a, {1, 2, 3, 4, 5, 6, 7, 0xfedcba9876543210u}}, {b, {~uint64_t{0}, 0, 0, 0, 0, 0, 0, 9}}}};
}

// The error of the example with one text in place of another.
std::string error_with(const std::string& from, const std::string& to) {
  std::string json = to_json(example());
  const size_t at = json.find(from);
  REQUIRE(at != std::string::npos);
  json.replace(at, from.size(), to);
  try {
    parse_tuned_gemm(json, "tuned.json");
  } catch (const FormatError& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("tuned algorithms are read as they were written") {
  const TunedGemm before = example(), after = parse_tuned_gemm(to_json(before), "tuned.json");
  CHECK(after.environment == before.environment);
  CHECK(after.algorithms == before.algorithms);
  CHECK(to_json(after) == to_json(before));
  CHECK(parse_tuned_gemm(to_json({before.environment, {}}), "tuned.json").algorithms.empty());
}

TEST_CASE("a file that holds no tuned algorithms is an error that says what was expected") {
  CHECK(error_with("electra-gemm-algorithms", "other") == "[tuned.json] expected format electra-gemm-algorithms, version 1, got another");
  CHECK(error_with("\"version\": 1", "\"version\": 2") == "[tuned.json] expected format electra-gemm-algorithms, version 1, got another");
  CHECK(error_with("\"bf16\"", "\"f64\"") == "[tuned.json] expected f32 or bf16, got 'f64'");
  const std::string digits(127, '0'), expected = "[tuned.json] expected 128 hexadecimal digits, got '";
  const auto with_algorithm = [](const std::string& text) {
    auto json = nlohmann::ordered_json::parse(to_json(example()));
    json["products"][0]["algorithm"] = text;
    try {
      parse_tuned_gemm(json.dump(), "tuned.json");
    } catch (const FormatError& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  CHECK(with_algorithm(digits) == expected + digits + "'");
  CHECK(with_algorithm(digits + "g") == expected + digits + "g'");
  CHECK(with_algorithm(digits + "1") == "no error");
  CHECK_THAT(error_with("\"workspace\"", "\"work\""), Catch::Contains("expected algorithms of a matrix library in JSON, got '"));
  CHECK_THAT(error_with("{", "["), Catch::Contains("expected algorithms of a matrix library in JSON, got '"));
  auto twice = nlohmann::ordered_json::parse(to_json(example()));
  twice["products"].push_back(twice["products"][0]);
  CHECK_THROWS_WITH(parse_tuned_gemm(twice.dump(), "tuned.json"), "[tuned.json] expected each product once, got m 1 n 2 k 1099511627776 again");
}

TEST_CASE("algorithms hold for one version of the library on one kind of device") {
  const GemmEnvironment here{"cuBLASLt 13.1.0", "NVIDIA H200, compute capability 9.0"};
  CHECK(why_not_used(here, here).empty());
  for (const GemmEnvironment& other : {GemmEnvironment{"cuBLASLt 13.0.0", here.device}, GemmEnvironment{here.matrix_library, "NVIDIA A100, compute capability 8.0"}})
    CHECK(why_not_used(other, here) ==
          "they were found with " + other.matrix_library + " on " + other.device + ", this is cuBLASLt 13.1.0 on NVIDIA H200, compute capability 9.0");
}

TEST_CASE("a kept algorithm is taken, a product without one is tuned once, and one that the library refuses again") {
  const Clear clear;
  const TunedGemm given = example();
  const GemmKey kept = given.algorithms.begin()->first;
  GemmKey other = kept;
  other.c_alignment = 2;
  int tuned = 0;
  const auto usable = [](const GemmAlgorithm&) { return true; };
  const auto tune = [&] { return GemmAlgorithm{static_cast<uint64_t>(100 + tuned++)}; };
  use_gemm_algorithms(given.algorithms);
  CHECK(gemm_algorithm(kept, usable, tune) == given.algorithms.at(kept));
  CHECK(tuned == 0);
  CHECK(gemm_algorithm(other, usable, tune) == GemmAlgorithm{100});
  CHECK(gemm_algorithm(other, usable, tune) == GemmAlgorithm{100});
  CHECK(tuned == 1);
  CHECK(gemm_algorithms().size() == 3);
  CHECK(gemm_algorithm(kept, [](const GemmAlgorithm&) { return false; }, tune) == GemmAlgorithm{101});
  CHECK(gemm_algorithms().at(kept) == GemmAlgorithm{101});
}

TEST_CASE("what an algorithm is chosen for has the shapes, types and alignments of the product") {
  alignas(512) static std::byte memory[1024];
  const auto tensor = [&](size_t at, Shape shape, DType type) { return Tensor{memory + at, shape, type}; };
  const GemmKey key = gemm_key({.a = tensor(0, {5, 3}, DType::bf16), .b = tensor(16, {5, 7}, DType::bf16), .c = tensor(4, {3, 7}, DType::f32),
                                .transpose_a = true, .accumulate = true, .workspace = tensor(0, {100}, DType::u8)}, true);
  CHECK(key == GemmKey{.m = 3, .n = 7, .k = 5, .a_type = DType::bf16, .c_type = DType::f32, .transpose_a = true, .transpose_b = false,
                       .accumulate = true, .bias = true, .workspace = 100, .a_alignment = 256, .b_alignment = 16, .c_alignment = 4});
}
