// RUN/: where a training run writes. One process at a time.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace electra {

class RunDirectory {
 public:
  // Makes the directory, or takes an empty one. A run that never wrote a checkpoint is begun again.
  // Throws ConfigError that names --resume for a run with checkpoints; IoError for a directory that
  // holds something else, that cannot be written, or that another process writes to.
  static RunDirectory create(const std::string& path);
  // Throws as check() does, and IoError where another process writes to the run.
  static RunDirectory resume(const std::string& path);
  // Throws IoError where there is no run, and ConfigError, naming the run, for one of its checkpoints.
  static void check(const std::string& path);
  ~RunDirectory();
  RunDirectory(RunDirectory&& other) noexcept;
  RunDirectory& operator=(RunDirectory&&) = delete;

  const std::string& path() const { return path_; }
  std::string config() const { return path_ + "/config.resolved.yaml"; }
  std::string metrics() const { return path_ + "/metrics.jsonl"; }
  std::string log() const { return path_ + "/log.txt"; }
  std::string checkpoints() const { return path_ + "/checkpoints"; }
  std::string checkpoint(int64_t step) const;

 private:
  explicit RunDirectory(const std::string& path);  // locks
  std::string path_;
  int lock_ = -1;  // file descriptor of RUN/.lock
};

// "step-000001000"
std::string checkpoint_name(int64_t step);
// Its step; nothing for other names.
std::optional<int64_t> checkpoint_step(std::string_view name);

}  // namespace electra
