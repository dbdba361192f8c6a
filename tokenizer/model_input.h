// One text or a pair of texts as a model reads them: [CLS] A [SEP], [CLS] A [SEP] B [SEP]; cut to a length, with the rest in further inputs.
// The rules are those of the PyPI package tokenizers.
#pragma once
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace electra {

// What is cut where an input is too long. longest_first: the longer one of a pair, then both.
enum class Truncation { none, longest_first, only_first, only_second };
enum class OffsetUnit { bytes, code_points };

struct ModelInputOptions {
  Truncation truncation = Truncation::longest_first;
  int64_t max_length = 512;  // in tokens, [CLS] and [SEP] among them; of no effect where nothing is to be cut
  bool overflow = false;     // make inputs of what is cut off, too
  int64_t stride = 0;        // tokens that each of these repeats of the one before
  OffsetUnit offsets = OffsetUnit::bytes;
};

// All of one length.
struct ModelInput {
  std::vector<int32_t> ids;
  std::vector<int32_t> segment_ids;   // 0 up to the first [SEP], 1 behind it
  std::vector<int32_t> sequence_ids;  // 0, 1: the text that a token stems from; -1: [CLS], [SEP]
  std::vector<int32_t> word_ids;      // of its text, see Encoding; -1: [CLS], [SEP]
  std::vector<ByteRange> offsets;     // in its text; empty for [CLS] and [SEP]
};

// Encodes valid UTF-8. The first input has the beginning of each text. Where several follow, they are, with A0 B0 the first one: A1 B0,
// A1 B1, …, A2 B0, …, and A0 B1, …: each part of the one with each part of the other. Throws ConfigError where there is no room for a
// token of each text besides the special ones, for a negative stride, for one that is not below the length of the part that it is to be
// repeated in, for only_second without a second text, and where the text that is to be cut has not enough tokens for that.
std::vector<ModelInput> encode_inputs(const Tokenizer& tokenizer, std::string_view first, std::optional<std::string_view> second, const ModelInputOptions& options);

}  // namespace electra
