#include "tokenizer/word_pieces.h"

#include <algorithm>

namespace electra {
namespace {

constexpr uint32_t kBlock = 256;
constexpr size_t kBlocksSearched = 8;  // the newest ones, for a place for several children; single ones fill what is left

size_t characters(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

// What the trie is made from: the text of a piece, without "##".
struct Piece {
  bool inside;
  std::string_view text;
  int32_t id;
};

// A node whose children are still to be placed: pieces [begin, end) share its `depth` bytes.
struct Open {
  uint32_t node;
  size_t begin, end, depth;
};

}  // namespace

WordPieces::WordPieces(const Vocabulary& vocabulary, size_t max_word_characters) {
  std::vector<Piece> pieces;
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    std::string_view text = vocabulary.token(id);
    const bool inside = text.size() > 2 && text.substr(0, 2) == "##";
    if (inside) text.remove_prefix(2);
    lengths_.push_back(static_cast<uint32_t>(text.size()));
    if (characters(text) <= max_word_characters) pieces.push_back({inside, text, id});
  }
  std::sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) { return std::pair(a.inside, a.text) < std::pair(b.inside, b.text); });
  const size_t inside = static_cast<size_t>(std::partition_point(pieces.begin(), pieces.end(), [](const Piece& p) { return !p.inside; }) - pieces.begin());

  nodes_.resize(kBlock);
  exits_.resize(kBlock);
  free_in_block_.push_back(kBlock - 2);
  nodes_[kStart].parent = nodes_[kInside].parent = kTaken;
  // Breadth first, so that the exits of all shorter texts are known when a node's are computed.
  std::vector<Open> queue = {{kStart, 0, inside, 0}, {kInside, inside, pieces.size(), 0}};
  std::vector<uint8_t> bytes;
  std::vector<Open> children;
  for (size_t q = 0; q < queue.size(); ++q) {
    const Open open = queue[q];
    bytes.clear();
    children.clear();
    for (size_t i = open.begin; i < open.end; ++i) {
      if (pieces[i].text.size() == open.depth) continue;  // the node's own piece
      const auto byte = static_cast<uint8_t>(pieces[i].text[open.depth]);
      if (bytes.empty() || bytes.back() != byte) {
        bytes.push_back(byte);
        children.push_back({0, i, i, open.depth + 1});
      }
      children.back().end = i + 1;
    }
    if (bytes.empty()) continue;
    const uint32_t base = place(bytes);
    nodes_[open.node].base = base;
    for (size_t k = 0; k < bytes.size(); ++k) {
      const uint32_t node = base ^ bytes[k];
      nodes_[node].parent = open.node;
      --free_in_block_[node / kBlock];
      children[k].node = node;
      queue.push_back(children[k]);
      Exit& exit = exits_[node];
      exit.first = static_cast<uint32_t>(emitted_.size());
      const Piece& shortest = pieces[children[k].begin];
      if (shortest.text.size() == children[k].depth) {
        emitted_.push_back(shortest.id);
        exit.count = 1;
        exit.node = kInside;
        continue;
      }
      // Not a piece: leave the parent, on and on, until what remains can be followed by this byte.
      uint32_t at = open.node;
      while (exits_[at].node != kNone) {
        for (uint32_t e = 0; e < exits_[at].count; ++e) emitted_.push_back(emitted_[exits_[at].first + e]);
        at = exits_[at].node;
        const uint32_t next = nodes_[at].base ^ bytes[k];
        if (nodes_[next].parent != at) continue;
        exit.node = next;
        break;
      }
      if (exit.node == kNone) emitted_.resize(exit.first);
      exit.count = static_cast<uint32_t>(emitted_.size()) - exit.first;
    }
  }
}

// A base at which the nodes of all these bytes are free.
uint32_t WordPieces::place(const std::vector<uint8_t>& bytes) {
  while (first_open_ < free_in_block_.size() && free_in_block_[first_open_] == 0) ++first_open_;
  size_t block = first_open_;
  if (bytes.size() > 1 && free_in_block_.size() > kBlocksSearched) block = std::max(block, free_in_block_.size() - kBlocksSearched);
  for (; block < free_in_block_.size(); ++block) {
    if (free_in_block_[block] < bytes.size()) continue;
    for (uint32_t i = 0; i < kBlock; ++i) {
      const uint32_t base = static_cast<uint32_t>(block) * kBlock + i;
      if (std::all_of(bytes.begin(), bytes.end(), [&](uint8_t b) { return nodes_[base ^ b].parent == kNone; })) return base;
    }
  }
  const auto base = static_cast<uint32_t>(nodes_.size());
  nodes_.resize(nodes_.size() + kBlock);
  exits_.resize(nodes_.size());
  free_in_block_.push_back(kBlock);
  return base;
}

}  // namespace electra
