// check golden: the whole model against an independent implementation, and that the check can fail.
#include <catch2/catch.hpp>
#include <cstring>

#include "kernels/core/error.h"
#include "model/formats/safetensors.h"
#include "tests/temporary_directory.h"
#include "trainer/golden.h"

using namespace electra;

namespace {

const std::string kFolder = std::string(ELECTRA_SOURCE_DIR) + "/tests/golden/";

std::vector<std::string> failures(const std::string& file, DType dtype) {
  ThreadPool pool(2);
  std::vector<std::string> names;
  const auto lines = check_golden(file, dtype, Stream(pool));
  REQUIRE(lines.size() > 90);
  for (const GoldenLine& line : lines)
    if (!line.passed) names.push_back(line.name);
  return names;
}

// The file with one value of one tensor changed.
std::string changed(const test::TemporaryDirectory& dir, const std::string& tensor, float by) {
  const std::string bytes = test::read_file(kFolder + "layers.safetensors");
  const Safetensors file(bytes, "layers");
  std::string content(bytes);
  const auto at = file.find(tensor)->data.data();
  const size_t offset = static_cast<size_t>(content.size() - [&] {
    size_t rest = 0;
    bool after = false;
    for (const NamedTensor& t : file.tensors()) {
      after = after || t.name == tensor;
      if (after) rest += t.data.size();
    }
    return rest;
  }());
  float value = 0;
  std::memcpy(&value, at, 4);
  value += by;
  std::memcpy(content.data() + offset, &value, 4);
  test::write_file(dir / "changed.safetensors", content);
  return dir / "changed.safetensors";
}

}  // namespace

TEST_CASE("golden files pass in double and in fp32") {
  for (const char* name : {"layers", "long", "no_projection"})
    for (const DType dtype : {DType::f64, DType::f32}) {
      INFO(name << " " << name_of(dtype));
      CHECK(failures(kFolder + name + ".safetensors", dtype).empty());
    }
}

TEST_CASE("one changed weight fails") {
  const test::TemporaryDirectory dir;
  const std::string file = changed(dir, "weight/discriminator/electra.encoder.layer.1.attention.self.key.weight", 1e-3f);
  CHECK(failures(file, DType::f64).size() > 50);
  CHECK(!failures(file, DType::f32).empty());
}

TEST_CASE("a file that is no golden file is refused") {
  const test::TemporaryDirectory dir;
  ThreadPool pool(1);
  const auto check = [&](const std::string& file, DType dtype = DType::f64) { check_golden(file, dtype, Stream(pool)); };
  CHECK_THROWS_AS(check(dir / "none"), IoError);
  test::write_file(dir / "text", "not a golden file at all");
  CHECK_THROWS_AS(check(dir / "text"), FormatError);
  test::write_file(dir / "empty.safetensors", to_safetensors({}, {{"format", "pt"}}));
  CHECK_THROWS_WITH(check(dir / "empty.safetensors"), Catch::Contains("expected format electra-golden") || Catch::Contains("expected metadata 'version'"));
  CHECK_THROWS_WITH(check(kFolder + "layers.safetensors", DType::bf16), Catch::Contains("no bf16 reference in this file"));
  std::string no_steps = test::read_file(kFolder + "layers.safetensors");
  const std::string key = R"(\"steps\": )";
  const size_t at = no_steps.find(key);
  REQUIRE(at != std::string::npos);
  no_steps[at + key.size()] = '0';
  test::write_file(dir / "no_steps.safetensors", no_steps);
  CHECK_THROWS_WITH(check(dir / "no_steps.safetensors"), Catch::Contains("expected optimizer.steps of at least 1"));
}

TEST_CASE("a difference is judged by its bound, and what is not a number fails") {
  const auto line = judge("x", {1, 2 + 1e-10, 3}, {1, 2, 3}, {}, GoldenKind::forward, DType::f64, 0);
  CHECK(line.passed);
  CHECK(line.index == 1);
  CHECK(line.bound == Approx(3e-9));
  CHECK(!judge("x", {1, 2 + 1e-8, 3}, {1, 2, 3}, {}, GoldenKind::forward, DType::f64, 0).passed);
  CHECK(judge("x", {1, 2 + 1e-8, 3}, {1, 2, 3}, {}, GoldenKind::forward, DType::f32, 0).passed);
  CHECK(!judge("x", {1, NAN, 3}, {1, 2, 3}, {}, GoldenKind::forward, DType::f32, 0).passed);
  // Weights are measured by how far they moved.
  CHECK(!judge("w", {1 + 1e-6}, {1 + 2e-6}, {1}, GoldenKind::weight, DType::f32, 0).passed);
  CHECK(judge("w", {1 + 1.999e-6}, {1 + 2e-6}, {1}, GoldenKind::weight, DType::f32, 0).passed);
}
