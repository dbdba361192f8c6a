#include "trainer/files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "kernels/core/error.h"
#include "tokenizer/scratch.h"

namespace electra {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail(const fs::path& path, const std::string& expected) {
  throw IoError(path.string(), "expected " + expected + ", got '" + std::strerror(errno) + "'");
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

void write_all(int fd, std::string_view bytes, const fs::path& path) {
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t n = ::write(fd, bytes.data() + done, bytes.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(path, "to write " + std::to_string(bytes.size()) + " bytes");
    done += static_cast<size_t>(n);
  }
}

}  // namespace

std::string read_file(const fs::path& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat info {};
  if (file.get() < 0 || ::fstat(file.get(), &info) != 0) fail(path, "to read a file");
  std::string text;
  char buffer[1 << 16];
  for (;;) {
    const ssize_t n = ::read(file.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(path, "to read a file");
    if (n == 0) return text;
    text.append(buffer, static_cast<size_t>(n));
  }
}

void write_file(const fs::path& path, std::string_view bytes) {
  Descriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (file.get() < 0) fail(path, "to write a file");
  write_all(file.get(), bytes, path);
  if (::fsync(file.get()) != 0) fail(path, "to sync a file");
  if (::close(file.release()) != 0) fail(path, "to write a file");
}

void replace_file(const fs::path& path, std::string_view bytes) {
  const fs::path temporary = path.string() + ".tmp-" + std::to_string(::getpid());
  try {
    write_file(temporary, bytes);
    rename_durably(temporary, path);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
}

void sync_directory(const fs::path& directory) {
  const Descriptor d(::open(directory.empty() ? "." : directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (d.get() < 0 || ::fsync(d.get()) != 0) fail(directory, "to sync a directory");
}

void rename_durably(const fs::path& from, const fs::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) fail(to, "to rename " + from.filename().string());
  sync_directory(to.parent_path());
}

uint64_t xxh64(std::span<const std::byte> bytes, uint64_t seed) { return XXH64(bytes.data(), bytes.size(), seed); }
uint64_t xxh64(std::string_view bytes, uint64_t seed) { return XXH64(bytes.data(), bytes.size(), seed); }

std::string hex64(uint64_t value) {
  std::string text(16, '0');
  for (size_t i = 16; i-- > 0; value >>= 4) text[i] = "0123456789abcdef"[value & 15];
  return text;
}

MappedFile::MappedFile(const fs::path& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) fail(path, "to read a file");
  map(file.get(), path);
}

MappedFile::MappedFile(int descriptor, const fs::path& name) { map(descriptor, name); }

void MappedFile::map(int descriptor, const fs::path& name) {
  struct stat info {};
  if (::fstat(descriptor, &info) != 0) fail(name, "to read a file");
  if (S_ISDIR(info.st_mode)) throw IoError(name.string(), "expected a file, got a folder");
  size_ = static_cast<size_t>(info.st_size);
  if (size_ == 0) return;
  void* p = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor, 0);
  if (p == MAP_FAILED) fail(name, "to map a file");
  data_ = static_cast<const std::byte*>(p);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}

OutputFile::OutputFile(const fs::path& path, uint64_t keep)
    : path_(path), fd_(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | (keep == 0 ? O_TRUNC : 0), 0644)) {
  if (fd_ < 0) fail(path, "to write a file");
  if (keep > 0 && (::ftruncate(fd_, static_cast<off_t>(keep)) != 0 || ::lseek(fd_, 0, SEEK_END) < 0)) {
    ::close(fd_);
    fail(path, "to go on with a file");
  }
}

OutputFile::~OutputFile() { ::close(fd_); }

void OutputFile::append(std::string_view bytes) {
  constexpr size_t kBuffer = 1 << 18;  // bytes
  buffer_.append(bytes);
  if (buffer_.size() >= kBuffer) flush();
}

void OutputFile::flush() {
  if (buffer_.empty()) return;
  write_all(fd_, buffer_, path_);
  buffer_.clear();
  synced_ = false;
}

void OutputFile::sync() {
  flush();
  if (!synced_ && ::fsync(fd_) != 0) fail(path_, "to sync a file");
  synced_ = true;
}

StagedFile::StagedFile(const fs::path& path) : final_(path) {
  if (path.empty()) {
    staging_ = fs::temp_directory_path();
    descriptor_ = open_unnamed_file(staging_);
  } else {
    staging_ = path.string() + ".tmp-" + std::to_string(::getpid());
    descriptor_ = ::open(staging_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  }
  if (descriptor_ < 0) fail(staging_, "to write a file");
}

StagedFile::~StagedFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!published_ && !final_.empty()) ::unlink(staging_.c_str());
}

void StagedFile::write(std::string_view bytes) { write_all(descriptor_, bytes, staging_); }

void StagedFile::write_at(uint64_t offset, std::string_view bytes) {
  const off_t end = ::lseek(descriptor_, 0, SEEK_CUR);
  if (end < 0 || ::lseek(descriptor_, static_cast<off_t>(offset), SEEK_SET) < 0) fail(staging_, "to write a file");
  write(bytes);
  if (::lseek(descriptor_, end, SEEK_SET) < 0) fail(staging_, "to write a file");
}

MappedFile StagedFile::publish() {
  MappedFile mapped(descriptor_, staging_);
  if (!final_.empty()) {
    if (::fsync(descriptor_) != 0) fail(staging_, "to sync a file");
    rename_durably(staging_, final_);
  }
  published_ = true;
  return mapped;
}

StagedDirectory::StagedDirectory(const fs::path& final_path)
    : final_(fs::absolute(final_path).lexically_normal()) {
  if (final_.filename().empty()) final_ = final_.parent_path();
  staging_ = final_.parent_path() / (".tmp-" + final_.filename().string());
  std::error_code error;
  fs::create_directories(final_.parent_path(), error);
  fs::remove_all(staging_, error);
  if (!fs::create_directory(staging_, error)) {
    errno = error ? error.value() : EEXIST;
    fail(staging_, "to make a directory");
  }
}

StagedDirectory::~StagedDirectory() {
  std::error_code ignored;
  if (!published_) fs::remove_all(staging_, ignored);
}

void StagedDirectory::publish() {
  sync_directory(staging_);
  std::error_code error;
  const fs::path old = final_.parent_path() / (".old-" + final_.filename().string());
  fs::remove_all(old, error);
  if (fs::exists(fs::symlink_status(final_, error))) rename_durably(final_, old);
  rename_durably(staging_, final_);
  published_ = true;
  fs::remove_all(old, error);
}

}  // namespace electra
