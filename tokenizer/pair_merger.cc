#include "tokenizer/pair_merger.h"

#include <algorithm>
#include <iterator>

#include "tokenizer/unicode.h"

namespace electra {
namespace {

constexpr uint64_t kCellsPerEntry = 64;                        // of first_words_
constexpr uint64_t kBlockWords[] = {4, 8, 16, 32, 64, 128, 256};  // next, capacity and size, cells
constexpr uint64_t kBlockHead = 2;
constexpr uint64_t kAccesses = 16;  // between two calls of ScratchSpace::trim
constexpr size_t kWordsPerStop = 4096;
constexpr std::string_view kContinuing = "##";

bool is_continuing(std::string_view token) { return token.starts_with(kContinuing) && token.size() > kContinuing.size(); }

int64_t characters_of(std::string_view token) {
  if (is_continuing(token)) token.remove_prefix(kContinuing.size());
  int64_t n = 0;
  for (size_t at = 0; at < token.size(); ++n) unicode::decode(token, at);
  return n;
}

uint64_t scramble(uint64_t key) {
  key *= 0x9E3779B97F4A7C15u;
  return key ^ key >> 32;
}

}  // namespace

PairMerger::PairMerger(std::vector<std::string> tokens, ScratchSpace& space, size_t most_candidates)
    : space_(space),
      tokens_(std::move(tokens)),
      cells_(space),
      words_(space),
      first_words_(space),
      pairs_(space),
      table_(space),
      blocks_(space),
      free_blocks_(std::size(kBlockWords)),
      most_candidates_(most_candidates) {
  cells_.push_back(kBoundary);
  blocks_.resize(1);
  for (size_t i = 0; i < tokens_.size(); ++i) {
    ids_.emplace(tokens_[i], static_cast<int32_t>(i));
    characters_.push_back(characters_of(tokens_[i]));
  }
}

void PairMerger::add_word(const std::vector<int32_t>& pieces, int64_t count) {
  if (pieces.size() < 2) return;  // no pair
  words_.push_back({cells_.size(), count});
  for (const int32_t piece : pieces) cells_.push_back(piece);
  cells_.push_back(kBoundary);
  space_.trim();
}

int32_t PairMerger::id_of(std::string token) {
  const auto [it, inserted] = ids_.emplace(std::move(token), static_cast<int32_t>(tokens_.size()));
  if (inserted) {
    tokens_.push_back(it->first);
    characters_.push_back(characters_of(it->first));
  }
  return it->second;
}

void PairMerger::index_words() {
  words_.push_back({cells_.size(), 0});
  first_words_.resize(cells_.size() / kCellsPerEntry + 1);
  size_t word = 0;
  for (size_t i = 0; i < first_words_.size(); ++i) {
    while (word + 1 < words_.size() && words_[word + 1].cell <= i * kCellsPerEntry) ++word;
    first_words_[i] = word;
    if (i % kAccesses == 0) space_.trim();
  }
}

int64_t PairMerger::count_at(uint64_t cell) const {
  uint64_t word = first_words_[cell / kCellsPerEntry];
  while (words_[word + 1].cell <= cell) ++word;
  return words_[word].count;
}

size_t PairMerger::find_pair(uint64_t key) {
  if (2 * (pairs_.size() + 1) > table_.size()) {
    table_.reset(std::max<size_t>(1024, 2 * table_.size()));
    for (size_t i = 0; i < pairs_.size(); ++i) {
      if (i % kAccesses == 0) space_.trim();
      size_t at = scramble(pairs_[i].key) & (table_.size() - 1);
      while (table_[at] != 0) at = (at + 1) & (table_.size() - 1);
      table_[at] = i + 1;
    }
  }
  size_t at = scramble(key) & (table_.size() - 1);
  for (; table_[at] != 0; at = (at + 1) & (table_.size() - 1))
    if (pairs_[table_[at] - 1].key == key) return table_[at] - 1;
  pairs_.push_back({key, 0, 0, 0});
  table_[at] = pairs_.size();
  return pairs_.size() - 1;
}

void PairMerger::append(Pair& pair, uint64_t cell) {
  const auto size = [&](uint64_t block) { return blocks_[block + 1] & 0xffffffffu; };
  const auto capacity = [&](uint64_t block) { return blocks_[block + 1] >> 32; };
  if (pair.last_block == 0 || size(pair.last_block) == capacity(pair.last_block)) {
    size_t kind = 0;
    if (pair.last_block != 0)  // twice as large as the one before
      while (kind + 1 < std::size(kBlockWords) && kBlockWords[kind] - kBlockHead <= capacity(pair.last_block)) ++kind;
    uint64_t block = free_blocks_[kind];
    if (block != 0) {
      free_blocks_[kind] = blocks_[block];
    } else {
      block = blocks_.size();
      blocks_.resize(block + kBlockWords[kind]);
    }
    blocks_[block] = 0;
    blocks_[block + 1] = (kBlockWords[kind] - kBlockHead) << 32;
    (pair.last_block == 0 ? pair.first_block : blocks_[pair.last_block]) = block;
    pair.last_block = block;
  }
  blocks_[pair.last_block + kBlockHead + size(pair.last_block)] = cell;
  ++blocks_[pair.last_block + 1];
}

void PairMerger::free_block(uint64_t block) {
  const uint64_t words = (blocks_[block + 1] >> 32) + kBlockHead;
  const auto kind = static_cast<size_t>(std::find(std::begin(kBlockWords), std::end(kBlockWords), words) - std::begin(kBlockWords));
  blocks_[block] = free_blocks_[kind];
  free_blocks_[kind] = block;
}

bool PairMerger::count_pairs(const std::function<bool(int64_t)>& stop) {
  for (size_t w = 0; w + 1 < words_.size(); ++w) {
    if (w % kWordsPerStop == 0 && stop && stop(static_cast<int64_t>(tokens_.size()))) return false;
    for (uint64_t cell = words_[w].cell; cells_[cell + 1] != kBoundary; ++cell) {
      if (cell % kAccesses == 0) space_.trim();
      Pair& pair = pairs_[find_pair(key_of(cells_[cell], cells_[cell + 1]))];
      pair.count += words_[w].count;
      append(pair, cell);
    }
  }
  return true;
}

void PairMerger::push(int64_t count, uint64_t key) {
  const Candidate c{count, key};
  if (count < min_frequency_ || (has_floor_ && c < floor_)) return;
  queue_.push_back(c);
  std::push_heap(queue_.begin(), queue_.end());
  if (queue_.size() > 2 * most_candidates_) refill();
}

// Queues the first most_candidates_ pairs.
void PairMerger::refill() {
  const auto first = [](const Candidate& a, const Candidate& b) { return b < a; };  // a heap with the last one in front
  queue_.clear();
  for (size_t i = 0; i < pairs_.size(); ++i) {
    if (i % kAccesses == 0) space_.trim();
    const Candidate c{pairs_[i].count, pairs_[i].key};
    if (c.count < min_frequency_) continue;
    if (queue_.size() == most_candidates_) {
      if (c < queue_.front()) continue;
      std::pop_heap(queue_.begin(), queue_.end(), first);
      queue_.pop_back();
    }
    queue_.push_back(c);
    std::push_heap(queue_.begin(), queue_.end(), first);
  }
  has_floor_ = queue_.size() == most_candidates_;
  if (has_floor_) floor_ = queue_.front();
  std::make_heap(queue_.begin(), queue_.end());
}

bool PairMerger::run(int64_t size, int64_t min_frequency, const std::function<bool(int64_t)>& stop) {
  min_frequency_ = std::max<int64_t>(min_frequency, 1);
  index_words();
  if (!count_pairs(stop)) return false;
  refill();
  while (static_cast<int64_t>(tokens_.size()) < size) {
    if (queue_.empty() && has_floor_) refill();
    if (queue_.empty()) break;
    if (stop && stop(static_cast<int64_t>(tokens_.size()))) return false;
    std::pop_heap(queue_.begin(), queue_.end());
    const Candidate top = queue_.back();
    queue_.pop_back();
    const int64_t count = pairs_[find_pair(top.key)].count;
    if (count != top.count)
      push(count, top.key);
    else
      merge(static_cast<int32_t>(top.key >> 32), static_cast<int32_t>(top.key & 0xffffffffu));
  }
  return true;
}

void PairMerger::merge(int32_t left, int32_t right) {
  const std::string& second = tokens_[static_cast<size_t>(right)];
  const int32_t merged = id_of(tokens_[static_cast<size_t>(left)] + second.substr(is_continuing(second) ? kContinuing.size() : 0));
  const auto left_cells = static_cast<uint64_t>(characters_[static_cast<size_t>(left)]), right_cells = static_cast<uint64_t>(characters_[static_cast<size_t>(right)]);
  before_.resize(tokens_.size());
  after_.resize(tokens_.size());
  const size_t self = find_pair(key_of(left, right));
  // An old pair loses occurrences of count `count`, a new one wins one at `cell`.
  const auto change = [&](Neighbour& n, int32_t id, std::vector<int32_t>& met, uint64_t new_key, int64_t count, uint64_t cell) {
    if (n.pair == 0) {
      met.push_back(id);
      n.pair = 1 + find_pair(new_key);
    }
    n.lost += count;
    Pair& pair = pairs_[n.pair - 1];
    pair.count += count;
    append(pair, cell);
  };
  // They come in ascending order, as they were found: all pairs of two pieces come about in one merge, that which makes the newer
  // one. So in aaa the first two are merged.
  int64_t merged_count = 0;
  const auto merge_at = [&](uint64_t cell) {
    const uint64_t second_cell = cell + left_cells;
    if (cells_[cell] != left || cells_[second_cell] != right) return;
    const int64_t count = count_at(cell);
    const uint64_t behind = second_cell + right_cells;
    merged_count += count;
    if (const int32_t end = cells_[cell - 1]; end != kBoundary) {
      const uint64_t begin = end >= 0 ? cell - 1 : cell - static_cast<uint64_t>(-end);
      const int32_t id = cells_[begin];
      change(before_[static_cast<size_t>(id)], id, met_before_, key_of(id, merged), count, begin);
    }
    if (const int32_t id = cells_[behind]; id != kBoundary) change(after_[static_cast<size_t>(id)], id, met_after_, key_of(merged, id), count, cell);
    cells_[second_cell - 1] = kInside;  // the first piece's end
    cells_[second_cell] = kInside;
    cells_[cell] = merged;
    cells_[behind - 1] = -static_cast<int32_t>(left_cells + right_cells);
  };
  uint64_t block = pairs_[self].first_block;
  pairs_[self].first_block = pairs_[self].last_block = 0;
  for (uint64_t next = 0; block != 0; block = next) {
    for (uint64_t k = 0; k < (blocks_[block + 1] & 0xffffffffu); ++k) {
      if (k % kAccesses == 0) space_.trim();
      merge_at(blocks_[block + kBlockHead + k]);
    }
    next = blocks_[block];
    free_block(block);
  }
  pairs_[self].count -= merged_count;
  uint64_t accesses = 0;
  const auto trim_now_and_then = [&] {
    if (++accesses % kAccesses == 0) space_.trim();
  };
  const auto lose = [&](uint64_t key, int64_t count) {
    trim_now_and_then();
    pairs_[find_pair(key)].count -= count;
  };
  for (const int32_t id : met_before_) lose(key_of(id, left), before_[static_cast<size_t>(id)].lost);
  for (const int32_t id : met_after_) lose(key_of(right, id), after_[static_cast<size_t>(id)].lost);
  const auto queue = [&](std::vector<Neighbour>& neighbours, std::vector<int32_t>& met) {
    for (const int32_t id : met) {
      trim_now_and_then();
      const Pair& pair = pairs_[neighbours[static_cast<size_t>(id)].pair - 1];
      push(pair.count, pair.key);
      neighbours[static_cast<size_t>(id)] = {};
    }
    met.clear();
  };
  queue(before_, met_before_);
  queue(after_, met_after_);
}

}  // namespace electra
