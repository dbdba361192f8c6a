// Files written so that nothing is ever half there: under a temporary name, synced, renamed.
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace electra {

// Throws IoError.
std::string read_file(const std::filesystem::path& path);
// Writes and syncs path itself: for files inside a directory that is renamed as a whole. Throws IoError, for example on a full
// disk.
void write_file(const std::filesystem::path& path, std::string_view bytes);
// The same through a temporary sibling, so that path is either what it was or complete.
void replace_file(const std::filesystem::path& path, std::string_view bytes);
// Makes renames within a directory durable.
void sync_directory(const std::filesystem::path& directory);
// Renames from to to, where nothing stands, and syncs the parent. Throws IoError.
void rename_durably(const std::filesystem::path& from, const std::filesystem::path& to);

uint64_t xxh64(std::span<const std::byte> bytes, uint64_t seed = 0);
uint64_t xxh64(std::string_view bytes, uint64_t seed = 0);
// 16 hexadecimal digits.
std::string hex64(uint64_t value);

// A file mapped read-only while the object lives; empty files map to an empty span. Throws IoError.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  // An open file, which may be closed afterwards; name: for errors.
  MappedFile(int descriptor, const std::filesystem::path& name);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;
  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  void map(int descriptor, const std::filesystem::path& name);
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// A file that grows by pieces too small to be written one by one. Errors are IoErrors.
class OutputFile {
 public:
  // keep: so many bytes of what stands there stay, the rest goes.
  explicit OutputFile(const std::filesystem::path& path, uint64_t keep = 0);
  ~OutputFile();  // what was not synced may be lost
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;
  void append(std::string_view bytes);
  template <class T> void append_value(const T& value) { append({reinterpret_cast<const char*>(&value), sizeof value}); }
  void flush();  // hands everything to the operating system
  void sync();   // and waits until it is durable

 private:
  std::filesystem::path path_;
  int fd_ = -1;
  std::string buffer_;
  bool synced_ = true;
};

// A file that is written in pieces and appears complete or not at all.
class StagedFile {
 public:
  // Without a path: a file that has no name and goes with the last map of it. Throws IoError.
  explicit StagedFile(const std::filesystem::path& path = {});
  ~StagedFile();  // removes what was not published
  StagedFile(const StagedFile&) = delete;
  StagedFile& operator=(const StagedFile&) = delete;
  void write(std::string_view bytes);
  void write_at(uint64_t offset, std::string_view bytes);
  // Syncs it and renames it into place.
  MappedFile publish();

 private:
  std::filesystem::path final_, staging_;
  int descriptor_ = -1;
  bool published_ = false;
};

// A directory that is built under a temporary name beside its final one and appears complete or not at all.
class StagedDirectory {
 public:
  // Removes what an interrupted predecessor left. Throws IoError.
  explicit StagedDirectory(const std::filesystem::path& final_path);
  ~StagedDirectory();  // removes the staging directory unless published
  StagedDirectory(const StagedDirectory&) = delete;
  StagedDirectory& operator=(const StagedDirectory&) = delete;
  const std::filesystem::path& path() const { return staging_; }
  // Renames it into place; what stood there goes away only after the new one is complete.
  void publish();

 private:
  std::filesystem::path final_, staging_;
  bool published_ = false;
};

}  // namespace electra
