#include "tokenizer/model_input.h"

#include <algorithm>
#include <string>

#include "kernels/core/error.h"
#include "tokenizer/code_points.h"

namespace electra {
namespace {

// Tokens [begin, end) of a text.
struct Part {
  size_t begin, end;
};

// Tokens that each text keeps.
struct Lengths {
  int64_t first, second;
};

Lengths lengths_kept(int64_t first, std::optional<int64_t> second, const ModelInputOptions& options) {
  const int64_t special = second ? 3 : 2, room = options.max_length - special, texts = second ? 2 : 1;
  if (room < texts)
    throw ConfigError("truncation", "expected a length of at least " + std::to_string(special + texts) + " tokens, got " + std::to_string(options.max_length));
  if (options.truncation == Truncation::only_second && !second) throw ConfigError("truncation", "expected a second text to cut, got none");
  const int64_t too_many = first + second.value_or(0) - room;
  if (too_many <= 0) return {first, second.value_or(0)};
  if (options.truncation != Truncation::longest_first) {
    const bool cut_first = options.truncation == Truncation::only_first;
    const int64_t has = cut_first ? first : *second;
    if (has <= too_many)
      throw ConfigError("truncation", "expected a text of more than " + std::to_string(too_many) + " tokens, which are to be cut, got " + std::to_string(has));
    return cut_first ? Lengths{first - too_many, second.value_or(0)} : Lengths{first, *second - too_many};
  }
  if (!second) return {room, 0};
  const int64_t shorter = std::min(first, *second);
  // The shorter one stays whole where it leaves the longer one as much as it has itself; otherwise both get half.
  if (2 * shorter <= room) return first <= *second ? Lengths{shorter, room - shorter} : Lengths{room - shorter, shorter};
  const int64_t half = room / 2, rest = room - half;
  return first <= *second ? Lengths{half, rest} : Lengths{rest, half};
}

std::vector<Part> parts_of(size_t tokens, int64_t kept, const ModelInputOptions& options) {
  const auto length = static_cast<size_t>(kept);
  if (length >= tokens) return {{0, tokens}};
  if (!options.overflow) return {{0, length}};
  if (options.stride >= kept) throw ConfigError("truncation", "expected a stride below the " + std::to_string(kept) + " tokens of a part, got " + std::to_string(options.stride));
  std::vector<Part> parts;
  for (size_t begin = 0; parts.empty() || parts.back().end < tokens; begin += length - static_cast<size_t>(options.stride)) parts.push_back({begin, std::min(begin + length, tokens)});
  return parts;
}

void append_special(int32_t id, int32_t segment, ModelInput& input) {
  input.ids.push_back(id);
  input.segment_ids.push_back(segment);
  input.sequence_ids.push_back(-1);
  input.word_ids.push_back(-1);
  input.offsets.push_back({});
}

void append(const Encoding& e, Part part, int32_t sequence, ModelInput& input) {
  const auto copy = [&](const auto& from, auto& to) { to.insert(to.end(), from.begin() + static_cast<ptrdiff_t>(part.begin), from.begin() + static_cast<ptrdiff_t>(part.end)); };
  copy(e.ids, input.ids);
  copy(e.word_ids, input.word_ids);
  copy(e.offsets, input.offsets);
  input.segment_ids.resize(input.ids.size(), sequence);
  input.sequence_ids.resize(input.ids.size(), sequence);
}

Encoding encode(const Tokenizer& tokenizer, std::string_view text, OffsetUnit unit) {
  Encoding e;
  tokenizer.encode(text, e);
  if (unit == OffsetUnit::bytes) return e;
  CodePoints begins(text), ends(text);
  for (ByteRange& r : e.offsets) r = {static_cast<uint32_t>(begins.at(r.begin)), static_cast<uint32_t>(ends.at(r.end))};
  return e;
}

}  // namespace

std::vector<ModelInput> encode_inputs(const Tokenizer& tokenizer, std::string_view first, std::optional<std::string_view> second, const ModelInputOptions& options) {
  if (options.stride < 0) throw ConfigError("truncation", "expected a stride of at least 0, got " + std::to_string(options.stride));
  const Encoding a = encode(tokenizer, first, options.offsets), b = second ? encode(tokenizer, *second, options.offsets) : Encoding{};
  Lengths kept{static_cast<int64_t>(a.ids.size()), static_cast<int64_t>(b.ids.size())};
  if (options.truncation != Truncation::none) kept = lengths_kept(kept.first, second ? std::optional(kept.second) : std::nullopt, options);
  const std::vector<Part> as = parts_of(a.ids.size(), kept.first, options), bs = parts_of(b.ids.size(), kept.second, options);
  const Vocabulary& v = tokenizer.vocabulary();
  std::vector<ModelInput> inputs;
  const auto add = [&](Part of_a, Part of_b) {
    ModelInput& input = inputs.emplace_back();
    append_special(v.cls(), 0, input);
    append(a, of_a, 0, input);
    append_special(v.sep(), 0, input);
    if (!second) return;
    append(b, of_b, 1, input);
    append_special(v.sep(), 1, input);
  };
  add(as[0], bs[0]);
  for (size_t i = 1; i < as.size(); ++i)
    for (const Part part : bs) add(as[i], part);
  for (size_t j = 1; j < bs.size(); ++j) add(as[0], bs[j]);
  return inputs;
}

}  // namespace electra
