#include "kernels/masking.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "kernels/core/error.h"
#include "kernels/core/philox.h"
#include "kernels/cpu/common.h"

namespace electra {
namespace {

// Third coordinate of the four kinds of draws of a sequence.
enum Purpose : uint32_t { kKey, kPick, kMask, kSpan };

// A masked position becomes [MASK] iff its draw is below 0.85 · 2^32 = 3650722201.6.
constexpr uint32_t kMaskThreshold = 3650722202u;

bool is_candidate(int32_t id, const SpecialIds& special) {
  return id != special.cls && id != special.sep && id != special.mask;
}

int64_t wanted(int64_t length, double mask_prob, int64_t max_predictions) {
  const auto rounded = static_cast<int64_t>(std::nearbyint(mask_prob * static_cast<double>(length)));
  return std::max<int64_t>(1, std::min(max_predictions, rounded));
}

// The draws of one sequence, as kernels/masking.h lays them out.
class Draws {
 public:
  Draws(const MaskTokens& a, int64_t sequence)
      : key_(a.state->seed ^ a.site), step_(a.state->step), sequence_(a.state->first_sequence + static_cast<uint32_t>(sequence)) {}
  Bits128 quad(int64_t group, Purpose purpose) const { return philox(key_, {step_, sequence_, static_cast<uint32_t>(group), purpose}); }
  uint32_t operator()(int64_t index, Purpose purpose) const { return quad(index / 4, purpose).word[index % 4]; }

 private:
  uint64_t key_;
  uint32_t step_, sequence_;
};

bool begins_unit(const MaskTokens& a, const int32_t* ids, int64_t p, const Draws& draws) {
  if (p == 0 || !is_candidate(ids[p], a.special) || !is_candidate(ids[p - 1], a.special)) return true;
  const auto id = static_cast<uint32_t>(ids[p]);
  if (id < static_cast<uint64_t>(a.continuations.size()) && a.continuations.as<uint8_t>()[id] != 0) return false;
  return a.unit == MaskUnit::word || draws(p, kSpan) < span_threshold(a.span_words);
}

// Keys and positions of the candidates, as one number each; of this thread, so that nothing is allocated in steady state.
std::vector<uint64_t>& key_buffer(int64_t length) {
  thread_local std::vector<uint64_t> keys;
  if (keys.size() < static_cast<size_t>(length)) keys.resize(std::max<size_t>(1024, 2 * static_cast<size_t>(length)));
  return keys;
}

// Fills the first slots with positions, ascending; returns how many.
int64_t pick_without_replacement(const MaskTokens& a, const int32_t* ids, int64_t length, const Draws& draws, int32_t* slots) {
  const int64_t n = masked_count(ids, length, a.special, a.mask_prob, a.max_predictions, false);
  uint64_t* const keys = key_buffer(length).data();
  int64_t candidates = 0;
  const auto add = [&](int64_t p, uint32_t key) {
    if (is_candidate(ids[p], a.special)) keys[candidates++] = static_cast<uint64_t>(key) << 32 | static_cast<uint64_t>(p);
  };
  if (a.unit == MaskUnit::token) {
    for (int64_t group = 0; 4 * group < length; ++group) {
      const Bits128 bits = draws.quad(group, kKey);
      for (int64_t p = 4 * group; p < std::min(length, 4 * group + 4); ++p) add(p, bits.word[p % 4]);
    }
  } else {
    uint32_t key = 0;  // of the unit
    for (int64_t p = 0; p < length; ++p) {
      if (begins_unit(a, ids, p, draws)) key = draws(p, kKey);
      add(p, key);
    }
  }
  if (n < candidates) std::nth_element(keys, keys + n, keys + candidates);
  for (int64_t j = 0; j < n; ++j) slots[j] = static_cast<int32_t>(keys[j]);
  std::sort(slots, slots + n);
  return n;
}

int64_t pick_with_replacement(const MaskTokens& a, const int32_t* ids, int64_t length, const Draws& draws, int32_t* slots) {
  const int64_t n = masked_count(ids, length, a.special, a.mask_prob, a.max_predictions, true);
  const auto candidates = static_cast<uint64_t>(std::count_if(ids, ids + length, [&](int32_t id) { return is_candidate(id, a.special); }));
  for (int64_t j = 0; j < n; ++j) {
    uint64_t index = draws(j, kPick) * candidates >> 32;
    int32_t p = 0;
    for (;; ++p)
      if (is_candidate(ids[p], a.special) && index-- == 0) break;
    slots[j] = p;
  }
  std::sort(slots, slots + n);
  return n;
}

void mask_sequence(const MaskTokens& a, int64_t s) {
  const int32_t begin = a.sequence_offsets.as<int32_t>()[s], length = a.sequence_offsets.as<int32_t>()[s + 1] - begin;
  const int32_t* ids = a.ids.as<int32_t>() + begin;
  const int64_t first = s * a.max_predictions;
  int32_t *rows = a.masked_rows.as<int32_t>() + first, *targets = a.masked_targets.as<int32_t>() + first;
  float* weights = a.masked_weights.as<float>() + first;
  const Draws draws(a, s);
  const int64_t n = length == 0          ? 0
                    : a.with_replacement ? pick_with_replacement(a, ids, length, draws, rows)
                                         : pick_without_replacement(a, ids, length, draws, rows);
  for (int64_t j = 0; j < n; ++j) {
    const int32_t p = rows[j];
    rows[j] = begin + p;
    weights[j] = 1;
    targets[j] = ids[p];
    if (draws(a.with_replacement ? j : p, kMask) < kMaskThreshold) a.masked_ids.as<int32_t>()[begin + p] = a.special.mask;
  }
  std::fill(rows + n, rows + a.max_predictions, 0);
  std::fill(weights + n, weights + a.max_predictions, 0.0f);
  std::fill(targets + n, targets + a.max_predictions, 0);
}

template <class T> void gather(const GatherRows& a, Stream& stream) {
  const int64_t cols = a.x.cols(), slots = a.rows.size();
  stream.pool().parallel_for(cpu::items_of(slots, cpu::kRowsPerItem), [&](int64_t item, int) {
    const int64_t end = std::min(slots, (item + 1) * cpu::kRowsPerItem);
    for (int64_t i = item * cpu::kRowsPerItem; i < end; ++i) {
      T* y = a.y.as<T>() + i * cols;
      if (a.weights.as<float>()[i] == 0) std::fill_n(y, cols, T(0));
      else std::copy_n(a.x.as<T>() + a.rows.as<int32_t>()[i] * cols, cols, y);
    }
  });
}

// On one thread: slots of the same row must add in order, and there are few.
template <class T> void scatter(const GatherRowsBackward& a) {
  const int64_t cols = a.dx.cols();
  if (!a.accumulate) std::fill_n(a.dx.as<T>(), a.dx.size(), T(0));
  for (int64_t i = 0; i < a.rows.size(); ++i) {
    if (a.weights.as<float>()[i] == 0) continue;
    T* dx = a.dx.as<T>() + a.rows.as<int32_t>()[i] * cols;
    for (int64_t c = 0; c < cols; ++c) dx[c] += a.dy.as<T>()[i * cols + c];
  }
}

void check_slots(const Tensor& rows, const Tensor& weights, int64_t expected) {
  check_operand("gather_rows", "rows", rows, {rows.size()}, DType::i32);
  check_operand("gather_rows", "weights", weights, rows.shape, DType::f32);
  cpu::check_rows("gather_rows", rows, weights, expected);
}

}  // namespace

int64_t masked_count(const int32_t* ids, int64_t length, const SpecialIds& special, double mask_prob, int64_t max_predictions,
                     bool with_replacement) {
  const int64_t candidates = std::count_if(ids, ids + length, [&](int32_t id) { return is_candidate(id, special); });
  if (candidates == 0) return 0;
  const int64_t n = wanted(length, mask_prob, max_predictions);
  return with_replacement ? n : std::min(n, candidates);
}

void check_units(const MaskTokens& args) {
  if (args.unit == MaskUnit::token) return;
  if (args.with_replacement) throw ConfigError("mask_tokens", "expected words and spans without replacement, got them with it");
  if (!(args.span_words >= 1)) throw ConfigError("mask_tokens", "expected spans of at least 1 word, got " + std::to_string(args.span_words));
  if (!args.continuations) throw ShapeError("mask_tokens", "expected the pieces that continue words, got none");
  check_operand("mask_tokens", "continuations", args.continuations, {args.continuations.size()}, DType::u8);
}

template <> void mask_tokens<Backend::cpu>(const MaskTokens& args, Stream& stream) {
  check_units(args);
  const int64_t sequences = args.sequence_offsets.size() - 1;
  if (args.max_predictions < 1)
    throw ShapeError("mask_tokens", "expected max_predictions of at least 1, got " + std::to_string(args.max_predictions));
  const Shape slots{sequences * args.max_predictions};
  check_operand("mask_tokens", "ids", args.ids, {args.ids.size()}, DType::i32);
  check_operand("mask_tokens", "masked_ids", args.masked_ids, args.ids.shape, DType::i32);
  check_operand("mask_tokens", "masked_rows", args.masked_rows, slots, DType::i32);
  check_operand("mask_tokens", "masked_weights", args.masked_weights, slots, DType::f32);
  check_operand("mask_tokens", "masked_targets", args.masked_targets, slots, DType::i32);
  cpu::check_offsets("mask_tokens", args.sequence_offsets, args.ids.size());
  check_state("mask_tokens", args.state);
  std::copy_n(args.ids.as<int32_t>(), args.ids.size(), args.masked_ids.as<int32_t>());
  stream.pool().parallel_for(sequences, [&](int64_t s, int) { mask_sequence(args, s); });
}

template <> void corrupt_tokens<Backend::cpu>(const CorruptTokens& args, Stream&) {
  const Shape rows_of{args.ids.size()}, slots_of{args.masked_rows.size()};
  check_operand("corrupt_tokens", "ids", args.ids, rows_of, DType::i32);
  check_operand("corrupt_tokens", "out_ids", args.out_ids, rows_of, DType::i32);
  check_operand("corrupt_tokens", "labels", args.labels, rows_of, DType::f32);
  check_operand("corrupt_tokens", "masked_rows", args.masked_rows, slots_of, DType::i32);
  check_operand("corrupt_tokens", "masked_weights", args.masked_weights, slots_of, DType::f32);
  check_operand("corrupt_tokens", "sampled_ids", args.sampled_ids, slots_of, DType::i32);
  cpu::check_rows("corrupt_tokens", args.masked_rows, args.masked_weights, args.ids.size());
  const int32_t *ids = args.ids.as<int32_t>(), *rows = args.masked_rows.as<int32_t>(), *sampled = args.sampled_ids.as<int32_t>();
  const float* weights = args.masked_weights.as<float>();
  int32_t* out = args.out_ids.as<int32_t>();
  std::copy_n(ids, args.ids.size(), out);
  std::fill_n(args.labels.as<float>(), args.labels.size(), 0.0f);
  const int64_t slots = args.masked_rows.size();
  for (int64_t i = 0; i < slots;) {
    if (weights[i] == 0) {
      ++i;
      continue;
    }
    // A row drawn several times stands in consecutive slots: the original takes the mean of the ids drawn for it.
    int64_t sum = 0, count = 0;
    const int32_t row = rows[i];
    for (; i < slots && weights[i] != 0 && rows[i] == row; ++i, ++count) sum += sampled[i];
    out[row] = static_cast<int32_t>(sum / count);
    args.labels.as<float>()[row] = out[row] != ids[row] ? 1.0f : 0.0f;
  }
}

template <> void gather_rows<Backend::cpu>(const GatherRows& args, Stream& stream) {
  check_operand("gather_rows", "x", args.x, {args.x.rows(), args.x.cols()}, args.x.dtype);
  check_operand("gather_rows", "y", args.y, {args.rows.size(), args.x.cols()}, args.x.dtype);
  check_slots(args.rows, args.weights, args.x.rows());
  cpu::dispatch_float("gather_rows", args.x.dtype, [&]<class T>() { gather<T>(args, stream); });
}

template <> void gather_rows_backward<Backend::cpu>(const GatherRowsBackward& args, Stream&) {
  check_operand("gather_rows", "dx", args.dx, {args.dx.rows(), args.dx.cols()}, args.dy.dtype);
  check_operand("gather_rows", "dy", args.dy, {args.rows.size(), args.dx.cols()}, args.dy.dtype);
  check_slots(args.rows, args.weights, args.dx.rows());
  cpu::dispatch_float("gather_rows", args.dy.dtype, [&]<class T>() { scatter<T>(args); });
}

}  // namespace electra
