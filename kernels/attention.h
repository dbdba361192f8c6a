// Multi-head self-attention over packed sequences: context = dropout(softmax(Q Kᵀ / sqrt(D))) V within each sequence.
// The probabilities of one head of one sequence at most exist at a time: never (B, H, T, T).
#pragma once
#include "kernels/core/backend.h"
#include "kernels/core/device.h"
#include "kernels/core/philox.h"
#include "kernels/core/step_state.h"
#include "kernels/core/tensor.h"
#include "kernels/grad_mode.h"

namespace electra {

// qkv: (rows, 3 H D), a row is Q then K then V, each H heads of D. Dropout of probability (query, key) of head h:
// coordinates (step, first_sequence + sequence, query, h 2^16 + key / 8), slot key % 8. Rows beyond the last offset get
// context 0 and dqkv 0. Backend::cuda takes head_dim 64 in f32 (for tests) and bf16, keeps lse in f32, and does not check the offsets.
struct AttentionForward {
  Tensor qkv;               // (rows, 3 H D)
  Tensor sequence_offsets;  // (sequences + 1) i32
  Tensor context;           // (rows, H D)
  Tensor lse;               // (H, rows): log-sum-exp of the scaled scores
  Tensor workspace;         // attention_workspace() bytes, u8
  int64_t num_heads = 1;
  int64_t max_seq_len = 0;  // no sequence is longer
  Dropout dropout;
  const StepState* state = nullptr;
};

struct AttentionBackward {
  Tensor qkv, sequence_offsets, context, lse, dcontext;
  Tensor dqkv;              // (rows, 3 H D)
  GradMode dqkv_mode = GradMode::write;
  Tensor workspace;
  int64_t num_heads = 1;
  int64_t max_seq_len = 0;
  Dropout dropout;
  const StepState* state = nullptr;
};

// Bytes for forward and backward, for any number of threads up to max_threads.
template <Backend B> size_t attention_workspace(int64_t rows, int64_t num_heads, int64_t head_dim, int64_t max_seq_len, int max_threads, DType dtype);
template <Backend B> void attention_forward(const AttentionForward& args, Stream& stream);
template <Backend B> void attention_backward(const AttentionBackward& args, Stream& stream);

}  // namespace electra
