// ELECTRA's embeddings: y = dropout(LayerNorm(word[id] + position[p] + segment[s])). The position of a row is its place in
// its sequence. Backward is deterministic: rows are gathered per table entry in row order, no atomics.
#pragma once
#include "kernels/core/backend.h"
#include "kernels/core/device.h"
#include "kernels/core/philox.h"
#include "kernels/core/step_state.h"
#include "kernels/core/tensor.h"
#include "kernels/grad_mode.h"

namespace electra {

inline constexpr int64_t kMaxSegments = 8;  // rows of a segment table; BERT has 2

// Rows beyond the last offset (unused capacity) use position 0 and take part in nothing: y is written (finite), and
// nothing is read of their dy. Ids and segments outside their tables throw DataError naming row, id and table size.
struct EmbeddingForward {
  Tensor ids, segments;          // (rows) i32
  Tensor sequence_offsets;       // (sequences + 1) i32
  Tensor word, position, segment;  // tables (V, E), (positions, E), (segments, E); none empty
  Tensor gamma, beta;            // (E)
  Tensor y;                      // (rows, E)
  Tensor mean, rstd;             // (rows)
  double eps = 1e-12;
  Dropout dropout;               // of y, coordinates as in layer_norm.h
  const StepState* state = nullptr;
};

struct EmbeddingBackward {
  Tensor ids, segments, sequence_offsets, word, position, segment, gamma, mean, rstd, dy;
  Tensor dword, dposition, dsegment, dgamma, dbeta;
  GradMode dword_mode = GradMode::write, dposition_mode = GradMode::write, dsegment_mode = GradMode::write;
  GradMode dgamma_mode = GradMode::write, dbeta_mode = GradMode::write;
  Tensor workspace;              // embedding_backward_workspace() bytes, u8
  Dropout dropout;
  const StepState* state = nullptr;
};

// CUDA backend: tables in f32 or bf16, mean, rstd and gradients in f32; 1 to 8,192 columns; where they are a multiple of 8 (of the
// gradients, of 4) every operand lies at a multiple of 16 bytes. Ids, segments and offsets lie on the device and are not checked.
template <Backend B> size_t embedding_backward_workspace(int64_t rows, int64_t vocab_size, int64_t cols, DType dtype);
template <Backend B> void embedding_forward(const EmbeddingForward& args, Stream& stream);
template <Backend B> void embedding_backward(const EmbeddingBackward& args, Stream& stream);

}  // namespace electra
