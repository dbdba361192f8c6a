#include "trainer/metrics_log.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <ctime>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "trainer/build_info.h"

namespace electra {
namespace {

using Json = nlohmann::ordered_json;
constexpr int kSchema = 1;

// dump() writes numbers that are not finite as null.
std::string line_of(const Json& json) { return json.dump() + "\n"; }

// version, commit and start time of this process
void add_process(Json& json) {
  const BuildInfo build = build_info();
  json["version"] = build.version;
  json["commit"] = build.commit;
  json["started"] = fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)));
}

std::string header_line(const std::string& config_hash) {
  Json json = {{"kind", "header"}, {"schema", kSchema}, {"config_hash", config_hash}};
  add_process(json);
  return line_of(json);
}

void check_header(const std::string& path, const std::string& line) {
  const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || json.value("kind", "") != "header")
    throw FormatError(path + ":1",
                      fmt::format("expected the header of a metrics file, got '{:.60}'", line));
  if (json.value("schema", 0) != kSchema)
    throw FormatError(path + ":1",
                      fmt::format("expected schema {}, got {}", kSchema, json.value("schema", 0)));
}

// The lines of a file that belong to steps up to `step`. A last line that a killed process left
// half-written is no JSON.
std::string lines_up_to(const std::string& path, int64_t step) {
  std::ifstream in(path, std::ios::binary);
  std::string kept, line;
  for (bool first = true; std::getline(in, line); first = false) {
    if (first) check_header(path, line);
    const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (json.is_object() && json.value("step", int64_t{0}) <= step) kept += line + "\n";
  }
  return kept;
}

// A reader, or a crash, sees the old content or the new, never half of it.
void replace_content(const std::string& path, const std::string& content) {
  const std::string temporary = path + ".new";
  std::error_code error;
  std::filesystem::remove(temporary, error);
  AppendFile(temporary).write(content);
  std::filesystem::rename(temporary, path, error);
  if (error)
    throw IoError(path, fmt::format("expected to replace the file, got '{}'", error.message()));
}

}  // namespace

MetricsLog MetricsLog::create(const std::string& path, const std::string& config_hash) {
  replace_content(path, header_line(config_hash));
  return MetricsLog(path);
}

MetricsLog MetricsLog::resume(const std::string& path, const std::string& config_hash,
                              int64_t step) {
  const std::string kept = lines_up_to(path, step);
  if (kept.empty()) return create(path, config_hash);
  Json mark = {{"kind", "resume"}, {"step", step}};
  add_process(mark);
  replace_content(path, kept + line_of(mark));
  return MetricsLog(path);
}

void MetricsLog::write(std::string_view kind, int64_t step, const std::vector<Metric>& metrics) {
  Json json = {{"kind", kind}, {"step", step}};
  for (const Metric& metric : metrics) {
    Json& value = json[std::string(metric.name)];
    std::visit([&](const auto x) { value = x; }, metric.value);
  }
  file_.write(line_of(json));
}

}  // namespace electra
