// Which documents are held out of training: those whose hash is small. Where there are few documents they are cut into blocks of their
// items (paragraphs, sentences), which are hashed instead.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>

namespace electra {

struct HeldoutSplit {
  HeldoutSplit() = default;
  // share: of the documents, in (0, 1).
  HeldoutSplit(double share, int64_t documents, int64_t items) {
    constexpr double kFewestUnits = 10;
    constexpr int64_t kItemsPerBlock = 16;
    threshold = static_cast<uint64_t>(std::ldexp(share, 64) < 0x1p64 ? std::ldexp(share, 64) : 0x1p64 - 2048);
    if (static_cast<double>(documents) * share < kFewestUnits) block = std::clamp<int64_t>(items / 20, 1, kItemsPerBlock);
  }
  bool is_heldout(uint64_t hash) const { return hash < threshold || hash == smallest; }
  std::string description(const std::string& items) const { return block == 0 ? "document" : "block of " + std::to_string(block) + " " + items; }

  int64_t block = 0;  // items of a unit; 0: whole documents
  uint64_t threshold = 0;
  uint64_t smallest = std::numeric_limits<uint64_t>::max();  // this unit is held out whatever the threshold
};

// Calls visit(begin, end) for each unit of a document.
template <class Visit> void for_each_block(size_t items, int64_t block, Visit visit) {
  const size_t step = block == 0 ? items : static_cast<size_t>(block);
  for (size_t begin = 0; begin < items; begin += step) visit(begin, std::min(items, begin + step));
}

// The hash of a corpus, made of its documents' in order.
inline uint64_t add_document(uint64_t corpus_hash, uint64_t document_hash) { return document_hash ^ (corpus_hash * 0x9E3779B97F4A7C15u + 1); }

}  // namespace electra
