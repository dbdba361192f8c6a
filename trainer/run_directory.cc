#include "trainer/run_directory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <utility>
#include <vector>

#include "kernels/core/error.h"

namespace electra {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "step-", kEvents = "events.out.tfevents.";

std::vector<std::string> names_in(const std::string& directory) {
  std::error_code error;
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory, error))
    names.push_back(entry.path().filename().string());
  if (error)
    throw IoError("run", fmt::format("expected to read the directory '{}', got '{}'", directory,
                                     error.message()));
  std::sort(names.begin(), names.end());
  return names;
}

bool has_checkpoints(const std::string& run) {
  const std::string checkpoints = run + "/checkpoints";
  if (!fs::is_directory(checkpoints)) return false;
  const std::vector<std::string> names = names_in(checkpoints);
  return std::any_of(names.begin(), names.end(),
                     [](const std::string& name) { return checkpoint_step(name).has_value(); });
}

void make_directories(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error)
    throw IoError("run", fmt::format("expected to create the directory '{}', got '{}'", path,
                                     error.message()));
}

}  // namespace

std::string checkpoint_name(int64_t step) { return fmt::format("{}{:09d}", kPrefix, step); }

std::optional<int64_t> checkpoint_step(std::string_view name) {
  if (!name.starts_with(kPrefix)) return std::nullopt;
  const std::string_view digits = name.substr(kPrefix.size());
  int64_t step = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), step);
  if (error != std::errc() || end != digits.data() + digits.size() || checkpoint_name(step) != name)
    return std::nullopt;
  return step;
}

RunDirectory RunDirectory::create(const std::string& path) {
  std::error_code error;
  if (fs::exists(path, error) && !fs::is_directory(path, error))
    throw IoError("run", fmt::format("expected a directory or nothing at '{}', got a file", path));
  if (fs::is_directory(path, error)) {
    const std::vector<std::string> names = names_in(path);
    const bool is_run = std::binary_search(names.begin(), names.end(), "config.resolved.yaml") ||
                        fs::exists(path + "/.lock");
    if (!names.empty() && !is_run)
      throw IoError(
          "run",
          fmt::format("expected a new or empty directory, got '{}', which holds other files ('{}')",
                      path, names[0]));
    if (has_checkpoints(path))
      throw ConfigError("run", fmt::format("expected a new directory, got '{}', which holds a run; "
                                           "'electra pretrain --resume {}' continues it",
                                           path, path));
  }
  make_directories(path + "/checkpoints");
  RunDirectory run(path);
  // What a run left that never came to a checkpoint.
  for (const std::string& name : names_in(path))
    if (name == "metrics.jsonl" || name.starts_with(kEvents)) fs::remove(path + "/" + name, error);
  return run;
}

void RunDirectory::check(const std::string& path) {
  std::error_code error;
  if (!fs::is_directory(path, error))
    throw IoError("run",
                  fmt::format("expected the directory of a run, got '{}', which is none", path));
  const fs::path canonical = fs::canonical(path);
  const bool is_checkpoint = fs::exists(canonical / "state.json");
  if (is_checkpoint || canonical.filename() == "checkpoints") {
    const fs::path folder = is_checkpoint ? canonical.parent_path() : canonical;
    const bool in_run = folder.filename() == "checkpoints";
    throw ConfigError(
        "run",
        fmt::format("expected the directory of a run, got '{}', {}; --resume {} continues from the "
                    "latest checkpoint, --init-from takes the weights of any into a new run",
                    path, is_checkpoint ? "which is a checkpoint" : "where its checkpoints are",
                    in_run ? folder.parent_path().string() : "RUN"));
  }
  if (!fs::exists(canonical / "config.resolved.yaml", error))
    throw IoError(
        "run",
        fmt::format("expected the directory of a run, got '{}', which has no config.resolved.yaml",
                    path));
}

RunDirectory RunDirectory::resume(const std::string& path) {
  check(path);
  return RunDirectory(path);
}

RunDirectory::RunDirectory(const std::string& path) : path_(path) {
  const std::string file = path + "/.lock";
  lock_ = open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (lock_ < 0)
    throw IoError("run",
                  fmt::format("expected to write to '{}', got '{}'", path, std::strerror(errno)));
  if (flock(lock_, LOCK_EX | LOCK_NB) != 0) {
    std::array<char, 32> owner{};
    if (pread(lock_, owner.data(), owner.size() - 1, 0) <= 0) owner[0] = '?';
    close(lock_);
    throw IoError(
        "run",
        fmt::format("expected a run nobody else writes to, got '{}', which process {} writes to",
                    path, owner.data()));
  }
  // Whose lock it is, for the message above; the lock itself is the kernel's and ends with the
  // process.
  const std::string pid = fmt::format("{}", getpid());
  if (ftruncate(lock_, 0) != 0 ||
      pwrite(lock_, pid.data(), pid.size(), 0) != static_cast<ssize_t>(pid.size())) {
    const int reason = errno;
    close(lock_);
    throw IoError("run",
                  fmt::format("expected to write to '{}', got '{}'", file, std::strerror(reason)));
  }
}

RunDirectory::RunDirectory(RunDirectory&& other) noexcept
    : path_(std::move(other.path_)), lock_(std::exchange(other.lock_, -1)) {}

RunDirectory::~RunDirectory() {
  if (lock_ >= 0) close(lock_);
}

std::string RunDirectory::checkpoint(int64_t step) const {
  return checkpoints() + "/" + checkpoint_name(step);
}

}  // namespace electra
