#include "tokenizer/top_down.h"

#include <algorithm>
#include <numeric>

#include "kernels/core/error.h"
#include "tokenizer/unicode.h"

namespace electra {

void TopDownLearner::add_word(std::string_view word, int64_t count) {
  text_.push_back(0);
  words_.push_back(text_.size());
  counts_.push_back(count);
  for (size_t at = 0; at < word.size();) text_.push_back(unicode::decode(word, at));
}

bool TopDownLearner::is_first(uint64_t place) const { return text_[place - 1] == 0; }

std::u32string_view TopDownLearner::tail(uint64_t place) const {
  uint64_t end = place;
  while (text_[end] != 0) ++end;
  return {text_.data() + place, end - place};
}

void TopDownLearner::build() {
  text_.push_back(0);
  std::vector<uint64_t> places;  // of all characters, in the order of the tails there
  for (uint64_t place = 0; place < text_.size(); ++place)
    if (text_[place] != 0) places.push_back(place);
  std::sort(places.begin(), places.end(), [&](uint64_t a, uint64_t b) {
    if (is_first(a) != is_first(b)) return is_first(a);
    while (text_[a] == text_[b] && text_[a] != 0) {
      ++a;
      ++b;
    }
    return text_[a] < text_[b];
  });
  tails_.assign(text_.size(), kNone);
  std::vector<uint32_t> path{kNone};  // from a trie's root to the node of the tail before
  std::u32string_view before;
  bool before_first = true;
  for (const uint64_t place : places) {
    const std::u32string_view now = tail(place);
    const bool first = is_first(place);
    const size_t common = first != before_first ? 0 : static_cast<size_t>(std::mismatch(before.begin(), before.end(), now.begin(), now.end()).first - before.begin());
    path.resize(common + 1);
    while (path.size() <= now.size()) {
      if (nodes_.size() == kNone) throw DataError("vocab train", "expected words with at most 4294967295 distinct parts, got more");
      nodes_.push_back({path.back(), static_cast<uint32_t>(path.size()), place});
      path.push_back(static_cast<uint32_t>(nodes_.size() - 1));
    }
    tails_[place] = path.back();
    before = now;
    before_first = first;
  }
  left_.resize(nodes_.size());
  kept_.resize(nodes_.size());
  // A character may occur several times in a word.
  for (size_t w = 0; w < words_.size(); ++w) most_ += counts_[w] * static_cast<int64_t>(tail(words_[w]).size());
}

std::vector<TopDownLearner::Piece> TopDownLearner::learn(int64_t threshold, const std::function<bool()>& stop) {
  for (int iteration = 0; iteration < kIterations; ++iteration) {
    if (stop && stop()) return {};
    std::fill(left_.begin(), left_.end(), 0);
    for (size_t w = 0; w < words_.size(); ++w)
      for (uint64_t place = words_[w]; text_[place] != 0;) {
        uint32_t node = tails_[place];
        left_[node] += counts_[w];
        if (iteration == 0) {
          ++place;
          continue;
        }
        while (!kept_[node] && nodes_[node].length > 1) node = nodes_[node].parent;
        place += nodes_[node].length;
      }
    // The longest first: what is not kept counts for its parent.
    for (size_t node = nodes_.size(); node-- > 0;) {
      kept_[node] = left_[node] >= threshold;
      if (!kept_[node] && nodes_[node].parent != kNone) left_[nodes_[node].parent] += left_[node];
    }
  }
  std::vector<Piece> pieces;
  for (size_t node = 0; node < nodes_.size(); ++node) {
    if (!kept_[node]) continue;
    Piece piece{is_first(nodes_[node].place) ? "" : "##", left_[node]};
    for (uint64_t k = 0; k < nodes_[node].length; ++k) unicode::append_utf8(text_[nodes_[node].place + k], piece.text);
    pieces.push_back(std::move(piece));
  }
  std::sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) { return a.count != b.count ? a.count > b.count : a.text < b.text; });
  return pieces;
}

}  // namespace electra
