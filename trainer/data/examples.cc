#include "trainer/data/examples.h"

#include <algorithm>
#include <limits>
#include <string>

#include "kernels/core/error.h"
#include "kernels/core/philox.h"
#include "trainer/log.h"

namespace electra {
namespace {

// Third coordinate of an example's draws; from kCoin on one for each sentence.
enum DrawIndex : uint32_t { kShorter, kLength, kSingle, kCoin };

constexpr int64_t kNoTarget = int64_t{1} << 40;  // one segment: everything fits the first

}  // namespace

std::filesystem::path plan_path(const std::filesystem::path& directory, std::string_view shard, const ExampleOptions& options) {
  return directory / (std::string(shard) + "-" + std::to_string(options.seq_len) + "-" + std::to_string(options.seed) +
                      (options.overflow == Overflow::google ? "-google" : "") + ".plan");
}

ExampleIndex::ExampleIndex(const TokenShard& shard, const ExampleOptions& options, const SpecialIds& special, const std::filesystem::path& plan)
    : shard_(&shard), options_(options), special_(special) {
  if (options.seq_len < kMinSeqLen || options.seq_len > kMaxSeqLen)
    throw ConfigError("seq_len", "expected " + std::to_string(kMinSeqLen) + " to " + std::to_string(kMaxSeqLen) + " tokens, got " + std::to_string(options.seq_len));
  if (plan.empty()) {
    make({});
    return;
  }
  try {
    if (std::filesystem::exists(plan)) {
      open(MappedFile(plan), plan);
      return;
    }
  } catch (const Error& error) {
    log::info(std::string(error.what()) + "; the plan is made anew");
  }
  try {
    make(plan);
  } catch (const IoError& error) {
    log::info(std::string(error.what()) + "; the plan of examples is made for this process alone");
    make({});
  }
}

// What the examples are a function of.
uint64_t ExampleIndex::key() const {
  std::string text = "plan 1";
  const auto add = [&](auto value) { text.append(reinterpret_cast<const char*>(&value), sizeof value); };
  add(shard_->checksum());
  add(options_.seq_len);
  add(options_.overflow);
  add(options_.seed);
  add(options_.single_segment);
  add(options_.random_length);
  add(options_.spill);
  return xxh64(text);
}

void ExampleIndex::make(const std::filesystem::path& file) {
  ExamplePlanWriter writer(file, key());
  for (int64_t d = 0; d < shard_->documents(); ++d) {
    const int64_t tokens = shard_->start(shard_->first_sentence(d + 1)) - shard_->start(shard_->first_sentence(d));
    if (tokens > std::numeric_limits<uint32_t>::max())
      throw DataError("examples", "expected documents of less than 2^32 tokens, got document " + std::to_string(d) + " of " + std::to_string(tokens));
    options_.overflow == Overflow::fixed ? plan_fixed(d, writer) : plan_google(d, writer);
  }
  open(writer.finish(), file);
}

void ExampleIndex::open(MappedFile file, const std::filesystem::path& name) {
  ExamplePlan plan(std::move(file), name, key());
  int64_t i = 0, pieces = 0, tokens = 0;
  for (const Example& e : plan.examples()) {
    bool inside = e.document < shard_->documents() && e.first > 0 && e.tokens() <= options_.seq_len;
    if (inside) {
      const int64_t first = shard_->first_sentence(e.document), last = shard_->first_sentence(e.document + int64_t{1});
      inside = options_.overflow == Overflow::fixed ? e.begin + e.pieces() <= shard_->start(last) - shard_->start(first) : e.begin < last - first;
    }
    if (!inside) throw DataError(name.string(), "expected examples inside their documents, of at most " + std::to_string(options_.seq_len) + " tokens, got another, number " + std::to_string(i));
    ++i;
    pieces += e.pieces();
    tokens += e.tokens();
  }
  if (pieces != plan.pieces() || tokens != plan.tokens())
    throw DataError(name.string(), "expected " + std::to_string(plan.pieces()) + " pieces in " + std::to_string(plan.tokens()) + " tokens, got " + std::to_string(pieces) + " in " + std::to_string(tokens));
  plan_.emplace(std::move(plan));
  examples_ = plan_->examples();
}

double ExampleIndex::draw(int64_t document, int64_t number, uint32_t index) const {
  const RandomCoordinates at{0, static_cast<uint32_t>(document), static_cast<uint32_t>(number), index};
  return static_cast<double>(philox(options_.seed ^ fnv1a64("examples"), at).word[0]) * 0x1p-32;
}

int64_t ExampleIndex::target_length(int64_t document, int64_t number) const {
  if (draw(document, number, kShorter) >= options_.random_length) return options_.seq_len;
  return kMinSeqLen + static_cast<int64_t>(draw(document, number, kLength) * static_cast<double>(options_.seq_len - kMinSeqLen + 1));
}

// Sentences are taken until they reach the target length; the first segment is closed by the first sentence that goes to the
// second, so an example is one run of tokens, and the next one begins where it ends.
void ExampleIndex::plan_fixed(int64_t document, ExamplePlanWriter& writer) const {
  const int64_t first_sentence = shard_->first_sentence(document), last_sentence = shard_->first_sentence(document + 1);
  const int64_t base = shard_->start(first_sentence), end = shard_->start(last_sentence);
  int64_t sentence = first_sentence;
  uint32_t number = 0;
  for (int64_t begin = base; begin < end; ++number) {
    const int64_t target = target_length(document, number);
    const bool single = draw(document, number, kSingle) < options_.single_segment;
    const int64_t first_target = single ? kNoTarget : (target - 3) / 2;
    while (shard_->start(sentence + 1) <= begin) ++sentence;
    int64_t a = 0, b = 0, at = begin;
    uint32_t coin = kCoin;
    for (int64_t s = sentence; s < last_sentence && a + b < target; ++s) {
      const int64_t n = shard_->start(s + 1) - at;  // of the first sentence, what earlier examples left
      at += n;
      const bool fits = a == 0 || (b == 0 && a + n < first_target) ||
                        (b == 0 && a < first_target && draw(document, number, coin++) < options_.spill);
      (fits ? a : b) += n;
    }
    const int64_t first = std::min(a, options_.seq_len - 2);
    const int64_t second = first < a ? 0 : std::clamp<int64_t>(options_.seq_len - first - 3, 0, b);
    writer.add({static_cast<uint32_t>(document), number, static_cast<uint32_t>(begin - base), static_cast<uint16_t>(first),
                static_cast<uint16_t>(second)});
    begin += first + second;
  }
}

void ExampleIndex::plan_google(int64_t document, ExamplePlanWriter& writer) const {
  const int64_t first_sentence = shard_->first_sentence(document), last_sentence = shard_->first_sentence(document + 1);
  uint32_t number = 0;
  for (int64_t sentence = first_sentence; sentence < last_sentence; ++number) {
    const int64_t target = target_length(document, number);
    const bool single = draw(document, number, kSingle) < options_.single_segment;
    const int64_t first_target = single ? kNoTarget : (target - 3) / 2, begin = sentence;
    int64_t a = 0, b = 0;
    uint32_t coin = kCoin;
    for (; sentence < last_sentence && a + b < target; ++sentence) {
      const int64_t n = shard_->start(sentence + 1) - shard_->start(sentence);
      const bool fits = a == 0 || a + n < first_target || (b == 0 && a < first_target && draw(document, number, coin++) < options_.spill);
      (fits ? a : b) += n;
    }
    const int64_t first = std::min(a, options_.seq_len - 2), second = std::clamp<int64_t>(options_.seq_len - first - 3, 0, b);
    writer.add({static_cast<uint32_t>(document), number, static_cast<uint32_t>(begin - first_sentence), static_cast<uint16_t>(first),
                static_cast<uint16_t>(second)});
  }
}

void ExampleIndex::build(int64_t i, int32_t* ids, int32_t* segments) const {
  const Example& e = (*this)[i];
  const int64_t sentence = shard_->first_sentence(e.document);
  std::fill_n(segments, e.first + 2, 0);
  ids[0] = special_.cls;
  ids[e.first + 1] = special_.sep;
  int32_t *a = ids + 1, *b = ids + e.first + 2;
  if (e.second > 0) {
    std::fill_n(segments + e.first + 2, e.second + 1, 1);
    b[e.second] = special_.sep;
  }
  if (options_.overflow == Overflow::fixed) {
    const int64_t begin = shard_->start(sentence) + e.begin;
    shard_->copy(begin, e.first, a);
    shard_->copy(begin + e.first, e.second, b);
    return;
  }
  // As planned: sentence after sentence into the segment it was assigned to, cut at the segment's length.
  const int64_t last_sentence = shard_->first_sentence(static_cast<int64_t>(e.document) + 1);
  const int64_t target = target_length(e.document, e.number);
  const bool single = draw(e.document, e.number, kSingle) < options_.single_segment;
  const int64_t first_target = single ? kNoTarget : (target - 3) / 2;
  int64_t in_a = 0, in_b = 0;
  uint32_t coin = kCoin;
  for (int64_t s = sentence + e.begin; s < last_sentence && in_a + in_b < target; ++s) {
    const int64_t n = shard_->start(s + 1) - shard_->start(s);
    const bool fits = in_a == 0 || in_a + n < first_target ||
                      (in_b == 0 && in_a < first_target && draw(e.document, e.number, coin++) < options_.spill);
    int64_t& filled = fits ? in_a : in_b;
    const int64_t room = (fits ? e.first : e.second) - filled;
    if (room > 0) shard_->copy(shard_->start(s), std::min(n, room), (fits ? a : b) + filled);
    filled += n;
  }
}

double ExampleIndex::share_kept() const {
  return shard_->tokens() > 0 ? static_cast<double>(plan_->pieces()) / static_cast<double>(shard_->tokens()) : 1;
}

}  // namespace electra
