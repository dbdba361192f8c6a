// The vocabulary pass over a block of logits: bias, online softmax statistics, argmax and Gumbel-max sample.
#include "kernels/cpu/vector/table.h"
#include "kernels/cpu/vector/vector.h"

namespace electra::cpu::ELECTRA_ISA {
namespace {

constexpr int64_t kWords = 64;  // draws of one philox16

// −ln(−ln u), u = ((draw >> 9) + ½) 2^−23.
ELECTRA_INLINE V gumbel(VU draw) {
  const V u = (__builtin_convertvector((VI)(draw >> 9), V) + 0.5f) * 0x1p-23f;
  return -log(-log(u));
}

// Running maximum with the id it was seen at; the earlier id wins a tie within a lane, the smaller one between lanes.
struct Best {
  V value;
  VI id;
};
ELECTRA_INLINE void update(Best& best, V value, VI id) {
  const VI better = value > best.value;
  best.value = better ? value : best.value;
  best.id = better ? id : best.id;
}
ELECTRA_INLINE void finish(const Best& best, float& value, int32_t& id) {
  float v[kLanes];
  int32_t i[kLanes];
  memcpy(v, &best.value, sizeof v);
  memcpy(i, &best.id, sizeof i);
  value = v[0];
  id = i[0];
  for (int k = 1; k < kLanes; ++k)
    if (v[k] > value || (v[k] == value && i[k] < id)) {
      value = v[k];
      id = i[k];
    }
}
ELECTRA_INLINE Best none() { return {splat(-__builtin_inff()), VI{} + INT32_MAX}; }

// first_id is a multiple of 64, so that the draws of a block start at a call of their own.
void vocabulary(const VocabularyRows& a) {
  for (int64_t r = 0; r < a.rows; ++r) {
    const float* row = a.logits + r * a.stride;
    const int32_t target = a.targets[r] - a.first_id;
    if (target >= 0 && target < a.cols) a.target_logit[r] = row[target] + a.bias[target];
    Best top = none(), sample = none();
    for (int64_t c0 = 0; c0 < a.cols; c0 += kWords) {
      VU draw[4];
      in_order(philox16(a.key, a.step, a.sequence[r], a.position[r],
                        a.group_offset[r] + static_cast<uint32_t>((a.first_id + c0) / 4)), draw);
      for (int i = 0; i < 4; ++i) {
        const int64_t c = c0 + i * kLanes, left = a.cols - c;
        if (left <= 0) break;
        const V logit = first_lanes(load_n(row + c, left) + load_n(a.bias + c, left), left, -__builtin_inff());
        const VI id = lanes() + static_cast<int32_t>(a.first_id + c);
        update(top, logit, id);
        V perturbed = logit * a.inverse_temperature + gumbel(draw[i]);
        if (a.disallow_correct) perturbed = id == a.targets[r] ? perturbed - 1000.0f : perturbed;
        update(sample, perturbed, id);
      }
    }
    finish(top, a.max[r], a.argmax[r]);
    finish(sample, a.best[r], a.best_id[r]);
    V total{};
    for (int64_t c = 0; c < a.cols; c += kLanes) {
      const int64_t left = a.cols - c;
      total += first_lanes(exp(load_n(row + c, left) + load_n(a.bias + c, left) - a.max[r]), left, 0.0f);
    }
    a.sum_exp[r] = sum(total);
  }
}

// dlogit = factor (softmax − onehot)
void vocabulary_backward(const VocabularyBackwardRows& a) {
  for (int64_t r = 0; r < a.rows; ++r) {
    float* row = a.logits + r * a.cols;
    const float lse = a.lse[r], factor = a.factor[r];
    for (int64_t c = 0; c < a.cols; c += kLanes) {
      const int64_t left = a.cols - c;
      store_n(row + c, exp(load_n(row + c, left) + load_n(a.bias + c, left) - lse) * factor, left);
    }
    const int32_t target = a.targets[r] - a.first_id;
    if (target >= 0 && target < a.cols) row[target] -= factor;
    for (int64_t c = 0; c < a.cols; c += kLanes) {
      const int64_t left = a.cols - c;
      store_n(a.dbias + c, load_n(a.dbias + c, left) + load_n(row + c, left), left);
    }
  }
}

void uniform_sample(float* best, int32_t* best_id, int64_t vocab, int32_t excluded, uint64_t key, uint32_t step,
                    uint32_t sequence, uint32_t position, uint32_t group_offset) {
  Best sample = none();
  for (int64_t c0 = 0; c0 < vocab; c0 += kWords) {
    VU draw[4];
    in_order(philox16(key, step, sequence, position, group_offset + static_cast<uint32_t>(c0 / 4)), draw);
    for (int i = 0; i < 4 && c0 + i * kLanes < vocab; ++i) {
      const VI id = lanes() + static_cast<int32_t>(c0 + i * kLanes);
      V value = first_lanes(gumbel(draw[i]), vocab - c0 - i * kLanes, -__builtin_inff());
      value = id == excluded ? value - 1000.0f : value;
      update(sample, value, id);
    }
  }
  finish(sample, *best, *best_id);
}

}  // namespace

void fill_masked_lm(VectorKernels& table) {
  table.vocabulary = vocabulary;
  table.vocabulary_backward = vocabulary_backward;
  table.uniform_sample = uniform_sample;
}

}  // namespace electra::cpu::ELECTRA_ISA
