// Masking and corruption: what the generator reads, and what the discriminator reads (ELECTRA, section 2; masking as in
// the original's pretrain_helpers.py, deviations named). Every backend writes the same bits. The CPU checks offsets and rows
// (DataError); CUDA checks shapes and types alone, and takes ids and gathered values (f32, bf16) aligned to 16 bytes.
#pragma once
#include "kernels/core/backend.h"
#include "kernels/core/device.h"
#include "kernels/core/step_state.h"
#include "kernels/core/tensor.h"

namespace electra {

struct SpecialIds {
  int32_t pad = 0, unk = 100, cls = 101, sep = 102, mask = 103;
};

// What is masked together. word: a piece and those after it that continue it. span: a run of whole words; each word begins one with
// probability 1 / span_words, so that they are span_words words long on average, geometrically. None crosses a token that cannot be masked.
enum class MaskUnit : uint8_t { token, word, span };

// A word begins a span iff its draw is below this.
inline uint64_t span_threshold(double span_words) { return static_cast<uint64_t>(0x1p32 / span_words); }

// Of a sequence of L tokens, n = max(1, min(max_predictions, round(mask_prob L))) positions are masked, halves rounded to
// even as TensorFlow's round does (fewer without replacement when there are fewer candidates; none without a candidate). Candidates exclude [CLS], [SEP] and [MASK]. Without replacement: the n candidates with the
// smallest 32-bit keys, ties by position; key of position p = word p % 4 of the call at (step, sequence, p / 4, 0). With
// replacement (compat: google): draw j of word j % 4 at (step, sequence, j / 4, 1) picks candidate floor(u · candidates)
// (u = draw / 2^32), so positions can repeat. A masked token becomes [MASK] with probability 0.85 and stays otherwise
// (word p % 4 at (step, sequence, p / 4, 2), masked iff draw < 0.85 · 2^32). With replacement each slot j, in ascending order of
// positions, draws for itself (word j % 4 at (step, sequence, j / 4, 2)), as in the original: a position drawn k times stays with
// probability 0.15^k.
//
// Units (word, span) are masked without replacement, and n counts tokens all the same: every token of a unit has the key of the unit's
// first position, so the n smallest are whole units in the order of their keys, and of the last one as many of its first tokens as there
// is room for. Whether a token becomes [MASK] is decided for each by itself. Position p begins a unit iff it is the first, it or the one
// before is no candidate, or its id continues no word and (span) word p % 4 at (step, sequence, p / 4, 3) < span_threshold(span_words).
struct MaskTokens {
  Tensor ids, sequence_offsets;   // (rows) i32, (sequences + 1) i32
  Tensor masked_ids;              // (rows) i32
  Tensor masked_rows;             // (sequences · max_predictions) i32: row numbers, ascending within a sequence; unused slots 0
  Tensor masked_weights;          // the same shape, f32: 1 used, 0 unused
  Tensor masked_targets;          // the same shape, i32: original ids; unused slots 0
  SpecialIds special;
  int64_t max_predictions = 0;    // per sequence, at least 1
  double mask_prob = 0.15;
  bool with_replacement = false;
  MaskUnit unit = MaskUnit::token;
  double span_words = 3;          // at least 1
  Tensor continuations = {};      // (vocabulary) u8: 1 where a piece continues a word ("##ing"); of units alone. Other ids continue none
  uint64_t site = 0;
  const StepState* state = nullptr;
};
template <Backend B> void mask_tokens(const MaskTokens& args, Stream& stream);

// Throws ConfigError for units with replacement and for spans of less than one word, ShapeError for units without continuations.
void check_units(const MaskTokens& args);

// Number of weighted slots that mask_tokens will use for one sequence, whatever the units: what the loss denominators are summed from.
int64_t masked_count(const int32_t* ids, int64_t length, const SpecialIds& special, double mask_prob, int64_t max_predictions,
                     bool with_replacement);

// out_ids = ids with sampled ids at the weighted masked rows; labels 1 where that differs from ids. With repeated rows
// (masking with replacement) the original averages the ids drawn for one position: (sum / count) rounded down. On CUDA the used
// slots of a row must be neighbours, as mask_tokens makes them.
struct CorruptTokens {
  Tensor ids, masked_rows, masked_weights, sampled_ids;  // sampled_ids (slots) i32
  Tensor out_ids;  // (rows) i32
  Tensor labels;   // (rows) f32, 0 or 1
};
template <Backend B> void corrupt_tokens(const CorruptTokens& args, Stream& stream);

// y[i] = x[rows[i]]; backward adds dy[i] into dx[rows[i]] in slot order; slots of weight 0 read and add nothing (y = 0).
struct GatherRows {
  Tensor x;              // (rows, cols)
  Tensor rows, weights;  // (slots) i32, (slots) f32
  Tensor y;              // (slots, cols)
};
struct GatherRowsBackward {
  Tensor rows, weights, dy, dx;
  bool accumulate = false;
};
template <Backend B> void gather_rows(const GatherRows& args, Stream& stream);
template <Backend B> void gather_rows_backward(const GatherRowsBackward& args, Stream& stream);

}  // namespace electra
