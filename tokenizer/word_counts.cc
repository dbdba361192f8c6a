#include "tokenizer/word_counts.h"

#include <algorithm>
#include <cstring>
#include <queue>

namespace electra {
namespace {

constexpr size_t kChunkBytes = 256 << 10, kFirstSlots = 1024;
constexpr size_t kShortWord = 128;  // bytes; longer words take the general way

uint32_t hash_of(std::string_view s) {
  uint64_t h = s.size();
  const auto mix = [&](uint64_t part) {
    h = (h ^ part) * 0x9E3779B97F4A7C15u;
    h ^= h >> 32;
  };
  uint64_t part = 0;
  for (; s.size() >= sizeof part; s.remove_prefix(sizeof part)) {
    std::memcpy(&part, s.data(), sizeof part);
    mix(part);
  }
  part = 0;
  for (const char c : s) part = part << 8 | static_cast<unsigned char>(c);
  mix(part);
  return static_cast<uint32_t>(h * 0xD6E8FEB86659FD93u >> 32);
}

}  // namespace

void WordTable::add(std::string_view word, int64_t count) {
  if (4 * (size_ + 1) > 3 * slots_.size()) grow();
  const uint32_t hash = hash_of(word);
  size_t at = hash & (slots_.size() - 1);
  for (; slots_[at].count != 0; at = (at + 1) & (slots_.size() - 1)) {
    Entry& e = slots_[at];
    if (e.hash != hash || e.size != word.size() || std::memcmp(e.text, word.data(), word.size()) != 0) continue;
    e.count += count;
    return;
  }
  slots_[at] = {keep(word), count, static_cast<uint32_t>(word.size()), hash};
  ++size_;
}

const char* WordTable::keep(std::string_view word) {
  if (word.size() > room_ - used_) {
    used_ = 0;
    room_ = std::max(kChunkBytes, word.size());
    text_bytes_ += room_;
    chunks_.push_back(std::make_unique_for_overwrite<char[]>(room_));
  }
  char* const to = chunks_.back().get() + used_;
  std::memcpy(to, word.data(), word.size());
  used_ += word.size();
  return to;
}

void WordTable::grow() {
  std::vector<Entry> before(std::max(kFirstSlots, 2 * slots_.size()));
  before.swap(slots_);
  for (const Entry& e : before) {
    if (e.count == 0) continue;
    size_t at = e.hash & (slots_.size() - 1);
    while (slots_[at].count != 0) at = (at + 1) & (slots_.size() - 1);
    slots_[at] = e;
  }
}

std::vector<WordTable::Entry> WordTable::sorted() const {
  std::vector<Entry> entries;
  entries.reserve(size_);
  std::copy_if(slots_.begin(), slots_.end(), std::back_inserter(entries), [](const Entry& e) { return e.count != 0; });
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.word() < b.word(); });
  return entries;
}

void WordCounter::add(std::string_view text) {
  char word[kShortWord];
  const auto count = [&](const Word& w) { table.add(w.text); };
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    switch (pre_tokenizer_->kind(static_cast<uint8_t>(text[at]))) {
      case AsciiKind::space:
      case AsciiKind::removed: ++at; break;
      case AsciiKind::punctuation: table.add(text.substr(at++, 1)); break;
      case AsciiKind::word: {
        size_t n = 0;
        for (uint8_t c; at < text.size() && n < kShortWord && (c = pre_tokenizer_->word_byte(static_cast<uint8_t>(text[at]))) != 0; ++at) word[n++] = static_cast<char>(c);
        const AsciiKind next = at < text.size() ? pre_tokenizer_->kind(static_cast<uint8_t>(text[at])) : AsciiKind::space;
        if (next == AsciiKind::space || next == AsciiKind::punctuation)
          table.add({word, n});
        else  // the word goes on
          at = pre_tokenizer_->words_until_ascii(text, begin, word_, count);
        break;
      }
      case AsciiKind::other: at = pre_tokenizer_->words_until_ascii(text, at, word_, count); break;
    }
  }
}

bool visit_word_counts(const std::vector<const WordTable*>& tables, const std::function<bool(std::string_view, int64_t)>& visit) {
  struct Source {
    std::vector<WordTable::Entry> entries;
    size_t at = 0;
    std::string_view word() const { return entries[at].word(); }
  };
  std::vector<Source> sources;
  for (const WordTable* table : tables)
    if (table->size() > 0) sources.push_back({table->sorted()});
  const auto later = [&](size_t a, size_t b) { return sources[a].word() > sources[b].word(); };
  std::vector<size_t> heap(sources.size());  // of sources, the earliest word in front
  for (size_t i = 0; i < heap.size(); ++i) heap[i] = i;
  std::make_heap(heap.begin(), heap.end(), later);
  std::string word;
  while (!heap.empty()) {
    word = sources[heap.front()].word();
    int64_t count = 0;
    while (!heap.empty() && sources[heap.front()].word() == word) {
      std::pop_heap(heap.begin(), heap.end(), later);
      Source& source = sources[heap.back()];
      count += source.entries[source.at].count;
      if (++source.at < source.entries.size()) std::push_heap(heap.begin(), heap.end(), later);
      else heap.pop_back();
    }
    if (!visit(word, count)) return false;
  }
  return true;
}

}  // namespace electra
