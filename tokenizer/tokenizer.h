// BERT WordPiece tokenization: normalisation, pre-tokenization and greedy longest-match word pieces.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "tokenizer/vocabulary.h"

namespace electra {

// hf: what transformers' fast tokenizer does. google: what the original code does. They differ on rare characters,
// word-final sigma, words of over 100 characters and special tokens typed in text.
enum class TokenizerMode { hf, google };

struct TokenizerOptions {
  TokenizerMode mode = TokenizerMode::hf;
  bool lowercase = true;
  std::optional<bool> strip_accents;  // absent: as lowercase
  bool split_chinese = true;
  bool operator==(const TokenizerOptions&) const = default;
};

// Half-open range of the original text, in bytes.
struct ByteRange {
  uint32_t begin = 0, end = 0;
  bool operator==(const ByteRange&) const = default;
};

// One text, without [CLS] and [SEP]. Buffers keep their capacity from call to call.
struct Encoding {
  std::vector<int32_t> ids;
  std::vector<ByteRange> offsets;   // of each piece; [UNK] spans its word
  std::vector<int32_t> word_ids;    // index of the pre-token each piece belongs to
};

class Tokenizer {
 public:
  Tokenizer(Vocabulary vocabulary, TokenizerOptions options);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  const Vocabulary& vocabulary() const;
  const TokenizerOptions& options() const;

  // Encodes valid UTF-8 of at most 2^32 − 1 bytes. Safe to call from several threads at once.
  void encode(std::string_view text, Encoding& out) const;
  // Appends the ids alone: what building data needs.
  void encode_ids(std::string_view text, std::vector<int32_t>& ids) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace electra
