#include "kernels/masked_lm.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "kernels/core/error.h"
#include "kernels/core/philox.h"
#include "kernels/cpu/common.h"
#include "kernels/cpu/gemm_block.h"

namespace electra {
namespace {

using cpu::clear;
using cpu::gemm_block;
using cpu::items_of;
using cpu::put;
using cpu::Scratch;

constexpr int64_t kChunk = 512;       // ids whose logits exist at a time; a multiple of 64, the draws of one vector call
constexpr int64_t kSlots = 128;       // slots multiplied at a time: (128, 512) logits stay in the second-level cache
constexpr int64_t kGroups = 16;       // partial dhidden in backward
constexpr uint32_t kRepeat = 1u << 28;  // added to the draw's group for each earlier slot of the same row

// The used slots, compacted. Coordinates of the draws go with them.
struct UsedSlots {
  int64_t count = 0;
  int32_t* slot;
  int32_t* target;
  uint32_t *sequence, *position, *group_offset;

  static size_t bytes(int64_t slots) { return 5 * Scratch::bytes<int32_t>(slots); }
  UsedSlots(Scratch& s, int64_t slots)
      : slot(s.take<int32_t>(slots)), target(s.take<int32_t>(slots)), sequence(s.take<uint32_t>(slots)),
        position(s.take<uint32_t>(slots)), group_offset(s.take<uint32_t>(slots)) {}

  void collect(const Tensor& weights, const Tensor& targets) {
    for (int64_t i = 0; i < weights.size(); ++i)
      if (weights.as<float>()[i] != 0) {
        slot[count] = static_cast<int32_t>(i);
        target[count++] = targets.as<int32_t>()[i];
      }
  }
  void locate(const Tensor& rows, const Tensor& sequence_offsets, const StepState* state) {
    for (int64_t k = 0; k < count; ++k) {
      const int32_t row = rows.as<int32_t>()[slot[k]];
      const cpu::Place place = cpu::PlaceCursor(sequence_offsets, state, row).next();
      sequence[k] = place.sequence;
      position[k] = place.position;
      const bool repeated = k > 0 && slot[k] == slot[k - 1] + 1 && rows.as<int32_t>()[slot[k - 1]] == row;
      group_offset[k] = repeated ? group_offset[k - 1] + kRepeat : 0;
    }
  }
};

// Perturbed logit by the definition: fp32, as every backend has it.
float perturbed(const MaskedLmForward& a, float logit, int64_t id, int64_t target, uint32_t draw) {
  const float gumbel = -std::log(-std::log(uniform_open(draw)));
  const float z = logit / static_cast<float>(a.temperature);
  return (a.disallow_correct && id == target ? z - 1000.0f : z) + gumbel;
}

void write_results(const MaskedLmForward& a, const MaskedLmSums& sums) {
  double* out = a.sums.as<double>();
  out[0] = sums.loss;
  out[1] = sums.correct;
  out[2] = sums.sampled_correct;
  out[3] = sums.weight;
  const double loss = sums.loss / a.state->masked_lm_denominator;
  if (a.loss.dtype == DType::f64) *a.loss.as<double>() = loss;
  else *a.loss.as<float>() = static_cast<float>(loss);
}

// One slot after the other, one id after the other.
void forward_oracle(const MaskedLmForward& a) {
  const int64_t slots = a.targets.size(), vocab = a.vocab_size, cols = a.uniform ? 0 : a.hidden.cols();
  Scratch scratch(a.workspace);
  UsedSlots used(scratch, slots);
  double* const logits = scratch.take<double>(vocab);
  used.collect(a.weights, a.targets);
  used.locate(a.rows, a.sequence_offsets, a.state);
  std::fill_n(a.lse.as<double>(), slots, 0.0);
  std::fill_n(a.sampled_ids.as<int32_t>(), slots, 0);
  if (a.logits) std::fill_n(a.logits.as<double>(), a.logits.size(), 0.0);
  MaskedLmSums sums;
  for (int64_t k = 0; k < used.count; ++k) {
    const int64_t i = used.slot[k], target = used.target[k];
    double top = -std::numeric_limits<double>::infinity(), total = 0;
    int64_t best = 0, sample = 0;
    float best_perturbed = -std::numeric_limits<float>::infinity();
    for (int64_t v = 0; v < vocab; ++v) {
      logits[v] = a.uniform ? 0 : a.bias.as<double>()[v];
      for (int64_t c = 0; c < cols; ++c) logits[v] += a.hidden.as<double>()[i * cols + c] * a.word.as<double>()[v * cols + c];
      if (logits[v] > top) {
        top = logits[v];
        best = v;
      }
      const Bits128 bits = philox(a.state->seed ^ a.site, {a.state->step, used.sequence[k], used.position[k],
                                                           used.group_offset[k] + static_cast<uint32_t>(v / 4)});
      const float z = perturbed(a, static_cast<float>(logits[v]), v, target, bits.word[v % 4]);
      if (z > best_perturbed) {
        best_perturbed = z;
        sample = v;
      }
    }
    for (int64_t v = 0; v < vocab; ++v) total += std::exp(logits[v] - top);
    const double lse = top + std::log(total), weight = a.weights.as<float>()[i];
    if (a.logits) std::copy_n(logits, vocab, a.logits.as<double>() + i * vocab);
    a.lse.as<double>()[i] = lse;
    a.sampled_ids.as<int32_t>()[i] = static_cast<int32_t>(sample);
    sums.loss += weight * (lse - logits[target]);
    sums.correct += best == target ? weight : 0;
    sums.sampled_correct += sample == target ? weight : 0;
    sums.weight += weight;
  }
  write_results(a, sums);
}

// Statistics of one chunk of the vocabulary for every used slot.
struct ChunkStatistics {
  float *max, *sum_exp, *best;
  int32_t *argmax, *best_id;
  static size_t bytes(int64_t slots) { return 5 * Scratch::bytes<float>(slots); }
  ChunkStatistics(Scratch& s, int64_t slots)
      : max(s.take<float>(slots)), sum_exp(s.take<float>(slots)), best(s.take<float>(slots)), argmax(s.take<int32_t>(slots)),
        best_id(s.take<int32_t>(slots)) {}
};

void compact(const Tensor& hidden, const UsedSlots& used, float* out) {
  const int64_t cols = hidden.cols();
  for (int64_t k = 0; k < used.count; ++k) std::copy_n(hidden.as<float>() + used.slot[k] * cols, cols, out + k * cols);
}

// Combines a slot's chunks in order and writes its results; returns what it adds to the sums.
MaskedLmSums finish_slot(const MaskedLmForward& a, int64_t slot, int32_t target, float target_logit, const Scratch& statistics,
                         int64_t chunks, int64_t slots, int64_t k) {
  float top = -std::numeric_limits<float>::infinity(), best = top;
  int32_t argmax = 0, sample = 0;
  Scratch pass(statistics);
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const ChunkStatistics c(pass, slots);
    if (c.max[k] > top) {
      top = c.max[k];
      argmax = c.argmax[k];
    }
    if (c.best[k] > best) {
      best = c.best[k];
      sample = c.best_id[k];
    }
  }
  double total = 0;
  Scratch again(statistics);
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const ChunkStatistics c(again, slots);
    total += static_cast<double>(c.sum_exp[k]) * std::exp(static_cast<double>(c.max[k]) - static_cast<double>(top));
  }
  const double lse = static_cast<double>(top) + std::log(total), weight = a.weights.as<float>()[slot];
  a.lse.as<float>()[slot] = static_cast<float>(lse);
  a.sampled_ids.as<int32_t>()[slot] = sample;
  return {weight * (lse - static_cast<double>(target_logit)), argmax == target ? weight : 0, sample == target ? weight : 0, weight};
}

void add(MaskedLmSums& to, const MaskedLmSums& from) {
  to.loss += from.loss;
  to.correct += from.correct;
  to.sampled_correct += from.sampled_correct;
  to.weight += from.weight;
}

// A work item is one chunk of the vocabulary over all used slots; the statistics of the chunks are combined in order.
void forward(const MaskedLmForward& a, Stream& stream) {
  const int64_t slots = a.targets.size(), vocab = a.vocab_size, cols = a.hidden.cols(), chunks = items_of(vocab, kChunk);
  Scratch scratch(a.workspace);
  UsedSlots used(scratch, slots);
  used.collect(a.weights, a.targets);
  used.locate(a.rows, a.sequence_offsets, a.state);
  float* const hidden = scratch.take<float>(slots * cols);
  float* const target_logit = scratch.take<float>(slots);
  float* const worker_logits = scratch.take<float>(stream.pool().threads() * kSlots * kChunk);
  const Scratch statistics = scratch;
  compact(a.hidden, used, hidden);
  stream.pool().parallel_for(chunks, [&](int64_t chunk, int worker) {
    const int64_t first = chunk * kChunk, width = std::min(kChunk, vocab - first);
    float* const logits = worker_logits + worker * kSlots * kChunk;
    Scratch mine(statistics);
    mine.take<std::byte>(chunk * static_cast<int64_t>(ChunkStatistics::bytes(slots)));
    const ChunkStatistics c(mine, slots);
    for (int64_t k = 0; k < used.count; k += kSlots) {
      const int64_t n = std::min(kSlots, used.count - k);
      gemm_block({.m = n, .n = width, .k = cols, .transpose_b = true, .lda = cols, .ldb = cols, .ldc = width}, hidden + k * cols,
                 a.word.as<float>() + first * cols, logits);
      cpu::vector_kernels().vocabulary({.logits = logits,
                                        .bias = a.bias.as<float>() + first,
                                        .rows = n,
                                        .cols = width,
                                        .stride = width,
                                        .first_id = static_cast<int32_t>(first),
                                        .targets = used.target + k,
                                        .inverse_temperature = static_cast<float>(1 / a.temperature),
                                        .disallow_correct = a.disallow_correct,
                                        .key = a.state->seed ^ a.site,
                                        .step = a.state->step,
                                        .sequence = used.sequence + k,
                                        .position = used.position + k,
                                        .group_offset = used.group_offset + k,
                                        .max = c.max + k,
                                        .sum_exp = c.sum_exp + k,
                                        .target_logit = target_logit + k,
                                        .argmax = c.argmax + k,
                                        .best = c.best + k,
                                        .best_id = c.best_id + k});
      if (!a.logits) continue;
      for (int64_t i = 0; i < n; ++i)
        for (int64_t v = 0; v < width; ++v)
          a.logits.as<float>()[used.slot[k + i] * vocab + first + v] = logits[i * width + v] + a.bias.as<float>()[first + v];
    }
  });
  std::fill_n(a.lse.as<float>(), slots, 0.0f);
  std::fill_n(a.sampled_ids.as<int32_t>(), slots, 0);
  for (int64_t i = 0; a.logits && i < slots; ++i)
    if (a.weights.as<float>()[i] == 0) std::fill_n(a.logits.as<float>() + i * vocab, vocab, 0.0f);
  MaskedLmSums sums;
  for (int64_t k = 0; k < used.count; ++k)
    add(sums, finish_slot(a, used.slot[k], used.target[k], target_logit[k], statistics, chunks, slots, k));
  write_results(a, sums);
}

// Replacements drawn uniformly: every logit is zero.
void uniform_forward(const MaskedLmForward& a, Stream& stream) {
  const int64_t slots = a.targets.size();
  Scratch scratch(a.workspace);
  UsedSlots used(scratch, slots);
  used.collect(a.weights, a.targets);
  used.locate(a.rows, a.sequence_offsets, a.state);
  const double lse = std::log(static_cast<double>(a.vocab_size));
  std::fill_n(a.lse.as<float>(), slots, 0.0f);
  std::fill_n(a.sampled_ids.as<int32_t>(), slots, 0);
  stream.pool().parallel_for(used.count, [&](int64_t k, int) {
    float best = 0;
    cpu::vector_kernels().uniform_sample(&best, a.sampled_ids.as<int32_t>() + used.slot[k], a.vocab_size,
                                         a.disallow_correct ? used.target[k] : -1, a.state->seed ^ a.site, a.state->step,
                                         used.sequence[k], used.position[k], used.group_offset[k]);
  });
  MaskedLmSums sums;
  for (int64_t k = 0; k < used.count; ++k) {
    const double weight = a.weights.as<float>()[used.slot[k]];
    a.lse.as<float>()[used.slot[k]] = static_cast<float>(lse);
    add(sums, {weight * lse, used.target[k] == 0 ? weight : 0,
               a.sampled_ids.as<int32_t>()[used.slot[k]] == used.target[k] ? weight : 0, weight});
  }
  if (a.logits) std::fill_n(a.logits.as<float>(), a.logits.size(), 0.0f);
  write_results(a, sums);
}

// dlogit[v] = dloss · weight / denominator · (softmax[v] − [v = target])
void backward_oracle(const MaskedLmBackward& a) {
  const int64_t slots = a.hidden.rows(), vocab = a.word.rows(), cols = a.hidden.cols();
  const double *hidden = a.hidden.as<double>(), *word = a.word.as<double>();
  clear<double>(a.dhidden, a.dhidden_mode);
  clear<double>(a.dword, a.dword_mode);
  clear<double>(a.dbias, a.dbias_mode);
  double* const dlogit = Scratch(a.workspace).take<double>(vocab);
  for (int64_t i = 0; i < slots; ++i) {
    const double factor = *a.dloss.as<double>() * a.weights.as<float>()[i] / a.state->masked_lm_denominator;
    if (a.weights.as<float>()[i] == 0) continue;
    for (int64_t v = 0; v < vocab; ++v) {
      double logit = a.bias.as<double>()[v];
      for (int64_t c = 0; c < cols; ++c) logit += hidden[i * cols + c] * word[v * cols + c];
      dlogit[v] = factor * (std::exp(logit - a.lse.as<double>()[i]) - (v == a.targets.as<int32_t>()[i] ? 1 : 0));
      if (a.dbias_mode != GradMode::none) a.dbias.as<double>()[v] += dlogit[v];
      for (int64_t c = 0; a.dword_mode != GradMode::none && c < cols; ++c) a.dword.as<double>()[v * cols + c] += dlogit[v] * hidden[i * cols + c];
    }
    for (int64_t c = 0; a.dhidden_mode != GradMode::none && c < cols; ++c) {
      double sum = 0;
      for (int64_t v = 0; v < vocab; ++v) sum += dlogit[v] * word[v * cols + c];
      a.dhidden.as<double>()[i * cols + c] += sum;
    }
  }
}

// A work item is one of kGroups runs of chunks: each chunk's logits are computed again and become their gradient; the item
// owns its rows of dword and dbias and adds to a dhidden of its own; those are summed in order.
void backward(const MaskedLmBackward& a, Stream& stream) {
  const int64_t slots = a.hidden.rows(), vocab = a.word.rows(), cols = a.hidden.cols();
  const int64_t chunks = items_of(vocab, kChunk), per_group = items_of(chunks, kGroups), groups = items_of(chunks, per_group);
  Scratch scratch(a.workspace);
  UsedSlots used(scratch, slots);
  used.collect(a.weights, a.targets);
  float* const hidden = scratch.take<float>(slots * cols);
  float* const worker_logits = scratch.take<float>(stream.pool().threads() * kSlots * kChunk);
  float* const lse = scratch.take<float>(slots);
  float* const factor = scratch.take<float>(slots);
  float* const partial = scratch.take<float>(groups * slots * cols);  // dhidden of each group
  float* const worker_dbias = scratch.take<float>(stream.pool().threads() * kChunk);
  compact(a.hidden, used, hidden);
  for (int64_t k = 0; k < used.count; ++k) {
    lse[k] = a.lse.as<float>()[used.slot[k]];
    factor[k] = static_cast<float>(static_cast<double>(*a.dloss.as<float>()) * a.weights.as<float>()[used.slot[k]] /
                                   a.state->masked_lm_denominator);
  }
  stream.pool().parallel_for(groups, [&](int64_t group, int worker) {
    float* const logits = worker_logits + worker * kSlots * kChunk;
    float* const dbias = worker_dbias + worker * kChunk;
    float* const dhidden = partial + group * slots * cols;
    const int64_t end = std::min(chunks, (group + 1) * per_group);
    for (int64_t chunk = group * per_group; chunk < end; ++chunk) {
      const int64_t first = chunk * kChunk, width = std::min(kChunk, vocab - first);
      const float* const word = a.word.as<float>() + first * cols;
      std::fill_n(dbias, width, 0.0f);
      for (int64_t k = 0; k < used.count; k += kSlots) {
        const int64_t n = std::min(kSlots, used.count - k);
        gemm_block({.m = n, .n = width, .k = cols, .transpose_b = true, .lda = cols, .ldb = cols, .ldc = width}, hidden + k * cols,
                   word, logits);
        cpu::vector_kernels().vocabulary_backward({.logits = logits,
                                                   .bias = a.bias.as<float>() + first,
                                                   .rows = n,
                                                   .cols = width,
                                                   .first_id = static_cast<int32_t>(first),
                                                   .targets = used.target + k,
                                                   .lse = lse + k,
                                                   .factor = factor + k,
                                                   .dbias = dbias});
        if (a.dhidden_mode != GradMode::none)
          gemm_block({.m = n, .n = cols, .k = width, .accumulate = chunk > group * per_group, .lda = width, .ldb = cols, .ldc = cols},
                     logits, word, dhidden + k * cols);
        if (a.dword_mode == GradMode::none) continue;
        gemm_block({.m = width, .n = cols, .k = n, .transpose_a = true,
                    .accumulate = k > 0 || a.dword_mode == GradMode::accumulate, .lda = width, .ldb = cols, .ldc = cols},
                   logits, hidden + k * cols, a.dword.as<float>() + first * cols);
      }
      if (used.count == 0 && a.dword_mode == GradMode::write) std::fill_n(a.dword.as<float>() + first * cols, width * cols, 0.0f);
      for (int64_t v = 0; a.dbias_mode != GradMode::none && v < width; ++v) put(a.dbias.as<float>()[first + v], dbias[v], a.dbias_mode);
    }
  });
  if (a.dhidden_mode == GradMode::none) return;
  clear<float>(a.dhidden, a.dhidden_mode);
  stream.pool().parallel_for(items_of(used.count, cpu::kRowsPerItem), [&](int64_t item, int) {
    const int64_t end = std::min(used.count, (item + 1) * cpu::kRowsPerItem);
    for (int64_t k = item * cpu::kRowsPerItem; k < end; ++k)
      for (int64_t group = 0; group < groups; ++group)
        for (int64_t c = 0; c < cols; ++c)
          a.dhidden.as<float>()[used.slot[k] * cols + c] += partial[(group * slots + k) * cols + c];
  });
}

void check_targets(const Tensor& targets, const Tensor& weights, int64_t vocab) {
  for (int64_t i = 0; i < targets.size(); ++i)
    if (weights.as<float>()[i] != 0 && (targets.as<int32_t>()[i] < 0 || targets.as<int32_t>()[i] >= vocab))
      throw DataError("masked_lm", "target of slot " + std::to_string(i) + " is " + std::to_string(targets.as<int32_t>()[i]) +
                                       ", expected 0 to " + std::to_string(vocab - 1));
}

}  // namespace

template <> size_t masked_lm_workspace<Backend::cpu>(int64_t slots, int64_t vocab_size, int64_t cols, int max_threads, DType dtype) {
  if (dtype == DType::f64) return UsedSlots::bytes(slots) + Scratch::bytes<double>(vocab_size);
  const int64_t chunks = items_of(vocab_size, kChunk);
  const size_t common = UsedSlots::bytes(slots) + Scratch::bytes<float>(slots * cols) +
                        Scratch::bytes<float>(max_threads * kSlots * kChunk);
  const size_t forward_only = Scratch::bytes<float>(slots) + static_cast<size_t>(chunks) * ChunkStatistics::bytes(slots);
  const size_t backward_only = 2 * Scratch::bytes<float>(slots) + Scratch::bytes<float>(std::min(kGroups, chunks) * slots * cols) +
                               Scratch::bytes<float>(max_threads * kChunk);
  return common + std::max(forward_only, backward_only);
}

template <> void masked_lm_forward<Backend::cpu>(const MaskedLmForward& args, Stream& stream) {
  const Shape slots{args.targets.size()};
  const DType type = args.loss.dtype;
  const auto check = [](const char* what, const Tensor& t, const Shape& shape, DType dtype) {
    check_operand("masked_lm", what, t, shape, dtype);
  };
  if (args.vocab_size < 1)
    throw ShapeError("masked_lm", "expected a vocabulary of at least 1, got " + std::to_string(args.vocab_size));
  check("targets", args.targets, slots, DType::i32);
  check("rows", args.rows, slots, DType::i32);
  check("weights", args.weights, slots, DType::f32);
  check("loss", args.loss, {1}, type);
  check("lse", args.lse, slots, type);
  check("sampled_ids", args.sampled_ids, slots, DType::i32);
  check("sums", args.sums, {kMaskedLmSums}, DType::f64);
  int64_t cols = 0;
  if (!args.uniform) {
    cols = args.hidden.cols();
    check("hidden", args.hidden, {slots.size(), cols}, type);
    check("word", args.word, {args.vocab_size, cols}, type);
    check("bias", args.bias, {args.vocab_size}, type);
  }
  if (args.logits) check("logits", args.logits, {slots.size(), args.vocab_size}, type);
  cpu::check_offsets("masked_lm", args.sequence_offsets, std::numeric_limits<int32_t>::max());
  cpu::check_rows("masked_lm", args.rows, args.weights, cpu::used_rows(args.sequence_offsets));
  check_state("masked_lm", args.state);
  if (!(args.temperature > 0)) throw ConfigError("masked_lm", "expected a temperature above 0, got " + std::to_string(args.temperature));
  check_targets(args.targets, args.weights, args.vocab_size);
  check_workspace("masked_lm", args.workspace,
                       masked_lm_workspace<Backend::cpu>(slots.size(), args.vocab_size, cols, stream.pool().threads(), args.loss.dtype));
  cpu::dispatch_float("masked_lm", args.loss.dtype, [&]<class T>() {
    if constexpr (std::is_same_v<T, double>) forward_oracle(args);
    else if (args.uniform) uniform_forward(args, stream);
    else forward(args, stream);
  });
}

template <> void masked_lm_backward<Backend::cpu>(const MaskedLmBackward& args, Stream& stream) {
  const int64_t slots = args.hidden.rows(), vocab = args.word.rows(), cols = args.hidden.cols();
  const DType type = args.hidden.dtype;
  const auto check = [](const char* what, const Tensor& t, const Shape& shape, DType dtype, GradMode mode = GradMode::write) {
    check_gradient("masked_lm", what, mode, t, shape, dtype);
  };
  check("hidden", args.hidden, {slots, cols}, type);
  check("word", args.word, {vocab, cols}, type);
  check("bias", args.bias, {vocab}, type);
  check("targets", args.targets, {slots}, DType::i32);
  check("weights", args.weights, {slots}, DType::f32);
  check_targets(args.targets, args.weights, vocab);
  check("lse", args.lse, {slots}, type);
  check("dloss", args.dloss, {1}, type);
  check("dhidden", args.dhidden, {slots, cols}, type, args.dhidden_mode);
  check("dword", args.dword, {vocab, cols}, type, args.dword_mode);
  check("dbias", args.dbias, {vocab}, type, args.dbias_mode);
  check_state("masked_lm", args.state);
  check_workspace("masked_lm", args.workspace,
                       masked_lm_workspace<Backend::cpu>(slots, vocab, cols, stream.pool().threads(), args.hidden.dtype));
  cpu::dispatch_float("masked_lm", args.hidden.dtype, [&]<class T>() {
    if constexpr (std::is_same_v<T, double>) backward_oracle(args);
    else backward(args, stream);
  });
}

}  // namespace electra
