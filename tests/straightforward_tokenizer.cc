#include "tests/straightforward_tokenizer.h"

#include <algorithm>

#include "tokenizer/unicode.h"

namespace electra::test {

StraightforwardTokenizer::StraightforwardTokenizer(const Vocabulary& vocabulary, const TokenizerOptions& options)
    : vocabulary_(vocabulary), options_(options), strip_accents_(options.strip_accents.value_or(options.lowercase)) {}

void StraightforwardTokenizer::encode(std::string_view text, Encoding& out) const {
  out.ids.clear();
  out.offsets.clear();
  out.word_ids.clear();
  const int32_t special[] = {vocabulary_.pad(), vocabulary_.unk(), vocabulary_.cls(), vocabulary_.sep(), vocabulary_.mask()};
  int32_t word_index = 0;
  size_t begin = 0;
  for (size_t at = 0; options_.mode == TokenizerMode::hf && at < text.size(); ++at)
    for (const int32_t id : special) {
      const std::string& token = vocabulary_.token(id);
      if (text.substr(at, token.size()) != token) continue;
      encode_segment(text.substr(begin, at - begin), static_cast<uint32_t>(begin), out, word_index);
      out.ids.push_back(id);
      out.offsets.push_back({static_cast<uint32_t>(at), static_cast<uint32_t>(at + token.size())});
      out.word_ids.push_back(word_index++);
      begin = at + token.size();
      at = begin - 1;
      break;
    }
  encode_segment(text.substr(begin), static_cast<uint32_t>(begin), out, word_index);
}

// Splits at white space and around Chinese characters, maps, splits at punctuation.
void StraightforwardTokenizer::encode_segment(std::string_view text, uint32_t base, Encoding& out, int32_t& word_index) const {
  std::u32string raw;
  std::vector<ByteRange> raw_source;
  const auto end_span = [&] {
    Word mapped, word;
    map_span(raw, raw_source, mapped);
    const auto end_word = [&] {
      if (!word.text.empty()) encode_word(word, out, word_index++);
      word = {};
    };
    for (size_t i = 0; i < mapped.text.size(); ++i) {
      const char32_t c = mapped.text[i];
      const bool alone = unicode::is_punctuation(c, options_.mode);
      if (alone || unicode::is_white_space(c)) end_word();
      if (unicode::is_white_space(c)) continue;
      word.text.push_back(c);
      word.source.push_back(mapped.source[i]);
      if (alone) end_word();
    }
    end_word();
    raw.clear();
    raw_source.clear();
  };
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const char32_t c = unicode::decode(text, at);
    if (unicode::is_removed(c, options_.mode)) continue;
    const bool space = unicode::is_white_space(c), chinese = options_.split_chinese && unicode::is_chinese(c, options_.mode);
    if (space || chinese) end_span();
    if (space) continue;
    raw.push_back(c);
    raw_source.push_back({base + static_cast<uint32_t>(begin), base + static_cast<uint32_t>(at)});
    if (chinese) end_span();
  }
  end_span();
}

// google mode: a capital sigma that ends a word becomes ς, as in Python's lower().
std::u32string StraightforwardTokenizer::lowercase(const std::u32string& raw, size_t i) const {
  if (raw[i] != 0x03A3 || options_.mode == TokenizerMode::hf) return unicode::lowercase(raw[i]);
  size_t before = i, after = i + 1;
  while (before > 0 && unicode::is_case_ignorable(raw[before - 1])) --before;
  while (after < raw.size() && unicode::is_case_ignorable(raw[after])) ++after;
  const bool preceded = before > 0 && unicode::is_cased(raw[before - 1]);
  const bool followed = after < raw.size() && unicode::is_cased(raw[after]);
  return std::u32string(1, preceded && !followed ? 0x03C2 : 0x03C3);
}

// Lower case and accents, in the mode's order. Canonical order, too, deals out the characters of the text in their order, as transformers
// does: the first character that one becomes takes the next, the others have that of what stands before.
void StraightforwardTokenizer::map_span(const std::u32string& raw, const std::vector<ByteRange>& raw_source, Word& mapped) const {
  struct Part {
    char32_t c;
    int combining;
    bool first;
  };
  const bool lower_first = options_.mode == TokenizerMode::google && options_.lowercase;
  std::vector<Part> parts;
  for (size_t i = 0; i < raw.size(); ++i) {
    const size_t before = parts.size();
    for (const char32_t l : lower_first ? lowercase(raw, i) : std::u32string(1, raw[i]))
      for (const char32_t p : strip_accents_ ? unicode::decompose(l, options_.mode) : std::u32string(1, l))
        parts.push_back({p, strip_accents_ ? unicode::combining_class(p, options_.mode) : 0, parts.size() == before});
  }
  for (size_t begin = 0; begin < parts.size();) {
    size_t end = begin + 1;
    if (parts[begin].combining != 0) {
      while (end < parts.size() && parts[end].combining != 0) ++end;
      std::stable_sort(parts.begin() + static_cast<ptrdiff_t>(begin), parts.begin() + static_cast<ptrdiff_t>(end), [](const Part& a, const Part& b) { return a.combining < b.combining; });
    }
    begin = end;
  }
  size_t taken = 0;
  for (const Part& part : parts) {
    taken += part.first;
    if (strip_accents_ && unicode::is_nonspacing_mark(part.c, options_.mode)) continue;
    const bool lower_last = options_.mode == TokenizerMode::hf && options_.lowercase;
    const std::u32string out = lower_last ? unicode::lowercase(part.c) : std::u32string(1, part.c);
    mapped.text += out;
    mapped.source.insert(mapped.source.end(), out.size(), raw_source[taken - 1]);
  }
}

// Greedy longest match from the left; any failure makes the whole word [UNK].
void StraightforwardTokenizer::encode_word(const Word& word, Encoding& out, int32_t word_index) const {
  const size_t n = word.text.size(), first = out.ids.size();
  bool known = n <= (options_.mode == TokenizerMode::hf ? 100 : 200);
  for (size_t begin = 0; known && begin < n;) {
    known = false;
    for (size_t end = n; end > begin && !known; --end) {
      std::string piece = begin > 0 ? "##" : "";
      for (size_t k = begin; k < end; ++k) unicode::append_utf8(word.text[k], piece);
      const auto id = vocabulary_.find(piece);
      if (!id) continue;
      known = true;
      out.ids.push_back(*id);
      out.offsets.push_back({word.source[begin].begin, word.source[end - 1].end});
      begin = end;
      break;
    }
  }
  if (!known) {
    out.ids.resize(first);
    out.offsets.resize(first);
    out.ids.push_back(vocabulary_.unk());
    out.offsets.push_back({word.source.front().begin, word.source.back().end});
  }
  out.word_ids.resize(out.ids.size(), word_index);
}

}  // namespace electra::test
