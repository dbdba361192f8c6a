// A file that is only ever appended to, each write reaching the operating system before the call
// returns.
#pragma once
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>

namespace electra {

class AppendFile {
 public:
  explicit AppendFile(const std::string& path);  // created where it does not exist; throws IoError
  void write(std::string_view bytes);            // throws IoError, for example on a full disk
  const std::string& path() const { return path_; }

 private:
  struct Close {
    void operator()(std::FILE* file) const;
  };
  std::string path_;
  std::unique_ptr<std::FILE, Close> file_;
};

}  // namespace electra
