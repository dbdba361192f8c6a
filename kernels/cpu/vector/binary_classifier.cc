// The discriminator's head row by row: GELU, dot product, and backward from the logit's gradient.
#include "kernels/cpu/vector/table.h"
#include "kernels/cpu/vector/vector.h"

namespace electra::cpu::ELECTRA_ISA {
namespace {

void classifier(const ClassifierRows& a) {
  for (int64_t r = 0; r < a.rows; ++r) {
    const float* u = a.u + r * a.cols;
    V total{};
    for (int64_t c = 0; c < a.cols; c += kLanes) {
      const int64_t left = a.cols - c;
      total += gelu(load_n(u + c, left) + load_n(a.bias + c, left)) * load_n(a.out_weight + c, left);
    }
    a.logits[r] = sum(total) + a.out_bias;
  }
}

void classifier_backward(const ClassifierBackwardRows& a) {
  for (int64_t r = 0; r < a.rows; ++r) {
    const float* u = a.u + r * a.cols;
    const float g = a.dlogit[r];
    for (int64_t c = 0; c < a.cols; c += kLanes) {
      const int64_t left = a.cols - c;
      const V x = load_n(u + c, left) + load_n(a.bias + c, left);
      const Normal n = normal(x);
      const V d = (n.cdf + x * n.density) * load_n(a.out_weight + c, left) * g;
      store_n(a.du + r * a.cols + c, d, left);
      store_n(a.dbias + c, load_n(a.dbias + c, left) + d, left);
      store_n(a.dout_weight + c, load_n(a.dout_weight + c, left) + x * n.cdf * g, left);
    }
  }
}

}  // namespace

void fill_binary_classifier(VectorKernels& table) {
  table.classifier = classifier;
  table.classifier_backward = classifier_backward;
}

}  // namespace electra::cpu::ELECTRA_ISA
