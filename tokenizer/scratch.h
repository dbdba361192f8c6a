// Data that may outgrow a set amount of memory: files without a name, which are gone as soon as nobody has them open, however the process
// ends, and arrays that move into such files.
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

namespace electra {

// Opens a file without a name in a folder to be read and written, gone when it is closed. Below 0: errno says why not.
int open_unnamed_file(const std::filesystem::path& folder);

class ScratchFile {
 public:
  // Throws IoError where the folder has no place for a file; so do append and allocate where the disk is full.
  explicit ScratchFile(const std::filesystem::path& folder);
  ~ScratchFile();
  ScratchFile(ScratchFile&& other) noexcept;
  ScratchFile& operator=(ScratchFile&&) = delete;

  void append(std::span<const std::byte> bytes);
  // Makes it at least so long, on the disk, too.
  void allocate(uint64_t bytes);
  // As many bytes from offset on as there are and fit.
  size_t read(uint64_t offset, std::span<std::byte> to) const;
  uint64_t size() const { return size_; }
  int descriptor() const { return fd_; }

 private:
  [[noreturn]] void fail(const char* expected, int error) const;
  std::filesystem::path folder_;
  int fd_;
  uint64_t size_ = 0;
};

class ScratchBytes;

// What arrays share: the memory they may take together, and the folder for the files of those that find none left.
class ScratchSpace {
 public:
  explicit ScratchSpace(uint64_t memory = UINT64_MAX, std::filesystem::path folder = ".");
  // To be called every dozen accesses to arrays: lets go of pages of their files once these
  // are as much memory again.
  void trim() {
    if (!mapped_.empty()) trim_mapped();
  }
  bool on_disk() const { return !mapped_.empty(); }

 private:
  friend class ScratchBytes;
  void trim_mapped();
  uint64_t memory_, used_ = 0;
  uint64_t mapped_before_ = 0;  // bytes of files that the process has in memory anyway
  std::filesystem::path folder_;
  std::vector<ScratchBytes*> mapped_;
};

// Bytes that grow, zero where they are new; in memory, or mapped from a file.
class ScratchBytes {
 public:
  explicit ScratchBytes(ScratchSpace& space) : space_(space) {}
  ~ScratchBytes() { clear(); }
  ScratchBytes(const ScratchBytes&) = delete;
  ScratchBytes& operator=(const ScratchBytes&) = delete;
  std::byte* data() const { return data_; }
  size_t capacity() const { return capacity_; }
  // Throws IoError.
  void reserve(size_t bytes);
  void clear();

 private:
  friend class ScratchSpace;
  void map(size_t bytes);
  ScratchSpace& space_;
  std::byte* data_ = nullptr;
  size_t capacity_ = 0;
  std::vector<ScratchFile> file_;  // none, or the one
};

template <class T>
  requires std::is_trivially_copyable_v<T>
class ScratchArray {
 public:
  explicit ScratchArray(ScratchSpace& space) : bytes_(space) {}
  size_t size() const { return size_; }
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }
  // What is new is zero where the array was never longer.
  void resize(size_t n) {
    if (n * sizeof(T) > bytes_.capacity()) {
      bytes_.reserve(n * sizeof(T));
      data_ = reinterpret_cast<T*>(bytes_.data());
    }
    size_ = n;
  }
  void push_back(const T& value) {
    const T copy = value;
    resize(size_ + 1);
    data_[size_ - 1] = copy;
  }
  // n zeros.
  void reset(size_t n) {
    bytes_.clear();
    size_ = 0;
    data_ = nullptr;
    resize(n);
  }

 private:
  ScratchBytes bytes_;
  T* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace electra
