// Masked-LM head over the vocabulary, fused: logits, softmax cross-entropy, Gumbel-max sample, gradients, by vocabulary
// chunks; the full logits never exist in memory.
#pragma once
#include "kernels/core/backend.h"
#include "kernels/core/device.h"
#include "kernels/core/step_state.h"
#include "kernels/core/tensor.h"
#include "kernels/grad_mode.h"

namespace electra {

// Sums over the weighted slots, for metrics; doubles in this order.
struct MaskedLmSums {
  double loss = 0;              // sum of weight · cross-entropy (nats)
  double correct = 0;           // argmax = target
  double sampled_correct = 0;   // sample = target
  double weight = 0;
};
inline constexpr int64_t kMaskedLmSums = 4;

// logits[i, v] = hidden[i] · word[v] + bias[v]. loss = Σ weight · (lse − logit[target]) / state->masked_lm_denominator.
// Sample of slot i: argmax over v of (logit / temperature − 1000 [v = target and disallow_correct]) + g(v), where
// g = −log(−log u), u = uniform_open(word v % 4 of the call at (step, first_sequence + sequence of the row, position of the
// row in its sequence, v / 4)); ties go to the smaller id. Draw k of a repeated row (masking with replacement) adds
// k · 2^28 to the group. uniform: the logits are zero for everything (loss, sample, metrics); hidden, word and bias are absent.
// Slots of weight 0: sample 0, nothing summed. A row of another slot that is not before the last offset is a DataError.
struct MaskedLmForward {
  Tensor hidden;               // (slots, E)
  Tensor word;                 // (V, E)
  Tensor bias;                 // (V)
  Tensor targets, rows, weights, sequence_offsets;  // i32 (slots), i32 (slots), f32 (slots), i32 (sequences + 1)
  Tensor loss;                 // (1), like lse and logits of accumulate_type of hidden's dtype
  Tensor lse;                  // (slots), for backward
  Tensor sampled_ids;          // (slots) i32
  Tensor sums;                 // (kMaskedLmSums) f64: MaskedLmSums
  Tensor logits;               // (slots, V), or absent: written for tests and golden files only
  Tensor workspace;            // masked_lm_workspace() bytes
  int64_t vocab_size = 0;      // V, needed where word is absent
  double temperature = 1;
  bool disallow_correct = false, uniform = false;
  uint64_t site = 0;           // of the sampling
  const StepState* state = nullptr;
};

struct MaskedLmBackward {
  Tensor hidden, word, bias, targets, weights, lse;
  Tensor dloss;                // (1)
  Tensor dhidden;              // of hidden's dtype
  Tensor dword, dbias;         // of accumulate_type
  GradMode dhidden_mode = GradMode::write, dword_mode = GradMode::write, dbias_mode = GradMode::write;
  Tensor workspace;
  const StepState* state = nullptr;
};

// The CPU takes f64 and f32, CUDA f32 and bf16 (on the tensor core where 8 divides E) in memory aligned to 16 bytes. What lies in
// device memory is not checked there: a target outside the vocabulary makes the loss NaN, a row beyond the last offset is a place of
// its own.
template <Backend B> size_t masked_lm_workspace(int64_t slots, int64_t vocab_size, int64_t cols, int max_threads, DType dtype);
template <Backend B> void masked_lm_forward(const MaskedLmForward& args, Stream& stream);
template <Backend B> void masked_lm_backward(const MaskedLmBackward& args, Stream& stream);

}  // namespace electra
