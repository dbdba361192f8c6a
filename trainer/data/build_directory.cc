#include "trainer/data/build_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "kernels/core/error.h"
#include "trainer/files.h"

namespace electra {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLock = "lock";

void make_directory(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) throw IoError(path.string(), "expected to make a directory, got '" + error.message() + "'");
}

bool stands(const fs::path& path) {
  std::error_code error;
  return fs::exists(fs::symlink_status(path, error));
}

// Locked for this process alone, until it is closed or the process ends.
int lock(const fs::path& path, const fs::path& out) {
  for (;;) {
    const int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (file < 0) throw IoError(path.string(), std::string("expected to write a file, got '") + std::strerror(errno) + "'");
    struct stat opened {}, there {};
    const bool locked = ::flock(file, LOCK_EX | LOCK_NB) == 0;
    // Another process may have removed it between the two calls.
    if (locked && ::fstat(file, &opened) == 0 && ::stat(path.c_str(), &there) == 0 && opened.st_ino == there.st_ino) return file;
    ::close(file);
    if (!locked) throw IoError(out.string(), "expected no other build of it at work, got one that has locked " + path.string());
    make_directory(path.parent_path());
  }
}

}  // namespace

BuildDirectory::BuildDirectory(const fs::path& out) : out_(fs::absolute(out).lexically_normal()) {
  if (out_.filename().empty()) out_ = out_.parent_path();
  work_ = out_.parent_path() / (".tmp-" + out_.filename().string());
  result_ = work_ / "result";
  replaced_ = work_ / "replaced";
  state_ = work_ / "state.json";
  make_directory(work_);
  lock_ = lock(work_ / kLock, out);
  // Publishing was interrupted.
  std::error_code ignored;
  if (stands(replaced_) && !stands(out_)) rename_durably(replaced_, out_);
  fs::remove_all(replaced_, ignored);
  make_directory(work_);
}

BuildDirectory::~BuildDirectory() {
  std::error_code ignored;
  if (discarded_) fs::remove(state_, ignored);  // first: without it nothing is gone on with
  if (!stands(state_)) fs::remove_all(work_, ignored);
  ::close(lock_);
}

std::optional<std::string> BuildDirectory::state() const {
  if (!stands(state_)) return std::nullopt;
  return read_file(state_);
}

void BuildDirectory::save(std::string_view state) { replace_file(state_, state); }

void BuildDirectory::clear() {
  fs::remove(state_);
  for (const auto& entry : fs::directory_iterator(work_)) {
    const std::string name = entry.path().filename().string();
    if (name != kLock && !name.starts_with(kInput)) fs::remove_all(entry.path());
  }
  make_directory(result_);
}

void BuildDirectory::publish() {
  if (stands(result_)) {
    sync_directory(result_);
    if (stands(out_)) rename_durably(out_, replaced_);
    rename_durably(result_, out_);
  }
  discard();
}

}  // namespace electra
