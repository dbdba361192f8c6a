// check golden: the whole model against an independent implementation, and that the check can fail.
#include <catch2/catch.hpp>
#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <span>

#include "kernels/core/error.h"
#include "model/formats/safetensors.h"
#include "tests/source_directory.h"
#include "tests/on_device.h"
#include "tests/temporary_directory.h"
#include "trainer/golden.h"

using namespace electra;

namespace {

Device& device() {
  static ThreadPool pool(1);
  static Device device(test::kTestDevice, pool);
  return device;
}

const std::string kFolder = test::source_directory() + "/tests/golden/";

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

// The file with other contents: edit may change its tensors and its metadata.
template <class Edit> std::string edited(const test::TemporaryDirectory& dir, Edit edit) {
  const Safetensors file(test::read_file(kFolder + "layers.safetensors"), "layers");
  std::vector<NamedTensor> tensors = file.tensors();
  std::map<std::string, std::string> metadata = file.metadata();
  edit(tensors, metadata);
  test::write_file(dir / "edited.safetensors", to_safetensors(tensors, metadata));
  return dir / "edited.safetensors";
}

NamedTensor& find(std::vector<NamedTensor>& tensors, const std::string& name) {
  return *std::find_if(tensors.begin(), tensors.end(), [&](const NamedTensor& t) { return t.name == name; });
}

}  // namespace

TEST_CASE("golden files pass in double and in fp32") {
  for (const char* name : {"layers", "long", "no_projection"})
    for (const DType dtype : {DType::f64, DType::f32}) {
      INFO(name << " " << name_of(dtype));
      CHECK(failures(kFolder + name + ".safetensors", dtype).empty());
    }
}

// 20 steps of "layers" among them: its step losses in fp32 stay within 1e-5 of the file's, and so of the CPU's.
TEST_CASE("golden files pass on the device in fp32 and in bf16", test::kOnDevice) {
  for (const char* name : {"layers", "long", "no_projection"})
    for (const DType dtype : {DType::f32, DType::bf16}) {
      INFO(name << " " << name_of(dtype));
      const auto lines = check_golden(kFolder + name + ".safetensors", dtype, device().stream());
      for (const GoldenLine& line : lines) {
        INFO(line.name << ": error " << line.absolute << " at " << line.index << ", bound " << line.bound);
        CHECK(line.passed);
      }
      CHECK(std::count_if(lines.begin(), lines.end(), [](const GoldenLine& line) { return line.name == "expect/step_losses"; }) == 1);
    }
  const test::TemporaryDirectory dir;
  const std::string wrong = changed(dir, "weight/discriminator/electra.encoder.layer.1.attention.self.value.weight", 0.5f);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const auto lines = check_golden(wrong, dtype, device().stream());
    CHECK(std::count_if(lines.begin(), lines.end(), [](const GoldenLine& line) { return !line.passed; }) > 5);
  }
  CHECK_THROWS_WITH(check_golden(kFolder + "layers.safetensors", DType::f64, device().stream()),
                    "[--dtype] expected f32 or bf16 on a GPU, got f64");
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
  CHECK_THROWS_WITH(check(kFolder + "layers.safetensors", DType::bf16), "[--dtype] expected f64 or f32 on the CPU, got bf16");
  const std::string plain = edited(dir, [](auto& tensors, auto&) {
    std::erase_if(tensors, [](const NamedTensor& t) { return t.name.starts_with("bf16_error/"); });
  });
  CHECK_THROWS_WITH(check(plain, DType::bf16), Catch::Contains("no bf16 reference in this file"));
  const std::string no_steps = edited(dir, [](auto&, auto& metadata) {
    std::string& config = metadata.at("config");
    const std::string key = "\"steps\": 20";
    config.replace(config.find(key), key.size(), "\"steps\": 0");
  });
  CHECK_THROWS_WITH(check(no_steps), Catch::Contains("expected optimizer.steps of at least 1"));
}

TEST_CASE("a golden file that speaks of tensors the model lacks is refused") {
  const test::TemporaryDirectory dir;
  ThreadPool pool(1);
  const double one = 1;
  for (const std::string name : {"weight/discriminator/electra.encoder.layer.2.output.dense.weight", "grad/generator/no.such", "after/generator/no.such", "expect/losses"}) {
    const std::string file = edited(dir, [&](auto& tensors, auto&) {
      if (name.starts_with("weight/")) tensors.push_back({name, "F32", {2}, std::as_bytes(std::span(&one, 1))});
      else tensors.push_back({name, "F64", {1}, std::as_bytes(std::span(&one, 1))});
    });
    CHECK_THROWS_AS(check_golden(file, DType::f64, Stream(pool)), FormatError);
    CHECK_THROWS_WITH(check_golden(file, DType::f64, Stream(pool)),
                      "[" + file + "] expected only tensors that the model in metadata 'config' has, got " + name);
  }
  // What says nothing about the model may stand there.
  const std::string file = edited(dir, [&](auto& tensors, auto&) { tensors.push_back({"remark", "F64", {1}, std::as_bytes(std::span(&one, 1))}); });
  CHECK(failures(file, DType::f64).empty());
}

TEST_CASE("the floor of a gradient's bound is that of the norm in the file") {
  const test::TemporaryDirectory dir;
  ThreadPool pool(1);
  for (const double norm : {1e9, 1e12}) {
    const std::string file = edited(dir, [&](auto& tensors, auto&) { find(tensors, "expect/grad_norm").data = std::as_bytes(std::span(&norm, 1)); });
    int gradients = 0;
    for (const GoldenLine& line : check_golden(file, DType::f64, Stream(pool))) {
      if (line.name == "expect/grad_norm") CHECK(!line.passed);
      if (!line.name.starts_with("grad/")) continue;
      ++gradients;
      CHECK(line.bound == Approx(1e-9 * 1e-4 * norm));
    }
    CHECK(gradients > 30);
  }
  for (const double norm : {static_cast<double>(INFINITY), static_cast<double>(NAN), -1.0}) {
    const std::string file = edited(dir, [&](auto& tensors, auto&) { find(tensors, "expect/grad_norm").data = std::as_bytes(std::span(&norm, 1)); });
    CHECK_THROWS_AS(check_golden(file, DType::f64, Stream(pool)), FormatError);
    CHECK_THROWS_WITH(check_golden(file, DType::f64, Stream(pool)), Catch::Contains("expected a finite expect/grad_norm of at least 0, got "));
  }
}

TEST_CASE("a golden file of a model that cannot be built is a damaged file") {
  const test::TemporaryDirectory dir;
  ThreadPool pool(1);
  const std::string file = edited(dir, [](auto&, auto& metadata) {
    std::string& config = metadata.at("config");
    const std::string key = "\"num_heads\": 1";
    config.replace(config.find(key), key.size(), "\"num_heads\": 3");
  });
  CHECK_THROWS_AS(check_golden(file, DType::f64, Stream(pool)), FormatError);
  CHECK_THROWS_WITH(check_golden(file, DType::f64, Stream(pool)), Catch::Contains("[discriminator.num_heads] expected a divisor of hidden_size 64, got 3"));
}

TEST_CASE("a difference is judged by its bound, and what is not a number fails") {
  const auto line = judge("x", {1, 2 + 1e-10, 3}, {1, 2, 3}, {}, GoldenKind::forward, DType::f64, 0);
  CHECK(line.passed);
  CHECK(line.index == 1);
  CHECK(line.bound == Approx(3e-9));
  CHECK(!judge("x", {1, 2 + 1e-8, 3}, {1, 2, 3}, {}, GoldenKind::forward, DType::f64, 0).passed);
  CHECK(judge("x", {1, 2 + 1e-8, 3}, {1, 2, 3}, {}, GoldenKind::forward, DType::f32, 0).passed);
  CHECK(!judge("x", {1, NAN, 3}, {1, 2, 3}, {}, GoldenKind::forward, DType::f32, 0).passed);
  CHECK(!judge("x", {1, 2}, {1, INFINITY}, {}, GoldenKind::forward, DType::f32, 0).passed);
  CHECK(!judge("x", {1, INFINITY}, {1, INFINITY}, {}, GoldenKind::forward, DType::f32, 0).passed);
  // bf16: twice the reference's own error and 2⁻⁷ of the scale.
  CHECK(judge("x", {1, 2.03}, {1, 2}, {}, GoldenKind::forward, DType::bf16, 0, 0.01).passed);
  CHECK(!judge("x", {1, 2.04}, {1, 2}, {}, GoldenKind::forward, DType::bf16, 0, 0.01).passed);
  // Weights are measured by how far they moved.
  CHECK(!judge("w", {1 + 1e-6}, {1 + 2e-6}, {1}, GoldenKind::weight, DType::f32, 0).passed);
  CHECK(judge("w", {1 + 1.999e-6}, {1 + 2e-6}, {1}, GoldenKind::weight, DType::f32, 0).passed);
}
