#include "tokenizer/pre_tokenizer.h"

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
    if (unicode::is_white_space(c)) e.flags = kSpace;
    else if (unicode::is_removed(c, options_.mode)) e.flags = kRemoved;
    else if (options_.split_chinese && unicode::is_chinese(c, options_.mode)) e.flags = kAlone;
    if (e.flags & (kSpace | kRemoved)) continue;
    const std::vector<Mapped> mapped = map(c);
    const bool one = mapped.size() == 1 && mapped[0].size > 0 && mapped[0].combining == 0 && !mapped[0].punctuation;
    const bool in_context = c == kCapitalSigma && options_.mode == TokenizerMode::google && options_.lowercase;
    if (one && e.flags == 0 && !in_context) {
      e.size = mapped[0].size;
      mapped[0].text().copy(e.utf8, sizeof e.utf8);
      continue;
    }
    e.flags |= kSeveral;
    e.first = static_cast<uint16_t>(made->mapped.size());
    e.size = static_cast<uint8_t>(mapped.size());
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
      const int combining = strip_accents_ ? unicode::combining_class(p) : 0;
      if (strip_accents_ && unicode::is_nonspacing_mark(p, options_.mode)) {
        if (combining == 0) out.push_back({});
        continue;
      }
      for (const char32_t o : lower_last ? unicode::lowercase(p) : std::u32string(1, p)) {
        std::string utf8;
        unicode::append_utf8(o, utf8);
        Mapped& m = out.emplace_back();
        m.size = static_cast<uint8_t>(utf8.copy(m.utf8, sizeof m.utf8));
        m.combining = static_cast<uint8_t>(combining);
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

// Canonical order: behind the marks of a lower or equal combining class.
void PreTokenizer::insert_mark(Word& word, const Mapped& mark, ByteRange source) {
  size_t at = word.text.size();
  while (at > word.run) {
    size_t before = at;
    if (unicode::combining_class(decode_before(word.text, before)) <= mark.combining) break;
    at = before;
  }
  word.text.insert(at, mark.text());
  word.source.insert(word.source.begin() + static_cast<ptrdiff_t>(at), mark.size, source);
  ++word.characters;
}

}  // namespace electra
