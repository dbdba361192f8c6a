#include "tokenizer/pre_tokenizer.h"

#include <algorithm>

namespace electra {
namespace {

constexpr char32_t kCodePoints = 0x110000;

// The code point that ends before text[at], at > 0; moves at to its beginning.
char32_t decode_before(std::string_view text, size_t& at) {
  do --at;
  while ((static_cast<unsigned char>(text[at]) & 0xC0) == 0x80);
  size_t begin = at;
  return unicode::decode(text, begin);
}

}  // namespace

PreTokenizer::PreTokenizer(const TokenizerOptions& options)
    : options_(options),
      strip_accents_(options.strip_accents.value_or(options.lowercase)),
      final_sigma_(map(0x03C2).front()),
      pages_(std::make_unique<std::atomic<const Page*>[]>(kCodePoints >> 8)) {
  const Page& ascii = page(0);
  kinds_.fill(AsciiKind::other);
  for (uint8_t c = 0; c < 128; ++c) {
    const Entry& e = ascii.entries[c];
    if (e.flags & kSpace) kinds_[c] = AsciiKind::space;
    else if (e.flags & kRemoved) kinds_[c] = AsciiKind::removed;
    else if (e.flags & kSeveral) kinds_[c] = AsciiKind::punctuation;
    else {
      kinds_[c] = AsciiKind::word;
      word_bytes_[c] = static_cast<uint8_t>(e.utf8[0]);
    }
  }
}

PreTokenizer::~PreTokenizer() {
  for (char32_t n = 0; n < kCodePoints >> 8; ++n) delete pages_[n].load();
}

// Several threads may make the same page; the first to finish has it kept.
const PreTokenizer::Page& PreTokenizer::make_page(char32_t number) const {
  auto made = std::make_unique<Page>();
  for (char32_t low = 0; low < 256; ++low) {
    const char32_t c = number << 8 | low;
    Entry& e = made->entries[low];
    if (unicode::is_removed(c, options_.mode)) e.flags = kRemoved;
    else if (unicode::is_white_space(c)) e.flags = kSpace;
    else if (options_.split_chinese && unicode::is_chinese(c, options_.mode)) e.flags = kAlone;
    if (e.flags & (kSpace | kRemoved)) continue;
    const std::vector<Mapped> mapped = map(c);
    const auto stays = [](const Mapped& m) { return m.size > 0 || m.combining == 0; };
    const bool in_context = c == kCapitalSigma && options_.mode == TokenizerMode::google && options_.lowercase;
    const Mapped& one = mapped.front();
    if (e.flags == 0 && !in_context && one.size > 0 && one.combining == 0 && !one.punctuation && std::none_of(mapped.begin() + 1, mapped.end(), stays)) {
      e.size = one.size;
      one.text().copy(e.utf8, sizeof e.utf8);
      if (mapped.size() == 1) continue;
    } else {
      e.flags |= kSeveral;
    }
    e.first = static_cast<uint16_t>(made->mapped.size());
    e.count = static_cast<uint16_t>(mapped.size());
    made->mapped.insert(made->mapped.end(), mapped.begin(), mapped.end());
  }
  const Page* expected = nullptr;
  if (pages_[number].compare_exchange_strong(expected, made.get(), std::memory_order_acq_rel)) return *made.release();
  return *expected;
}

// Lower case and accents, in the mode's order.
std::vector<PreTokenizer::Mapped> PreTokenizer::map(char32_t c) const {
  std::vector<Mapped> out;
  const bool lower_first = options_.mode == TokenizerMode::google && options_.lowercase;
  const bool lower_last = options_.mode == TokenizerMode::hf && options_.lowercase;
  for (const char32_t l : lower_first ? unicode::lowercase(c) : std::u32string(1, c))
    for (const char32_t p : strip_accents_ ? unicode::decompose(l, options_.mode) : std::u32string(1, l)) {
      const auto combining = static_cast<uint8_t>(strip_accents_ ? unicode::combining_class(p, options_.mode) : 0);
      if (strip_accents_ && unicode::is_nonspacing_mark(p, options_.mode)) {
        out.emplace_back().combining = combining;
        continue;
      }
      for (const char32_t o : lower_last ? unicode::lowercase(p) : std::u32string(1, p)) {
        std::string utf8;
        unicode::append_utf8(o, utf8);
        Mapped& m = out.emplace_back();
        m.size = static_cast<uint8_t>(utf8.copy(m.utf8, sizeof m.utf8));
        m.combining = combining;
        m.punctuation = unicode::is_punctuation(o, options_.mode);
      }
    }
  return out;
}

// google mode applies the final-sigma rule, as Python's lower() does: a capital sigma that ends a word becomes ς. White space
// and Chinese characters have no case, so that the look to either side ends there.
bool PreTokenizer::is_final_sigma(std::string_view text, size_t begin, size_t end) const {
  if (options_.mode != TokenizerMode::google || !options_.lowercase) return false;
  enum class Seen { cased, other, nothing };
  const auto look = [&](char32_t c) {
    if (page(c).entries[c & 255].flags & kRemoved || unicode::is_case_ignorable(c)) return Seen::nothing;
    return unicode::is_cased(c) ? Seen::cased : Seen::other;
  };
  Seen before = Seen::nothing, after = Seen::nothing;
  while (before == Seen::nothing && begin > 0) before = look(decode_before(text, begin));
  while (after == Seen::nothing && end < text.size()) after = look(unicode::decode(text, end));
  return before == Seen::cased && after != Seen::cased;
}

bool PreTokenizer::has_starter(char32_t c) const {
  const Page& p = page(c);
  const Entry& e = p.entries[c & 255];
  if (e.flags & kRemoved) return false;
  const auto begin = p.mapped.begin() + e.first;
  return e.count == 0 || std::any_of(begin, begin + e.count, [](const Mapped& m) { return m.combining == 0; });
}

// text[at] becomes, among others, a mark that is kept. Appends the kept ones of the run of marks it belongs to in canonical order and
// returns where the run ends. As in transformers, order is restored before marks are dropped, and characters of the text are given out
// in order: each mark that is the first its character becomes takes the next one, the others have that of the mark before.
size_t PreTokenizer::append_marks(std::string_view text, size_t at, Word& word) const {
  const auto decode_at = [&](size_t begin) { return unicode::decode(text, begin); };
  while (at > 0 && !has_starter(decode_at(at))) decode_before(text, at);
  word.marks.clear();
  word.marked.clear();
  ByteRange source;
  for (bool begun = false; at < text.size(); begun = true) {
    const size_t begin = at;
    const char32_t c = unicode::decode(text, at);
    const Page& p = page(c);
    const Entry& e = p.entries[c & 255];
    if (e.flags & kRemoved) continue;
    const bool starter = has_starter(c);
    if (starter && begun) {
      at = begin;
      break;
    }
    if (starter) source = range(begin, at);
    else word.marked.push_back(range(begin, at));
    for (size_t k = e.first; k < size_t{e.first} + e.count; ++k) {
      const Mapped& m = p.mapped[k];
      if (m.combining != 0) word.marks.push_back({m.combining, m.size, k == e.first, {m.utf8[0], m.utf8[1], m.utf8[2], m.utf8[3]}});
    }
  }
  std::stable_sort(word.marks.begin(), word.marks.end(), [](const Word::Mark& a, const Word::Mark& b) { return a.combining < b.combining; });
  size_t next = 0;
  for (const Word::Mark& m : word.marks) {
    if (m.first) source = word.marked[next++];
    if (m.size > 0) append(word, {m.utf8, m.size}, source);
  }
  return at;
}

}  // namespace electra
