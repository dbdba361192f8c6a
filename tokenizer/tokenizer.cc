#include "tokenizer/tokenizer.h"

#include <algorithm>
#include <array>
#include <string>

#include "tokenizer/pre_tokenizer.h"

namespace electra {
namespace {

// Words longer than this are [UNK]: max_input_chars_per_word of transformers and of the original.
size_t max_word_characters(TokenizerMode mode) { return mode == TokenizerMode::hf ? 100 : 200; }

}  // namespace

struct Tokenizer::Impl {
  Vocabulary vocabulary;
  PreTokenizer pre_tokenizer;
  size_t max_token_bytes = 0;            // of the text of any token, without "##"
  std::array<int32_t, 5> special{};      // ids of the special tokens that hf mode finds in text

  Impl(Vocabulary v, const TokenizerOptions& options) : vocabulary(std::move(v)), pre_tokenizer(options) {
    for (const std::string& t : vocabulary.tokens()) max_token_bytes = std::max(max_token_bytes, t.size());
    special = {vocabulary.pad(), vocabulary.unk(), vocabulary.cls(), vocabulary.sep(), vocabulary.mask()};
  }

  struct Buffers {
    PreTokenizer::Buffers pre;
    std::string piece;
    std::vector<size_t> ends;  // in characters, of the pieces of one word
    std::vector<int32_t> ids;
  };

  // Greedy longest match from the left; any failure makes the whole word [UNK].
  void split_word(const Word& word, Buffers& b) const {
    b.ids.clear();
    b.ends.clear();
    const size_t n = word.characters();
    bool known = n <= max_word_characters(pre_tokenizer.options().mode);
    for (size_t begin = 0; known && begin < n;) {
      size_t end = n;
      int32_t id = -1;
      for (; end > begin; --end) {
        const size_t bytes = word.starts[end] - word.starts[begin];
        if (bytes > max_token_bytes) continue;
        b.piece.assign(begin > 0 ? "##" : "");
        b.piece.append(word.text, word.starts[begin], bytes);
        if (const auto found = vocabulary.find(b.piece)) {
          id = *found;
          break;
        }
      }
      known = id >= 0;
      b.ids.push_back(id);
      b.ends.push_back(end);
      begin = end;
    }
    if (known) return;
    b.ids.assign(1, vocabulary.unk());
    b.ends.assign(1, n);
  }

  // Where the next special token typed in text begins, and which it is; text.size() where there is none.
  size_t find_special(std::string_view text, size_t from, int32_t& id) const {
    for (size_t at = text.find('[', from); at != std::string_view::npos; at = text.find('[', at + 1))
      for (const int32_t s : special)
        if (text.substr(at, vocabulary.token(s).size()) == vocabulary.token(s)) {
          id = s;
          return at;
        }
    return text.size();
  }

  // Calls emit(id, range, word index) for each piece.
  template <class Emit> void encode(std::string_view text, Emit emit) const {
    static thread_local Buffers b;
    int32_t word_index = 0;
    for (size_t at = 0; at < text.size();) {
      int32_t id = -1;
      const size_t end = pre_tokenizer.options().mode == TokenizerMode::hf ? find_special(text, at, id) : text.size();
      pre_tokenizer.for_each_word(text.substr(at, end - at), static_cast<uint32_t>(at), b.pre, [&](const Word& word) {
        split_word(word, b);
        size_t first = 0;
        for (size_t k = 0; k < b.ids.size(); ++k) {
          emit(b.ids[k], ByteRange{word.source[first].begin, word.source[b.ends[k] - 1].end}, word_index);
          first = b.ends[k];
        }
        ++word_index;
      });
      at = end;
      if (id < 0) continue;
      const size_t length = vocabulary.token(id).size();
      emit(id, ByteRange{static_cast<uint32_t>(at), static_cast<uint32_t>(at + length)}, word_index++);
      at += length;
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
  impl_->encode(text, [&](int32_t id, ByteRange range, int32_t word) {
    out.ids.push_back(id);
    out.offsets.push_back(range);
    out.word_ids.push_back(word);
  });
}

void Tokenizer::encode_ids(std::string_view text, std::vector<int32_t>& ids) const {
  impl_->encode(text, [&](int32_t id, ByteRange, int32_t) { ids.push_back(id); });
}

}  // namespace electra
