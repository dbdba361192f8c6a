// Normalisation and splitting into words: what happens to text before word pieces are looked up.
#pragma once
#include <array>
#include <atomic>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer.h"
#include "tokenizer/unicode.h"

namespace electra {

// A normalised word. Byte k of text belongs to a character that stems from source[k].
struct Word {
  std::string text;
  std::vector<ByteRange> source;
  size_t characters = 0;

  struct Mark {
    uint8_t combining, size;  // no bytes: one that is dropped
    bool first;               // of those that a character of the text becomes
    char utf8[4];
  };
  std::vector<Mark> marks;  // what restoring canonical order needs
  std::vector<ByteRange> marked;
};

// What an ASCII character is to the tokenizer; kOther: not ASCII.
enum class AsciiKind : uint8_t { word, space, punctuation, removed, other };

class PreTokenizer {
 public:
  explicit PreTokenizer(const TokenizerOptions& options);
  ~PreTokenizer();
  PreTokenizer(const PreTokenizer&) = delete;
  PreTokenizer& operator=(const PreTokenizer&) = delete;

  // Calls visit(const Word&) for each word of valid UTF-8 in order. The word is the caller's buffer.
  template <class Visit> void for_each_word(std::string_view text, Word& word, Visit visit) const {
    for (size_t at = 0; at < text.size();) at = words_until_ascii(text, at, word, visit);
  }

  // The same from where a word or what is between words begins, until a word ends and ASCII follows, or to the text's end; returns
  // where that is. So ASCII can be dealt with by whoever knows a shorter way.
  template <class Visit> size_t words_until_ascii(std::string_view text, size_t at, Word& word, Visit visit) const {
    clear(word);
    const auto end_word = [&] {
      if (word.text.empty()) return;
      visit(static_cast<const Word&>(word));
      clear(word);
    };
    const size_t first = at;
    while (at < text.size()) {
      const size_t begin = at;
      const auto byte = static_cast<uint8_t>(text[at]);
      if (byte < 0x80) {
        const AsciiKind k = kinds_[byte];
        const char c = static_cast<char>(k == AsciiKind::word ? word_bytes_[byte] : byte);
        if (k == AsciiKind::space || k == AsciiKind::punctuation) {
          end_word();
          if (begin > first) return begin;
        }
        ++at;
        if (k == AsciiKind::word || k == AsciiKind::punctuation) append(word, {&c, 1}, range(begin, at));
        if (k == AsciiKind::space || k == AsciiKind::punctuation) break;
        continue;
      }
      const char32_t c = unicode::decode(text, at);
      const Page& p = page(c);
      const Entry& e = p.entries[c & 255];
      if (e.flags == 0) {
        append(word, {e.utf8, e.size}, range(begin, at));
        continue;
      }
      if (e.flags & kRemoved) continue;
      if (e.flags & (kSpace | kAlone)) end_word();
      if (c == kCapitalSigma && is_final_sigma(text, begin, at)) {
        append(word, final_sigma_.text(), range(begin, at));
        continue;
      }
      for (size_t k = e.first; k < size_t{e.first} + e.count; ++k) {
        const Mapped& m = p.mapped[k];
        if (m.size == 0) continue;
        if (m.combining != 0) {
          at = append_marks(text, begin, word);
          break;
        }
        if (m.punctuation) end_word();
        append(word, m.text(), range(begin, at));
        if (m.punctuation) end_word();
      }
      if (!(e.flags & (kSpace | kAlone))) continue;
      end_word();
      if (at < text.size() && static_cast<uint8_t>(text[at]) < 0x80) return at;
    }
    end_word();
    return at;
  }

  AsciiKind kind(uint8_t byte) const { return kinds_[byte]; }
  // The byte that stands for an ASCII letter or digit in a word; 0 for everything else.
  uint8_t word_byte(uint8_t byte) const { return word_bytes_[byte]; }
  const TokenizerOptions& options() const { return options_; }

 private:
  static constexpr char32_t kCapitalSigma = 0x03A3;
  // No flags: the character becomes one character of a word, `utf8`.
  enum Flags : uint8_t { kRemoved = 1, kSpace = 2, kAlone = 4, kSeveral = 8 };
  struct Entry {
    uint8_t flags = 0;
    uint8_t size = 0;   // bytes of utf8; with flags none
    char utf8[4] = {};
    uint16_t first = 0, count = 0;  // what it becomes, dropped marks included, in Page::mapped; none where utf8 is all
  };
  // A character that another one becomes; without bytes it is a mark that is dropped.
  struct Mapped {
    uint8_t size = 0, combining = 0;
    bool punctuation = false;
    char utf8[4] = {};
    std::string_view text() const { return {utf8, size}; }
  };
  // 256 code points; made when the first of them is met.
  struct Page {
    std::array<Entry, 256> entries;
    std::vector<Mapped> mapped;
  };

  const Page& page(char32_t c) const {
    const Page* p = pages_[c >> 8].load(std::memory_order_acquire);
    return p != nullptr ? *p : make_page(c >> 8);
  }
  const Page& make_page(char32_t number) const;
  std::vector<Mapped> map(char32_t c) const;
  bool is_final_sigma(std::string_view text, size_t begin, size_t end) const;
  bool has_starter(char32_t c) const;
  size_t append_marks(std::string_view text, size_t at, Word& word) const;

  static ByteRange range(size_t begin, size_t end) { return {static_cast<uint32_t>(begin), static_cast<uint32_t>(end)}; }
  static void clear(Word& word) {
    word.text.clear();
    word.source.clear();
    word.characters = 0;
  }
  static void append(Word& word, std::string_view utf8, ByteRange source) {
    word.text.append(utf8);
    word.source.insert(word.source.end(), utf8.size(), source);
    ++word.characters;
  }

  TokenizerOptions options_;
  bool strip_accents_;
  std::array<AsciiKind, 256> kinds_{};
  std::array<uint8_t, 256> word_bytes_{};
  Mapped final_sigma_;
  mutable std::unique_ptr<std::atomic<const Page*>[]> pages_;
};

}  // namespace electra
