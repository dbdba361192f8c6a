// A file or standard input as the bytes it stands for: what is gzip, zstd or xz, told by its content and not by its name, is
// decompressed on the way. The only place that includes these libraries.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace electra {

inline constexpr const char* kStandardInput = "-";

// What a path is called in messages: itself, or "standard input".
std::string input_name(const std::filesystem::path& path);

class InputStream {
 public:
  // stop is asked while a pipe has nothing to read; may be empty. Throws IoError.
  explicit InputStream(const std::filesystem::path& path, std::string name, std::function<bool()> stop = {});
  ~InputStream();
  InputStream(InputStream&&) noexcept;
  InputStream& operator=(InputStream&&) noexcept;
  // Up to out.size() bytes; 0 at the end, and once stopped. Concatenated archives are read as one. Throws IoError, and DataError
  // with the file and the byte in it for an archive that is damaged, truncated or followed by something else. Memory does not
  // depend on the file's size: zstd keeps a window of at most 2 GiB, xz a dictionary of at most 1 GiB, as the archive says.
  size_t read(std::span<char> out);
  // Leaves out the next bytes; where nothing was read yet and the file is not compressed, at no cost. Throws as read does, and
  // DataError where there are fewer.
  void skip(uint64_t bytes);
  // Bytes of the file, as it is stored, behind what was handed out.
  uint64_t stored() const { return stored_ - in_.size(); }
  bool stopped() const;
  // The same bytes as they are stored; to be used instead of read.
  size_t read_stored(std::span<char> out);

 private:
  struct File;
  struct Decoder;
  struct Gzip;
  struct Zstd;
  struct Xz;
  void refill();
  void detect();

  std::unique_ptr<File> file_;
  std::unique_ptr<Decoder> decoder_;  // none: the bytes as they are
  std::vector<char> buffer_;
  std::string_view in_;  // part of the buffer that is not decoded yet
  uint64_t stored_ = 0;  // bytes read of the file
  bool detected_ = false, ended_ = false;
};

// Copies what can be read once, a pipe, to a file, as it is stored. False where stop said so. Throws IoError.
bool copy_input(const std::filesystem::path& from, const std::filesystem::path& to, const std::function<bool()>& stop);

}  // namespace electra
