#include "tokenizer/scratch.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "kernels/core/error.h"

namespace electra {
namespace {

constexpr size_t kLeastBytes = 64 << 10;     // of an array
constexpr uint64_t kLeastMapped = 4 << 20;  // bytes of files that may stay in memory

size_t page_bytes() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

// Of files, that the process has in memory.
uint64_t mapped_bytes() {
  static const int statm = ::open("/proc/self/statm", O_RDONLY | O_CLOEXEC);  // pages: total, resident, of these shared
  char text[96] = {};
  if (statm < 0 || ::pread(statm, text, sizeof text - 1, 0) <= 0) return 0;
  unsigned long long total = 0, resident = 0, shared = 0;
  return std::sscanf(text, "%llu %llu %llu", &total, &resident, &shared) == 3 ? shared * page_bytes() : 0;
}

}  // namespace

void ScratchFile::fail(const char* expected, int error) const {
  throw IoError(folder_.string(), std::string("expected ") + expected + ", got '" + std::strerror(error) + "'");
}

int open_unnamed_file(const std::filesystem::path& folder) {
  int fd = ::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR)) {  // a file system that knows no files without names
    std::string name = (folder / ".electra-XXXXXX").string();
    fd = ::mkostemp(name.data(), O_CLOEXEC);
    if (fd >= 0) ::unlink(name.c_str());
  }
  return fd;
}

ScratchFile::ScratchFile(const std::filesystem::path& folder) : folder_(folder.empty() ? "." : folder), fd_(open_unnamed_file(folder_)) {
  if (fd_ < 0) fail("a folder to write temporary files in", errno);
}

ScratchFile::~ScratchFile() {
  if (fd_ >= 0) ::close(fd_);
}

ScratchFile::ScratchFile(ScratchFile&& other) noexcept : folder_(std::move(other.folder_)), fd_(std::exchange(other.fd_, -1)), size_(other.size_) {}

void ScratchFile::append(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(size_));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("to write a temporary file", errno);
    size_ += static_cast<uint64_t>(n);
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
}

void ScratchFile::allocate(uint64_t bytes) {
  if (bytes <= size_) return;
  int error = 0;
  while ((error = ::posix_fallocate(fd_, static_cast<off_t>(size_), static_cast<off_t>(bytes - size_))) == EINTR) continue;
  if (error != 0) fail("room for a temporary file", error);
  size_ = bytes;
}

size_t ScratchFile::read(uint64_t offset, std::span<std::byte> to) const {
  for (;;) {
    const ssize_t n = ::pread(fd_, to.data(), to.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("to read a temporary file", errno);
    return static_cast<size_t>(n);
  }
}

ScratchSpace::ScratchSpace(uint64_t memory, std::filesystem::path folder) : memory_(memory), folder_(std::move(folder)) {}

void ScratchSpace::trim_mapped() {
  if (mapped_bytes() < mapped_before_ + std::max(memory_, kLeastMapped)) return;
  for (const ScratchBytes* bytes : mapped_) ::madvise(bytes->data(), bytes->capacity(), MADV_DONTNEED);  // what is written stays in the file
}

void ScratchBytes::map(size_t bytes) {
  const int flags = file_.empty() ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
  void* const at = data_ != nullptr ? ::mremap(data_, capacity_, bytes, MREMAP_MAYMOVE)
                                    : ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, file_.empty() ? -1 : file_.front().descriptor(), 0);
  if (at == MAP_FAILED) throw IoError("memory", "expected room for " + std::to_string(bytes) + " bytes, got '" + std::strerror(errno) + "'");
  data_ = static_cast<std::byte*>(at);
  capacity_ = bytes;
}

void ScratchBytes::reserve(size_t bytes) {
  if (bytes <= capacity_) return;
  const size_t page = page_bytes();
  bytes = (std::max({bytes, kLeastBytes, capacity_ + capacity_ / 2}) + page - 1) / page * page;
  if (file_.empty() && bytes - capacity_ > space_.memory_ - std::min(space_.used_, space_.memory_)) {
    ScratchFile file(space_.folder_);
    file.append({data_, capacity_});
    file.allocate(bytes);
    clear();
    if (space_.mapped_.empty()) space_.mapped_before_ = mapped_bytes();
    file_.push_back(std::move(file));
    space_.mapped_.push_back(this);
    map(bytes);
  } else if (file_.empty()) {
    const size_t before = capacity_;
    map(bytes);
    space_.used_ += bytes - before;
  } else {
    file_.front().allocate(bytes);
    map(bytes);
  }
}

void ScratchBytes::clear() {
  if (data_ != nullptr) ::munmap(data_, capacity_);
  if (file_.empty()) space_.used_ -= capacity_;
  std::erase(space_.mapped_, this);
  file_.clear();
  data_ = nullptr;
  capacity_ = 0;
}

}  // namespace electra
