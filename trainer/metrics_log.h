// metrics.jsonl: one JSON object a line, written as soon as it is known.
//
// {"kind": "header", "schema": 1, "version", "commit", "config_hash", "started"} first, then
// {"kind": "train" | "eval", "step", …}. A resumed run appends {"kind": "resume", "step",
// "version", "commit", "started"} and goes on.
#pragma once
#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "trainer/append_file.h"

namespace electra {

struct Metric {
  std::string_view name;
  std::variant<int64_t, double> value;  // not finite: written as null
  Metric(std::string_view n, std::integral auto v) : name(n), value(static_cast<int64_t>(v)) {}
  Metric(std::string_view n, std::floating_point auto v) : name(n), value(static_cast<double>(v)) {}
};

class MetricsLog {
 public:
  // A new file, in place of any that stands there.
  static MetricsLog create(const std::string& path, const std::string& config_hash);
  // Keeps what was written up to and including step, drops later lines and a half-written last one.
  // Where there is no file, begins one. Throws FormatError for a file that is not ours.
  static MetricsLog resume(const std::string& path, const std::string& config_hash, int64_t step);

  void write(std::string_view kind, int64_t step, const std::vector<Metric>& metrics);

 private:
  explicit MetricsLog(const std::string& path) : file_(path) {}
  AppendFile file_;
};

}  // namespace electra
