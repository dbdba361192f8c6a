// Raw text as documents of paragraphs: UTF-8, one paragraph a line, a blank line between documents.
#pragma once
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

namespace electra {

struct Document {
  std::vector<std::string> paragraphs;
  std::string place;  // "file:line" of its first line
};

struct CorpusOptions {
  bool skip_invalid = false;  // leave lines out that are not UTF-8 or hold NUL bytes, and count them
  std::function<bool()> stop;  // asked at each line; true: read no further; may be empty
};

// Files and folders to the list of files: folders are searched for *.txt, in sorted order. Throws IoError for a path that
// does not exist, DataError for a folder without text and for an empty file.
std::vector<std::filesystem::path> corpus_files(const std::vector<std::string>& paths);

class CorpusReader {
 public:
  CorpusReader(std::vector<std::filesystem::path> files, CorpusOptions options);
  // Fills the next document; false at the end, and once stopped. A file's end ends a document. Throws DataError naming file:line
  // and the byte for text that is not UTF-8 or binary, unless such lines are skipped.
  bool next(Document& document);
  bool stopped() const { return stopped_; }
  int64_t skipped_lines() const { return skipped_; }
  uint64_t bytes_read() const { return bytes_; }

 private:
  bool open_next_file();
  bool accept(const std::string& line);

  std::vector<std::filesystem::path> files_;
  CorpusOptions options_;
  size_t file_ = 0;  // index of the next file to open
  bool stopped_ = false;
  std::ifstream in_;
  int64_t line_ = 0, skipped_ = 0;
  uint64_t bytes_ = 0;
};

}  // namespace electra
