// How often each word of a text occurs: what vocabulary training counts before it makes pieces.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/pre_tokenizer.h"

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

// Counts the words that a pre-tokenizer finds in texts of valid UTF-8.
class WordCounter {
 public:
  explicit WordCounter(const PreTokenizer& pre_tokenizer) : pre_tokenizer_(&pre_tokenizer) {}
  void add(std::string_view text);
  WordTable table;

 private:
  const PreTokenizer* pre_tokenizer_;
  Word word_;
};

// Calls visit(word, count) for each word of the tables in the order of their bytes, with the sum of its counts, as long as it
// returns true; returns whether it always did.
bool visit_word_counts(const std::vector<const WordTable*>& tables, const std::function<bool(std::string_view, int64_t)>& visit);

}  // namespace electra
