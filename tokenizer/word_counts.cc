#include "tokenizer/word_counts.h"

#include <algorithm>
#include <cstring>
#include <optional>

namespace electra {
namespace {

constexpr size_t kLeastChunk = 4 << 10, kMostChunk = 256 << 10;  // bytes
constexpr size_t kFirstSlots = 1024;
constexpr uint64_t kLeastTable = 64 << 10;  // bytes; a smaller one would be written all the time
constexpr size_t kShortWord = 128;  // bytes; longer words take the general way
constexpr size_t kRunBuffer = 32 << 10;
constexpr size_t kMostRuns = 16;  // of a counter; then they become one

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

class RunWriter {
 public:
  explicit RunWriter(const std::filesystem::path& folder) : file_(folder) {}
  void write(std::string_view word, int64_t count) {
    put(&count, sizeof count);
    const auto size = static_cast<uint32_t>(word.size());
    put(&size, sizeof size);
    put(word.data(), word.size());
  }
  WordRun finish() {
    flush();
    return std::move(file_);
  }

 private:
  void put(const void* from, size_t n) {
    const auto* const bytes = static_cast<const std::byte*>(from);
    buffer_.insert(buffer_.end(), bytes, bytes + n);
    if (buffer_.size() >= kRunBuffer) flush();
  }
  void flush() {
    file_.append(buffer_);
    buffer_.clear();
  }
  WordRun file_;
  std::vector<std::byte> buffer_;
};

// The words of a table or of a run, one after another.
class WordSource {
 public:
  explicit WordSource(const WordTable& table) : entries_(table.sorted()) {}
  explicit WordSource(const WordRun& run) : run_(&run) {}
  bool next() {
    if (run_ == nullptr) return at_++ < entries_.size();
    uint32_t size = 0;
    if (!get(&count_, sizeof count_) || !get(&size, sizeof size)) return false;
    text_.resize(size);
    get(text_.data(), size);
    return true;
  }
  std::string_view word() const { return run_ == nullptr ? entries_[at_ - 1].word() : text_; }
  int64_t count() const { return run_ == nullptr ? entries_[at_ - 1].count : count_; }

 private:
  bool get(void* to, size_t n) {
    for (size_t done = 0; done < n;) {
      if (at_ == buffer_.size()) {
        buffer_.resize(kRunBuffer);
        buffer_.resize(run_->read(offset_, buffer_));
        offset_ += buffer_.size();
        at_ = 0;
        if (buffer_.empty()) return false;
      }
      const size_t part = std::min(n - done, buffer_.size() - at_);
      std::memcpy(static_cast<std::byte*>(to) + done, buffer_.data() + at_, part);
      done += part;
      at_ += part;
    }
    return true;
  }

  std::vector<WordTable::Entry> entries_;
  const WordRun* run_ = nullptr;
  std::string text_;
  int64_t count_ = 0;
  std::vector<std::byte> buffer_;
  uint64_t offset_ = 0;
  size_t at_ = 0;  // behind what was read of the entries or of the buffer
};

bool visit(std::vector<WordSource> sources, const std::function<bool(std::string_view, int64_t)>& visit_word) {
  std::erase_if(sources, [](WordSource& source) { return !source.next(); });
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
      WordSource& source = sources[heap.back()];
      count += source.count();
      if (source.next()) std::push_heap(heap.begin(), heap.end(), later);
      else heap.pop_back();
    }
    if (!visit_word(word, count)) return false;
  }
  return true;
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
    room_ = std::max(std::clamp(text_bytes_, kLeastChunk, kMostChunk), word.size());
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

WordCounter::WordCounter(const PreTokenizer& pre_tokenizer, uint64_t memory, std::filesystem::path folder)
    : pre_tokenizer_(&pre_tokenizer), memory_(std::max(memory, kLeastTable)), folder_(std::move(folder)) {}

void WordCounter::add_word(std::string_view word, int64_t count) {
  table_.add(word, count);
  if (table_.bytes() > memory_) spill();
}

void WordCounter::spill() {
  if (table_.size() == 0) return;
  if (runs_.size() == kMostRuns) merge_runs();
  RunWriter writer(folder_);
  for (const WordTable::Entry& e : table_.sorted()) writer.write(e.word(), e.count);
  runs_.push_back(writer.finish());
  table_ = {};
}

void WordCounter::merge_runs() {
  std::vector<WordSource> sources;
  for (const WordRun& run : runs_) sources.emplace_back(run);
  RunWriter writer(folder_);
  visit(std::move(sources), [&](std::string_view word, int64_t count) {
    writer.write(word, count);
    return true;
  });
  runs_.clear();
  runs_.push_back(writer.finish());
}

void WordCounter::add(std::string_view text) {
  char word[kShortWord];
  const auto count = [&](const Word& w) { add_word(w.text); };
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    switch (pre_tokenizer_->kind(static_cast<uint8_t>(text[at]))) {
      case AsciiKind::space:
      case AsciiKind::removed: ++at; break;
      case AsciiKind::punctuation: add_word(text.substr(at++, 1)); break;
      case AsciiKind::word: {
        size_t n = 0;
        for (uint8_t c; at < text.size() && n < kShortWord && (c = pre_tokenizer_->word_byte(static_cast<uint8_t>(text[at]))) != 0; ++at) word[n++] = static_cast<char>(c);
        const AsciiKind next = at < text.size() ? pre_tokenizer_->kind(static_cast<uint8_t>(text[at])) : AsciiKind::space;
        if (next == AsciiKind::space || next == AsciiKind::punctuation)
          add_word({word, n});
        else  // the word goes on
          at = pre_tokenizer_->words_until_ascii(text, begin, word_, count);
        break;
      }
      case AsciiKind::other: at = pre_tokenizer_->words_until_ascii(text, at, word_, count); break;
    }
  }
}

bool visit_word_counts(const std::vector<WordCounter>& counters, const std::function<bool(std::string_view, int64_t)>& visit_word) {
  std::vector<WordSource> sources;
  for (const WordCounter& counter : counters) {
    sources.emplace_back(counter.table());
    for (const WordRun& run : counter.runs()) sources.emplace_back(run);
  }
  return visit(std::move(sources), visit_word);
}

}  // namespace electra
