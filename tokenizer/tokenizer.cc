#include "tokenizer/tokenizer.h"

#include <array>
#include <string>

#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/word_pieces.h"

namespace electra {
namespace {

// Words longer than this are [UNK]: max_input_chars_per_word of transformers and of the original.
size_t max_word_characters(TokenizerMode mode) { return mode == TokenizerMode::hf ? 100 : 200; }

}  // namespace

struct Tokenizer::Impl {
  Vocabulary vocabulary;
  PreTokenizer pre_tokenizer;
  size_t word_limit;
  WordPieces pieces;
  std::array<int32_t, 5> special{};       // ids of the special tokens that hf mode finds in text
  std::array<int32_t, 128> punctuation{};  // ids of ASCII characters as words

  Impl(Vocabulary v, const TokenizerOptions& options)
      : vocabulary(std::move(v)), pre_tokenizer(options), word_limit(max_word_characters(options.mode)), pieces(vocabulary, word_limit) {
    special = {vocabulary.pad(), vocabulary.unk(), vocabulary.cls(), vocabulary.sep(), vocabulary.mask()};
    for (size_t c = 0; c < punctuation.size(); ++c) punctuation[c] = vocabulary.find(std::string(1, static_cast<char>(c))).value_or(vocabulary.unk());
  }

  // The special token typed at text[at], or −1.
  int32_t special_at(std::string_view text, size_t at) const {
    if (text[at] == '[' && pre_tokenizer.options().mode == TokenizerMode::hf)
      for (const int32_t s : special)
        if (text.substr(at, vocabulary.token(s).size()) == vocabulary.token(s)) return s;
    return -1;
  }

  // Offsets and word number of the pieces of a word, ids[first] and after. source(k) is where byte k of the word stems from.
  template <class Source> void describe_word(Encoding& out, size_t first, size_t bytes, Source source) const {
    const int32_t word = out.word_ids.empty() ? 0 : out.word_ids.back() + 1;
    size_t begin = 0;
    for (size_t k = first; k < out.ids.size(); ++k) {
      const size_t end = out.ids[k] == vocabulary.unk() ? bytes : begin + pieces.length(out.ids[k]);
      out.offsets.push_back({source(begin).begin, source(end - 1).end});
      out.word_ids.push_back(word);
      begin = end;
    }
  }

  // Appends the ids of a text. describe(first, bytes, source) is called when those of a word, from ids[first] on, are there.
  template <class Describe> void encode(std::string_view text, std::vector<int32_t>& ids, Describe describe) const {
    static thread_local Word buffer;
    const auto make_unknown = [&](size_t first) {
      ids.resize(first);
      ids.push_back(vocabulary.unk());
    };
    const auto add_word = [&](const Word& word) {
      const size_t first = ids.size();
      bool known = word.characters <= word_limit;
      WordPieces::Match match(pieces, ids);
      for (size_t k = 0; known && k < word.text.size(); ++k) known = match.feed(static_cast<uint8_t>(word.text[k]));
      if (!known || !match.finish()) make_unknown(first);
      describe(first, word.text.size(), [&](size_t k) { return word.source[k]; });
    };
    const auto source_from = [](size_t begin) {
      return [begin](size_t k) { return ByteRange{static_cast<uint32_t>(begin + k), static_cast<uint32_t>(begin + k + 1)}; };
    };
    const auto byte_at = [&](size_t k) { return static_cast<uint8_t>(text[k]); };
    for (size_t at = 0; at < text.size();) {
      const size_t begin = at, first = ids.size();
      switch (pre_tokenizer.kind(byte_at(at))) {
        case AsciiKind::space:
        case AsciiKind::removed: ++at; break;
        case AsciiKind::punctuation: {
          const int32_t typed = special_at(text, at);
          at += typed >= 0 ? vocabulary.token(typed).size() : 1;
          ids.push_back(typed >= 0 ? typed : punctuation[byte_at(begin)]);
          describe(first, at - begin, [&](size_t) { return ByteRange{static_cast<uint32_t>(begin), static_cast<uint32_t>(at)}; });
          break;
        }
        case AsciiKind::word: {
          WordPieces::Match match(pieces, ids);
          bool known = true;
          for (uint8_t c; at < text.size() && (c = pre_tokenizer.word_byte(byte_at(at))) != 0; ++at) known = known && match.feed(c);
          if (at < text.size()) {
            const AsciiKind next = pre_tokenizer.kind(byte_at(at));
            if (next == AsciiKind::removed || next == AsciiKind::other) {  // the word goes on
              ids.resize(first);
              at = pre_tokenizer.words_until_ascii(text, begin, buffer, add_word);
              break;
            }
          }
          if (!known || at - begin > word_limit || !match.finish()) make_unknown(first);
          describe(first, at - begin, source_from(begin));
          break;
        }
        case AsciiKind::other: at = pre_tokenizer.words_until_ascii(text, at, buffer, add_word); break;
      }
    }
  }
};

Tokenizer::Tokenizer(Vocabulary vocabulary, TokenizerOptions options)
    : impl_(std::make_unique<Impl>(std::move(vocabulary), options)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

const Vocabulary& Tokenizer::vocabulary() const { return impl_->vocabulary; }
const TokenizerOptions& Tokenizer::options() const { return impl_->pre_tokenizer.options(); }

void Tokenizer::encode(std::string_view text, Encoding& out) const {
  out.ids.clear();
  out.offsets.clear();
  out.word_ids.clear();
  impl_->encode(text, out.ids, [&](size_t first, size_t bytes, auto source) { impl_->describe_word(out, first, bytes, source); });
}

void Tokenizer::encode_ids(std::string_view text, std::vector<int32_t>& ids) const {
  impl_->encode(text, ids, [](size_t, size_t, auto) {});
}

}  // namespace electra
