#include "tokenizer/pre_tokenizer.h"

#include "tokenizer/unicode.h"

namespace electra {

PreTokenizer::PreTokenizer(const TokenizerOptions& options)
    : options_(options), strip_accents_(options.strip_accents.value_or(options.lowercase)), flags_(kTableSize) {
  for (char32_t c = 0; c < kTableSize; ++c) flags_[c] = classify(c);
}

// kPlain: nothing that this tokenizer does changes the character.
uint8_t PreTokenizer::classify(char32_t c) const {
  uint8_t f = 0;
  if (unicode::is_white_space(c)) f |= kSpace;
  else if (unicode::is_removed(c, options_.mode)) f |= kRemoved;
  if (options_.split_chinese && unicode::is_chinese(c, options_.mode)) f |= kChinese;
  if (unicode::is_punctuation(c, options_.mode)) f |= kPunctuation;
  if (strip_accents_ && unicode::is_nonspacing_mark(c, options_.mode)) f |= kMark;
  const bool lower_same = !options_.lowercase || unicode::lowercase(c) == std::u32string(1, c);
  const bool whole = !strip_accents_ || (unicode::decompose(c, options_.mode) == std::u32string(1, c) && unicode::combining_class(c) == 0);
  if (lower_same && whole && !(f & kMark)) f |= kPlain;
  return f;
}

bool PreTokenizer::next_span(std::string_view text, uint32_t base, size_t& at, Buffers& b) const {
  b.raw.clear();
  b.raw_source.clear();
  while (at < text.size()) {
    const size_t begin = at;
    const char32_t c = unicode::decode(text, at);
    const uint8_t f = flags(c);
    if (f & kRemoved) continue;
    if (f & kSpace) {
      if (b.raw.empty()) continue;
      break;
    }
    if (f & kChinese && !b.raw.empty()) {  // a word of its own: stop before it
      at = begin;
      break;
    }
    b.raw.push_back(c);
    b.raw_source.push_back({base + static_cast<uint32_t>(begin), base + static_cast<uint32_t>(at)});
    if (f & kChinese) break;
  }
  if (b.raw.empty()) return false;
  map_span(b);
  return true;
}

// google mode applies the final-sigma rule, as Python's lower() does: a capital sigma that ends a word becomes ς.
void PreTokenizer::append_lowercase(const std::vector<char32_t>& raw, size_t i, std::u32string& out) const {
  constexpr char32_t kCapitalSigma = 0x03A3, kFinalSigma = 0x03C2;
  if (options_.mode == TokenizerMode::google && raw[i] == kCapitalSigma) {
    size_t before = i;
    while (before > 0 && unicode::is_case_ignorable(raw[before - 1])) --before;
    size_t after = i + 1;
    while (after < raw.size() && unicode::is_case_ignorable(raw[after])) ++after;
    const bool preceded = before > 0 && unicode::is_cased(raw[before - 1]);
    const bool followed = after < raw.size() && unicode::is_cased(raw[after]);
    if (preceded && !followed) {
      out.push_back(kFinalSigma);
      return;
    }
  }
  out += unicode::lowercase(raw[i]);
}

// Lower case and accents, in the mode's order; canonical order of what combining marks remain.
void PreTokenizer::map_span(Buffers& b) const {
  b.mapped.clear();
  b.mapped_source.clear();
  size_t run = 0;  // where the current run of combining marks begins in mapped
  std::u32string lower, parts;
  for (size_t i = 0; i < b.raw.size(); ++i) {
    const char32_t c = b.raw[i];
    const ByteRange source = b.raw_source[i];
    if (flags(c) & kPlain) {
      b.mapped.push_back(c);
      b.mapped_source.push_back(source);
      run = b.mapped.size();
      continue;
    }
    if (c < 128) {  // a capital letter
      b.mapped.push_back(options_.lowercase ? c | 0x20 : c);
      b.mapped_source.push_back(source);
      run = b.mapped.size();
      continue;
    }
    lower.assign(1, c);
    if (options_.mode == TokenizerMode::google && options_.lowercase) {
      lower.clear();
      append_lowercase(b.raw, i, lower);
    }
    for (const char32_t l : lower) {
      parts.assign(1, l);
      if (strip_accents_) parts = unicode::decompose(l, options_.mode);
      for (const char32_t p : parts) {
        const int combining = strip_accents_ ? unicode::combining_class(p) : 0;
        if (strip_accents_ && unicode::is_nonspacing_mark(p, options_.mode)) {
          if (combining == 0) run = b.mapped.size();
          continue;
        }
        size_t at = b.mapped.size();
        if (combining != 0)
          while (at > run && unicode::combining_class(b.mapped[at - 1]) > combining) --at;
        const std::u32string out =
            options_.mode == TokenizerMode::hf && options_.lowercase ? unicode::lowercase(p) : std::u32string(1, p);
        b.mapped.insert(b.mapped.begin() + static_cast<ptrdiff_t>(at), out.begin(), out.end());
        b.mapped_source.insert(b.mapped_source.begin() + static_cast<ptrdiff_t>(at), out.size(), source);
        if (combining == 0) run = b.mapped.size();
      }
    }
  }
}

// The next run of characters without punctuation or white space, or one punctuation character.
bool PreTokenizer::next_word(Buffers& b, size_t& i) const {
  Word& w = b.word;
  w.text.clear();
  w.starts.assign(1, 0);
  w.source.clear();
  for (; i < b.mapped.size(); ++i) {
    const char32_t c = b.mapped[i];
    const uint8_t f = flags(c);
    if (f & kSpace) {
      if (w.source.empty()) continue;
      break;
    }
    if (f & kPunctuation && !w.source.empty()) return true;
    if (c < 128) w.text.push_back(static_cast<char>(c));
    else unicode::append_utf8(c, w.text);
    w.starts.push_back(static_cast<uint32_t>(w.text.size()));
    w.source.push_back(b.mapped_source[i]);
    if (f & kPunctuation) {
      ++i;
      return true;
    }
  }
  return !w.source.empty();
}

}  // namespace electra
