// Greedy longest-match word pieces in time linear in the word (LinMaxMatch: Song et al., "Fast WordPiece Tokenization", EMNLP 2021):
// a trie over bytes in which a node also knows the pieces that leaving it emits, and the node where the rest goes on.
#pragma once
#include <cstdint>
#include <string_view>
#include <vector>

#include "tokenizer/vocabulary.h"

namespace electra {

class WordPieces {
 public:
  // Longer tokens are left out: no word matches them.
  WordPieces(const Vocabulary& vocabulary, size_t max_word_characters);

  // A word on its way. Feed its bytes, then finish(); pieces found are appended to ids as soon as they are certain. False: the
  // word cannot be split, and what ids got of it is to be taken back.
  class Match {
   public:
    Match(const WordPieces& pieces, std::vector<int32_t>& ids) : pieces_(pieces), ids_(ids) {}
    bool feed(uint8_t byte) {
      uint32_t next = pieces_.nodes_[node_].base ^ byte;
      while (pieces_.nodes_[next].parent != node_) {
        if (!leave()) return false;
        next = pieces_.nodes_[node_].base ^ byte;
      }
      node_ = next;
      return true;
    }
    bool finish() {
      while (node_ != kInside)
        if (!leave()) return false;
      return true;
    }

   private:
    bool leave() {
      const Exit& exit = pieces_.exits_[node_];
      if (exit.node == kNone) return false;
      for (uint32_t k = 0; k < exit.count; ++k) ids_.push_back(pieces_.emitted_[exit.first + k]);
      node_ = exit.node;
      return true;
    }
    const WordPieces& pieces_;
    std::vector<int32_t>& ids_;
    uint32_t node_ = kStart;
  };

  // Bytes of the text that a piece covers.
  uint32_t length(int32_t id) const { return lengths_[static_cast<size_t>(id)]; }

 private:
  static constexpr uint32_t kStart = 0, kInside = 1;  // the roots: of pieces that begin a word, and of those that continue it
  static constexpr uint32_t kNone = 0xffffffffu, kTaken = 0xfffffffeu;
  // The child of node n at byte b is nodes_[nodes_[n].base ^ b], if n is its parent.
  struct Node {
    uint32_t base = 0, parent = kNone;
  };
  // No longer piece goes on from here: emit `count` pieces from `first` on, and continue at `node`; kNone where nothing matches.
  struct Exit {
    uint32_t node = kNone, first = 0, count = 0;
  };
  uint32_t place(const std::vector<uint8_t>& bytes);

  std::vector<Node> nodes_;
  std::vector<Exit> exits_;
  std::vector<int32_t> emitted_;
  std::vector<uint32_t> lengths_;
  size_t first_open_ = 0;                // blocks of 256 nodes before this one are full
  std::vector<uint32_t> free_in_block_;
};

}  // namespace electra
