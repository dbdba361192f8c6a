#include <catch2/catch.hpp>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "kernels/core/error.h"
#include "tests/temporary_directory.h"
#include "trainer/build_info.h"
#include "trainer/metrics_log.h"

using namespace electra;
using test::read_file;
using test::write_file;

namespace {

std::vector<nlohmann::json> lines_of(const std::string& path) {
  std::istringstream in(read_file(path));
  std::vector<nlohmann::json> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(nlohmann::json::parse(line));
  return lines;
}

}  // namespace

TEST_CASE("a metrics file begins with its header") {
  const test::TemporaryDirectory directory;
  const std::string path = directory / "metrics.jsonl";
  write_file(path, "left over\n");
  const MetricsLog log = MetricsLog::create(path, "00ff");
  const auto lines = lines_of(path);
  REQUIRE(lines.size() == 1);
  CHECK(lines[0]["kind"] == "header");
  CHECK(lines[0]["schema"] == 1);
  CHECK(lines[0]["config_hash"] == "00ff");
  CHECK(lines[0]["version"] == build_info().version);
  CHECK(lines[0]["commit"] == build_info().commit);
  CHECK(lines[0]["started"].get<std::string>().size() ==
        std::string("2026-01-01T00:00:00Z").size());
  CHECK(lines[0].size() == 6);
  CHECK_FALSE(std::filesystem::exists(path + ".new"));
}

TEST_CASE("lines are written at once, in order, and round-trip") {
  const test::TemporaryDirectory directory;
  const std::string path = directory / "metrics.jsonl";
  MetricsLog log = MetricsLog::create(path, "");
  log.write("train", 3, {{"tokens", int64_t{1} << 40}, {"loss", 0.1}, {"seconds", 2.0f}});
  const std::string text = read_file(path);
  CHECK(text.find("{\"kind\":\"train\",\"step\":3,\"tokens\":1099511627776,\"loss\":0.1,"
                  "\"seconds\":2.0}\n") != std::string::npos);
}

TEST_CASE("what is not finite is null, so that every line stays JSON") {
  const test::TemporaryDirectory directory;
  const std::string path = directory / "metrics.jsonl";
  MetricsLog log = MetricsLog::create(path, "");
  log.write("train", 1,
            {{"a", std::numeric_limits<double>::quiet_NaN()},
             {"b", std::numeric_limits<double>::infinity()},
             {"c", 1.0}});
  const auto line = lines_of(path).back();
  CHECK(line["a"].is_null());
  CHECK(line["b"].is_null());
  CHECK(line["c"] == 1.0);
}

TEST_CASE(
    "a resumed file keeps the steps before the resume point and drops later ones and half a line") {
  const test::TemporaryDirectory directory;
  const std::string path = directory / "metrics.jsonl";
  {
    MetricsLog log = MetricsLog::create(path, "abcd");
    for (int step = 1; step <= 5; ++step) log.write("train", step, {{"loss", 1.0 * step}});
    log.write("eval", 3, {{"loss", 9.0}});
  }
  write_file(path, read_file(path) + "{\"kind\":\"train\",\"step\":2,\"lo");
  {
    MetricsLog log = MetricsLog::resume(path, "abcd", 3);
    log.write("train", 4, {{"loss", 44.0}});
  }
  const auto lines = lines_of(path);
  REQUIRE(lines.size() == 1 + 3 + 1 + 1 + 1);
  CHECK(lines[0]["kind"] == "header");
  for (size_t step = 1; step <= 3; ++step) CHECK(lines[step]["step"] == step);
  CHECK(lines[4]["kind"] == "eval");
  CHECK(lines[5]["kind"] == "resume");
  CHECK(lines[5]["step"] == 3);
  CHECK(lines[6]["step"] == 4);
  CHECK(lines[6]["loss"] == 44.0);
}

TEST_CASE("a resume without a metrics file begins one") {
  const test::TemporaryDirectory directory;
  const std::string path = directory / "metrics.jsonl";
  const MetricsLog log = MetricsLog::resume(path, "abcd", 3);
  CHECK(lines_of(path).at(0)["kind"] == "header");
}

TEST_CASE("a foreign file is not continued") {
  const test::TemporaryDirectory directory;
  const std::string path = directory / "metrics.jsonl";
  write_file(path, "{\"kind\":\"header\",\"schema\":2}\n");
  CHECK_THROWS_WITH(MetricsLog::resume(path, "", 1), "[" + path + ":1] expected schema 1, got 2");
  write_file(path, "hello\n");
  CHECK_THROWS_WITH(MetricsLog::resume(path, "", 1),
                    "[" + path + ":1] expected the header of a metrics file, got 'hello'");
  CHECK(read_file(path) == "hello\n");
}

TEST_CASE("a full disk is an error that says so") {
  AppendFile file("/dev/full");
  CHECK_THROWS_WITH(file.write("x"),
                    "[/dev/full] expected to append 1 bytes, got 'No space left on device'");
}
