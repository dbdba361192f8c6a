// Merges the most frequent pair of adjacent pieces over and over: byte-pair encoding of words (Sennrich et al., ACL 2016) with "##" before
// continuing pieces, as the PyPI package tokenizers trains WordPiece. Work is in proportion to the pieces that merges change, whatever the
// length of a word.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tokenizer/scratch.h"

namespace electra {

class PairMerger {
 public:
  // tokens: what the vocabulary begins with; each a number of characters and, for continuing ones, "##" before them.
  // space: where the words and their pairs lie. most_candidates: half the pairs that are queued at once.
  PairMerger(std::vector<std::string> tokens, ScratchSpace& space, size_t most_candidates = size_t{1} << 20);
  // A word as indices of tokens of one character each, and how often it occurs.
  void add_word(const std::vector<int32_t>& pieces, int64_t count);
  // Merges the pair with the highest count, of these the one with the lowest ids, until there are `size` tokens or no pair occurs
  // min_frequency times. stop is asked before each merge and every few thousand words, with the number
  // of tokens, and may be empty; false where it said so.
  bool run(int64_t size, int64_t min_frequency, const std::function<bool(int64_t)>& stop);
  // In the order in which they were made.
  const std::vector<std::string>& tokens() const { return tokens_; }

 private:
  // The text lies in cells, one a character: a piece's first cell holds its id and its last one, where it has several, minus their
  // number. Cells between them are kInside; one cell between words is kBoundary.
  static constexpr int32_t kBoundary = INT32_MIN, kInside = INT32_MIN + 1;

  struct WordStart {
    uint64_t cell;
    int64_t count;
  };
  // A pair of ids (left << 32 | right) and its occurrences, as cells of the left piece; some are no more.
  struct Pair {
    uint64_t key;
    int64_t count;
    uint64_t first_block, last_block;  // 0: none
  };
  struct Candidate {
    int64_t count;
    uint64_t key;
    // Whether the other one is to be merged first.
    bool operator<(const Candidate& other) const { return count != other.count ? count < other.count : key > other.key; }
  };

  static uint64_t key_of(int32_t left, int32_t right) { return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right); }
  int32_t id_of(std::string token);
  int64_t count_at(uint64_t cell) const;
  size_t find_pair(uint64_t key);  // index of the pair; made where it is new
  void append(Pair& pair, uint64_t cell);
  void free_block(uint64_t block);
  void index_words();
  bool count_pairs(const std::function<bool(int64_t)>& stop);
  void push(int64_t count, uint64_t key);
  void refill();
  void merge(int32_t left, int32_t right);

  ScratchSpace& space_;
  std::vector<std::string> tokens_;
  std::vector<int64_t> characters_;  // of each token
  std::unordered_map<std::string, int32_t> ids_;
  ScratchArray<int32_t> cells_;
  ScratchArray<WordStart> words_;       // and one behind the last
  ScratchArray<uint64_t> first_words_;  // of each kCellsPerEntry cells: the last word that begins before them or with the first
  ScratchArray<Pair> pairs_;
  ScratchArray<uint64_t> table_;   // 1 + index of a pair, or 0; a power of two of them
  ScratchArray<uint64_t> blocks_;  // lists of cells: next block, capacity << 32 | size, cells
  std::vector<uint64_t> free_blocks_;  // by class of capacity; 0: none
  std::vector<Candidate> queue_;  // a heap; holds stale ones, which are dropped or queued again when met
  size_t most_candidates_;
  int64_t min_frequency_ = 1;
  bool has_floor_ = false;
  Candidate floor_{};  // pairs that come after it are not queued
  // Of a merge.
  struct Neighbour {
    int64_t lost = 0;   // occurrences of the old pair
    size_t pair = 0;    // 1 + index of the new one
  };
  std::vector<Neighbour> before_, after_;  // by id of the piece before or behind
  std::vector<int32_t> met_before_, met_after_;
};

}  // namespace electra
