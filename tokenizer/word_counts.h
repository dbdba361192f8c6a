// How often each word of a text occurs: what vocabulary training counts before it makes pieces.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/scratch.h"

namespace electra {

// Words with their counts, in a hash table: 24 bytes a slot, three eighths to three quarters of them full, and the text.
class WordTable {
 public:
  struct Entry {
    const char* text = nullptr;
    int64_t count = 0;  // 0: an empty slot
    uint32_t size = 0, hash = 0;
    std::string_view word() const { return {text, size}; }
  };

  void add(std::string_view word, int64_t count = 1);
  size_t size() const { return size_; }
  // Held now; growing takes twice the slots for a moment.
  size_t bytes() const { return slots_.size() * sizeof(Entry) + text_bytes_; }
  // In the order of their bytes; they point into the table.
  std::vector<Entry> sorted() const;

 private:
  const char* keep(std::string_view word);
  void grow();

  std::vector<Entry> slots_;  // a power of two of them
  std::vector<std::unique_ptr<char[]>> chunks_;
  size_t size_ = 0, text_bytes_ = 0, used_ = 0, room_ = 0;  // bytes of the last chunk
};

// Words with their counts in the order of their bytes, in a file: 12 bytes a word, and its text.
using WordRun = ScratchFile;

// Counts the words that a pre-tokenizer finds in texts of valid UTF-8. What exceeds the memory goes to files.
class WordCounter {
 public:
  // memory: of the table, in bytes, at least 64 KiB; up to three times as much is needed while it grows or is written.
  explicit WordCounter(const PreTokenizer& pre_tokenizer, uint64_t memory = UINT64_MAX, std::filesystem::path folder = ".");
  // Throws IoError, after which the counts are of no use.
  void add(std::string_view text);
  void add_word(std::string_view word, int64_t count = 1);
  void spill();  // the table to a file
  const WordTable& table() const { return table_; }
  const std::vector<WordRun>& runs() const { return runs_; }

 private:
  void merge_runs();
  const PreTokenizer* pre_tokenizer_;
  uint64_t memory_;
  std::filesystem::path folder_;
  Word word_;
  WordTable table_;
  std::vector<WordRun> runs_;
};

// Calls visit(word, count) for each word of the counters in the order of their bytes, with the sum of its counts, as long as it
// returns true; returns whether it always did. Throws IoError.
bool visit_word_counts(const std::vector<WordCounter>& counters, const std::function<bool(std::string_view, int64_t)>& visit);

}  // namespace electra
