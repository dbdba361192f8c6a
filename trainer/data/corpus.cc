#include "trainer/data/corpus.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "kernels/core/error.h"
#include "tokenizer/unicode.h"

namespace electra {
namespace {

namespace fs = std::filesystem;

bool is_blank(const std::string& line) { return line.find_first_not_of(" \t\r\f\v") == std::string::npos; }

}  // namespace

std::vector<fs::path> corpus_files(const std::vector<std::string>& paths) {
  std::vector<fs::path> files;
  for (const std::string& path : paths) {
    std::error_code error;
    const fs::file_status status = fs::status(path, error);
    if (!fs::exists(status)) throw IoError(path, "expected a text file or a folder of them, got 'No such file or directory'");
    if (!fs::is_directory(status)) {
      if (fs::is_regular_file(status) && fs::file_size(path, error) == 0) throw DataError(path, "expected text, got an empty file");
      files.emplace_back(path);
      continue;
    }
    std::vector<fs::path> found;
    for (const auto& entry : fs::recursive_directory_iterator(path))
      if (entry.is_regular_file() && entry.path().extension() == ".txt" && entry.file_size() > 0) found.push_back(entry.path());
    if (found.empty()) throw DataError(path, "expected a folder with *.txt files, got none that is not empty");
    std::sort(found.begin(), found.end());
    files.insert(files.end(), found.begin(), found.end());
  }
  if (files.empty()) throw DataError("text", "expected at least one text file, got none");
  return files;
}

CorpusReader::CorpusReader(std::vector<fs::path> files, CorpusOptions options) : files_(std::move(files)), options_(options) {}

bool CorpusReader::open_next_file() {
  if (file_ == files_.size()) return false;
  const fs::path& path = files_[file_++];
  in_.close();
  in_.clear();
  in_.open(path, std::ios::binary);
  if (!in_) throw IoError(path.string(), std::string("expected to read a text file, got '") + std::strerror(errno) + "'");
  line_ = 0;
  return true;
}

bool CorpusReader::accept(const std::string& line) {
  const size_t nul = line.find('\0');
  const size_t invalid = unicode::find_invalid_utf8(line);
  if (nul == std::string::npos && invalid == unicode::kValid) return true;
  if (options_.skip_invalid) {
    ++skipped_;
    return false;
  }
  const std::string place = files_[file_ - 1].string() + ":" + std::to_string(line_);
  if (nul != std::string::npos && (invalid == unicode::kValid || nul < invalid))
    throw DataError(place, "expected text, got binary data: a NUL at byte " + std::to_string(nul + 1) + " of the line (--skip-invalid leaves such lines out)");
  throw DataError(place, "expected UTF-8, got another encoding at byte " + std::to_string(invalid + 1) + " of the line (--skip-invalid leaves such lines out)");
}

bool CorpusReader::next(Document& document) {
  document.paragraphs.clear();
  std::string line;
  for (;;) {
    if (!in_.is_open() && !open_next_file()) return false;
    while (std::getline(in_, line)) {
      stopped_ = stopped_ || (options_.stop && options_.stop());
      if (stopped_) return false;
      ++line_;
      bytes_ += line.size() + 1;
      if (!line.empty() && line.back() == '\r') line.pop_back();
      if (line_ == 1 && line.rfind("\xEF\xBB\xBF", 0) == 0) line.erase(0, 3);  // byte order mark
      if (!accept(line)) continue;
      if (is_blank(line)) {
        if (!document.paragraphs.empty()) return true;
        continue;
      }
      if (document.paragraphs.empty()) document.place = files_[file_ - 1].string() + ":" + std::to_string(line_);
      document.paragraphs.push_back(line);
    }
    if (in_.bad()) throw IoError(files_[file_ - 1].string(), std::string("expected to read a text file, got '") + std::strerror(errno) + "'");
    in_.close();
    if (!document.paragraphs.empty()) return true;
  }
}

}  // namespace electra
