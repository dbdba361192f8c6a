#include "trainer/append_file.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>

#include "kernels/core/error.h"

namespace electra {

AppendFile::AppendFile(const std::string& path)
    : path_(path), file_(std::fopen(path.c_str(), "abe")) {
  if (!file_)
    throw IoError(path,
                  fmt::format("expected a file to append to, got '{}'", std::strerror(errno)));
}

void AppendFile::write(std::string_view bytes) {
  if (std::fwrite(bytes.data(), 1, bytes.size(), file_.get()) != bytes.size() ||
      std::fflush(file_.get()) != 0)
    throw IoError(path_, fmt::format("expected to append {} bytes, got '{}'", bytes.size(),
                                     std::strerror(errno)));
}

void AppendFile::Close::operator()(std::FILE* file) const { std::fclose(file); }

}  // namespace electra
