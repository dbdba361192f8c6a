// Raw text as documents of paragraphs: UTF-8 text, a paragraph a line, or JSON lines with a document each; plain or compressed.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tokenizer/unicode.h"
#include "trainer/data/hash_set.h"
#include "trainer/data/input_stream.h"

namespace electra {

struct Document {
  std::vector<std::string> paragraphs;
  std::string place;  // "file:line" of its first line
};

// A file to read. path and name differ where a pipe was copied to be read several times.
struct CorpusFile {
  std::filesystem::path path;  // kStandardInput: standard input
  std::string name;            // in messages, and what tells JSON lines from text
};

enum class CorpusFormat {
  by_name,     // JSON lines where the name ends in .jsonl, .jsonl.gz, .jsonl.zst or .jsonl.xz; text otherwise
  text,
  json_lines,  // one JSON object a line, each a document
};

// Where a document of plain text ends; the end of a file ends it in any case.
enum class DocumentBoundary { blank_line, line, file };

struct CorpusOptions {
  CorpusFormat format = CorpusFormat::by_name;
  std::string field = "text";  // of a JSON line: its lines are the paragraphs
  DocumentBoundary boundary = DocumentBoundary::blank_line;
  std::optional<unicode::NormalForm> normal_form;  // that paragraphs are brought to; absent: as they are
  bool deduplicate = false;  // leave out, and count, paragraphs that came before, told by 64-bit hashes: 11 to 21 bytes a distinct paragraph
  bool skip_invalid = false;  // leave out, and count, lines that are not UTF-8, hold NUL bytes or are no JSON object with the field
  size_t max_line_bytes = size_t{1} << 30;  // a longer one is an error: a line is held in memory
  bool record_hashes = false;  // with deduplicate: keep what take_hashes hands out
  std::function<bool()> stop;  // asked at each line; true: read no further; may be empty
};

// Between two documents: from where a reader can go on.
struct CorpusPosition {
  size_t file = 0;             // index in the list
  uint64_t byte = 0;           // of the file, decompressed
  int64_t line = 0;            // lines of the file before it
  int64_t skipped = 0, duplicates = 0;
  uint64_t bytes = 0;          // of all text before it, decompressed
  uint64_t stored = 0;         // of the files before this one, as they are stored
};

// Files, folders, patterns (* ? [ ]) and "-", standard input, to the list of files, in the order given. Folders are searched for
// *.txt and *.jsonl, also with .gz, .zst or .xz behind, in sorted order, as are what a pattern matches. Throws IoError for what
// does not exist, DataError for a folder without text and for an empty file, ConfigError for standard input named twice.
std::vector<CorpusFile> corpus_files(const std::vector<std::string>& paths);

// The path itself where it exists; else what it matches as a pattern, sorted. Throws IoError where there is nothing; expected: what the
// path should have been.
std::vector<std::string> matching_paths(const std::string& path, const std::string& expected);

class CorpusReader {
 public:
  // from and seen: where to go on, and the hashes of the paragraphs before it as take_hashes gave them, where duplicates are left out.
  CorpusReader(std::vector<CorpusFile> files, CorpusOptions options, const CorpusPosition& from = {}, std::span<const uint64_t> seen = {});
  // Fills the next document; false at the end, and once stopped. Throws DataError naming file:line and the byte for text that is
  // not UTF-8 or binary and for JSON lines without the field, unless such lines are skipped; and what InputStream throws.
  bool next(Document& document);
  bool stopped() const { return stopped_; }
  int64_t skipped_lines() const { return skipped_; }
  int64_t duplicates() const { return duplicates_; }
  uint64_t bytes_read() const { return bytes_; }  // decompressed
  uint64_t stored_bytes_read() const { return stored_ + (in_ ? in_->stored() : 0); }
  // Behind the document that next filled last.
  CorpusPosition position() const;
  // Hashes of the paragraphs that were new since this was asked last.
  std::vector<uint64_t> take_hashes() { return std::exchange(hashes_, {}); }

 private:
  bool open_next_file();
  bool read_line(std::string& line);
  std::string place() const;
  // False: the line is to be skipped. Throws what is wrong with it where it is not.
  bool refuse(const std::string& what);
  bool accept(const std::string& line);
  bool parse_record(const std::string& line, std::string& text);
  void add(std::string& paragraph, Document& document);

  std::vector<CorpusFile> files_;
  CorpusOptions options_;
  size_t file_ = 0;  // index of the next file to open
  bool stopped_ = false, json_lines_ = false;
  std::optional<InputStream> in_;
  std::vector<char> buffer_;
  size_t begin_ = 0, end_ = 0;  // part of the buffer that is not read yet
  HashSet seen_;
  int64_t line_ = 0, skipped_ = 0, duplicates_ = 0;
  uint64_t bytes_ = 0, byte_ = 0, stored_ = 0;  // byte_: of the file
  std::vector<uint64_t> hashes_;
};

}  // namespace electra
