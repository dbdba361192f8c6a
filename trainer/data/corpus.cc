#include "trainer/data/corpus.h"

#include <glob.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "tokenizer/unicode.h"
#include "trainer/files.h"

namespace electra {
namespace {

namespace fs = std::filesystem;

constexpr size_t kBufferBytes = 256 << 10;

bool is_blank(const std::string& line) { return line.find_first_not_of(" \t\r\f\v") == std::string::npos; }

// Without the ending that compression adds.
std::string_view stored_name(std::string_view name) {
  for (const std::string_view ending : {".gz", ".zst", ".xz"})
    if (name.ends_with(ending)) return name.substr(0, name.size() - ending.size());
  return name;
}

bool is_json_lines(std::string_view name) { return stored_name(name).ends_with(".jsonl"); }

std::vector<fs::path> text_files_in(const fs::path& folder) {
  std::vector<fs::path> found;
  std::error_code error;
  fs::recursive_directory_iterator it(folder, error);
  for (; !error && it != fs::recursive_directory_iterator(); it.increment(error)) {
    const std::string name = it->path().string();
    std::error_code ignored;
    if ((stored_name(name).ends_with(".txt") || is_json_lines(name)) && it->is_regular_file(ignored) && it->file_size(ignored) > 0)
      found.push_back(it->path());
  }
  if (error) throw IoError(folder.string(), "expected to search a folder, got '" + error.message() + "'");
  if (found.empty()) throw DataError(folder.string(), "expected a folder with *.txt or *.jsonl files (or these with .gz, .zst, .xz), got none that is not empty");
  std::sort(found.begin(), found.end());
  return found;
}

void add_path(const std::string& path, std::vector<CorpusFile>& files) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (path == kStandardInput) {
    for (const CorpusFile& file : files)
      if (file.path == kStandardInput) throw ConfigError("text", "expected standard input ('-') once, got it twice");
    files.push_back({path, input_name(path)});
  } else if (!fs::exists(status)) {
    for (const std::string& match : matching_paths(path, "a text file or a folder of them")) add_path(match, files);
  } else if (fs::is_directory(status)) {
    for (const fs::path& found : text_files_in(path)) files.push_back({found, found.string()});
  } else {
    if (fs::is_regular_file(status) && fs::file_size(path, error) == 0) throw DataError(path, "expected text, got an empty file");
    files.push_back({path, path});
  }
}

}  // namespace

std::vector<std::string> matching_paths(const std::string& path, const std::string& expected) {
  std::error_code error;
  if (fs::exists(path, error)) return {path};
  if (path.find_first_of("*?[") == std::string::npos) throw IoError(path, "expected " + expected + ", got 'No such file or directory'");
  glob_t found{};
  const int status = glob(path.c_str(), GLOB_NOSORT, nullptr, &found);
  std::vector<std::string> paths(found.gl_pathv, found.gl_pathv + (status == 0 ? found.gl_pathc : 0));
  globfree(&found);
  if (paths.empty()) throw IoError(path, "expected a pattern that files match, got none that does");
  std::sort(paths.begin(), paths.end());  // glob's own order depends on the locale
  return paths;
}

std::vector<CorpusFile> corpus_files(const std::vector<std::string>& paths) {
  std::vector<CorpusFile> files;
  for (const std::string& path : paths) add_path(path, files);
  if (files.empty()) throw DataError("text", "expected at least one text file, got none");
  return files;
}

CorpusReader::CorpusReader(std::vector<CorpusFile> files, CorpusOptions options, const CorpusPosition& from, std::span<const uint64_t> seen)
    : files_(std::move(files)), options_(std::move(options)), file_(from.file), buffer_(kBufferBytes), skipped_(from.skipped), duplicates_(from.duplicates),
      bytes_(from.bytes), stored_(from.stored) {
  for (const uint64_t hash : seen) seen_.insert(hash);
  if (from.byte == 0 || !open_next_file()) return;
  in_->skip(from.byte);
  byte_ = from.byte;
  line_ = from.line;
}

CorpusPosition CorpusReader::position() const {
  return {.file = in_ ? file_ - 1 : file_, .byte = in_ ? byte_ : 0, .line = in_ ? line_ : 0, .skipped = skipped_, .duplicates = duplicates_, .bytes = bytes_, .stored = stored_};
}

bool CorpusReader::open_next_file() {
  if (file_ == files_.size()) return false;
  const CorpusFile& file = files_[file_++];
  in_.emplace(file.path, file.name, options_.stop);
  begin_ = end_ = 0;
  line_ = 0;
  byte_ = 0;
  json_lines_ = options_.format == CorpusFormat::json_lines || (options_.format == CorpusFormat::by_name && is_json_lines(file.name));
  return true;
}

std::string CorpusReader::place() const { return files_[file_ - 1].name + ":" + std::to_string(line_); }

// The next line without its end, however it is ended; false where there is none.
bool CorpusReader::read_line(std::string& line) {
  line.clear();
  for (bool any = false;; any = true) {
    if (begin_ == end_) {
      begin_ = 0;
      end_ = in_->read(buffer_);
      if (end_ == 0) return any;
    }
    const char* const from = buffer_.data() + begin_;
    const auto* const newline = static_cast<const char*>(std::memchr(from, '\n', end_ - begin_));
    const size_t n = newline ? static_cast<size_t>(newline - from) : end_ - begin_;
    if (line.size() + n > options_.max_line_bytes)
      throw DataError(files_[file_ - 1].name + ":" + std::to_string(line_ + 1),
                      "expected a line of at most " + std::to_string(options_.max_line_bytes) + " bytes, got a longer one");
    line.append(from, n);
    begin_ += n + (newline ? 1 : 0);
    byte_ += n + (newline ? 1 : 0);
    if (newline) return true;
  }
}

bool CorpusReader::refuse(const std::string& what) {
  if (!options_.skip_invalid) throw DataError(place(), what + " (--skip-invalid leaves such lines out)");
  ++skipped_;
  return false;
}

bool CorpusReader::accept(const std::string& line) {
  const size_t nul = line.find('\0');
  const size_t invalid = unicode::find_invalid_utf8(line);
  if (nul == std::string::npos && invalid == unicode::kValid) return true;
  if (nul != std::string::npos && (invalid == unicode::kValid || nul < invalid))
    return refuse("expected text, got binary data: a NUL at byte " + std::to_string(nul + 1) + " of the line");
  return refuse("expected UTF-8, got another encoding at byte " + std::to_string(invalid + 1) + " of the line");
}

// The text of a JSON line.
bool CorpusReader::parse_record(const std::string& line, std::string& text) {
  try {
    nlohmann::json record = nlohmann::json::parse(line);
    const auto field = record.is_object() ? record.find(options_.field) : record.end();
    if (!record.is_object()) return refuse(std::string("expected a JSON object, got JSON of type ") + record.type_name());
    if (field == record.end()) return refuse("expected a field '" + options_.field + "', got an object without it");
    if (!field->is_string()) return refuse("expected a string in the field '" + options_.field + "', got JSON of type " + field->type_name());
    text = std::move(field->get_ref<std::string&>());
  } catch (const nlohmann::json::parse_error& error) {
    return refuse("expected a JSON object, got none: an error at byte " + std::to_string(error.byte) + " of the line");
  } catch (const nlohmann::json::out_of_range&) {
    return refuse("expected a JSON object, got a number that is out of range");
  }
  return accept(text);  // an escape may stand for NUL
}

void CorpusReader::add(std::string& paragraph, Document& document) {
  if (!paragraph.empty() && paragraph.back() == '\r') paragraph.pop_back();
  const auto is_ascii = [](const std::string& s) { return std::all_of(s.begin(), s.end(), [](char c) { return static_cast<signed char>(c) >= 0; }); };
  if (options_.normal_form && !is_ascii(paragraph)) paragraph = unicode::normalize(paragraph, *options_.normal_form);
  if (is_blank(paragraph)) return;
  if (options_.deduplicate) {
    const uint64_t hash = xxh64(paragraph);
    if (!seen_.insert(hash)) {
      ++duplicates_;
      return;
    }
    if (options_.record_hashes) hashes_.push_back(hash);
  }
  if (document.paragraphs.empty()) document.place = place();
  document.paragraphs.push_back(std::move(paragraph));
}

bool CorpusReader::next(Document& document) {
  document.paragraphs.clear();
  std::string line, text;
  for (;;) {
    if (!in_ && !open_next_file()) return false;
    while (read_line(line)) {
      stopped_ = stopped_ || (options_.stop && options_.stop());
      if (stopped_) return false;
      ++line_;
      bytes_ += line.size() + 1;
      if (line_ == 1 && line.starts_with("\xEF\xBB\xBF")) line.erase(0, 3);  // byte order mark
      if (!accept(line)) continue;
      const bool blank = is_blank(line);
      if (json_lines_) {
        if (blank || !parse_record(line, text)) continue;
        for (size_t at = 0; at < text.size();) {
          const size_t end = std::min(text.find('\n', at), text.size());
          line.assign(text, at, end - at);
          add(line, document);
          at = end + 1;
        }
      } else {
        add(line, document);
      }
      const bool ends = json_lines_ || options_.boundary == DocumentBoundary::line || (options_.boundary == DocumentBoundary::blank_line && blank);
      if (ends && !document.paragraphs.empty()) return true;
    }
    if (in_->stopped()) {
      stopped_ = true;
      return false;
    }
    stored_ += in_->stored();
    in_.reset();
    if (!document.paragraphs.empty()) return true;
  }
}

}  // namespace electra
