// The vector kernels: single-threaded passes over rows, called inside work items. One table of them for each instruction set.
#pragma once
#include <cstdint>

namespace electra::cpu {

// Dropout of some rows: the row's place in the batch gives the coordinates of its draws.
struct DropoutRows {
  uint64_t key = 0;                    // seed xor site
  uint32_t step = 0;
  uint32_t threshold = 0;              // 0: no dropout
  float scale = 1;
  const uint32_t* sequence = nullptr;  // of each row
  const uint32_t* position = nullptr;
};

struct LayerNormRows {
  const float *x, *residual, *gamma, *beta;  // residual may be null
  float *y, *sum, *mean, *rstd;              // sum may be null
  int64_t rows, cols;
  float eps;
  DropoutRows dropout;  // of x; of y with dropout_output
  bool dropout_output;
};

struct LayerNormBackwardRows {
  const float *sum, *gamma, *mean, *rstd, *dy;
  float *dx, *dresidual;       // may be null
  bool dx_accumulate, dresidual_accumulate;
  float *dgamma, *dbeta;       // (cols): added to
  int64_t rows, cols;
  DropoutRows dropout;         // of x; of y with dropout_output
  bool dropout_output;
};

struct SoftmaxRows {           // one head of one sequence
  float* scores;               // (length, length): scaled probabilities with dropout on return
  int64_t length;
  float scale;                 // 1 / sqrt(head_dim)
  float* lse;                  // (length)
  DropoutRows dropout;
  uint32_t sequence, head;     // of the draws
};

struct SoftmaxBackwardRows {
  float* scores;               // in: Q Kᵀ; out: probabilities with dropout, for dV
  float* dprobs;               // in: dO Vᵀ; out: gradient of Q Kᵀ, scale included
  const float *lse, *context, *dcontext;  // lse (length); rows of head_dim with stride
  int64_t length, head_dim, stride;
  float scale;
  DropoutRows dropout;
  uint32_t sequence, head;
};

struct VocabularyRows {        // a block of logits of some slots over some ids
  const float* logits;         // (rows, cols), bias not added
  const float* bias;           // (cols)
  int64_t rows, cols, stride;  // stride of logits
  int32_t first_id;
  const int32_t* targets;      // (rows)
  float inverse_temperature;
  bool disallow_correct;
  uint64_t key;                // of the sampling
  uint32_t step;
  const uint32_t *sequence, *position, *group_offset;  // (rows)
  // Results a row
  float *max, *sum_exp, *target_logit;  // target_logit is written where the target is among the ids
  int32_t* argmax;
  float* best;                 // largest perturbed logit
  int32_t* best_id;
};

struct VocabularyBackwardRows {
  float* logits;               // (rows, cols) in: bias not added; out: gradient
  const float* bias;
  int64_t rows, cols;
  int32_t first_id;
  const int32_t* targets;
  const float *lse, *factor;   // factor: dloss · weight / denominator
  float* dbias;                // (cols): added to
};

struct ClassifierRows {
  const float *u, *bias, *out_weight;  // u (rows, cols): x Wᵀ
  float out_bias;
  float* logits;
  int64_t rows, cols;
};

struct ClassifierBackwardRows {
  const float *u, *bias, *out_weight, *dlogit;
  float* du;                            // (rows, cols)
  float *dbias, *dout_weight;           // (cols): added to
  int64_t rows, cols;
};

struct AdamWRange {
  float *param, *m, *v;
  const float* grad;
  int64_t size;
  float factor, beta1, beta2, gain1, gain2;  // gain: 1 − beta, rounded once
  float eps, learning_rate, weight_decay, inverse_correction1, inverse_correction2;
};

struct VectorKernels {
  void (*gelu)(const float* x, float* y, int64_t n);
  void (*gelu_backward)(const float* x, const float* dy, float* dx, int64_t n, bool accumulate);
  void (*add_bias)(float* y, const float* bias, int64_t rows, int64_t cols);
  void (*add_bias_gelu)(float* u, float* y, const float* bias, int64_t rows, int64_t cols);  // u may be y
  void (*add_column_sums)(const float* x, float* sums, int64_t rows, int64_t cols);
  void (*layer_norm)(const LayerNormRows& rows);
  void (*layer_norm_backward)(const LayerNormBackwardRows& rows);
  void (*softmax)(const SoftmaxRows& rows);
  void (*softmax_backward)(const SoftmaxBackwardRows& rows);
  void (*vocabulary)(const VocabularyRows& rows);
  void (*vocabulary_backward)(const VocabularyBackwardRows& rows);
  void (*uniform_sample)(float* best, int32_t* best_id, int64_t vocab, int32_t excluded, uint64_t key, uint32_t step,
                         uint32_t sequence, uint32_t position, uint32_t group_offset);
  void (*classifier)(const ClassifierRows& rows);
  void (*classifier_backward)(const ClassifierBackwardRows& rows);
  double (*sum_of_squares)(const float* x, int64_t n);
  void (*adamw)(const AdamWRange& range);
  // For tests: element-wise functions and draws as the kernels compute them.
  void (*exp)(const float* x, float* y, int64_t n);
  void (*log)(const float* x, float* y, int64_t n);
  void (*normal_cdf)(const float* x, float* y, int64_t n);
  void (*philox)(uint64_t key, uint32_t step, uint32_t sequence, uint32_t position, uint32_t group, uint32_t* words64);
};

// The table of the active instruction set.
const VectorKernels& vector_kernels();

}  // namespace electra::cpu
