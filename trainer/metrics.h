// What training and evaluation report: Google's metric names, the replaced fraction and the skill.
#pragma once
#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/binary_classifier.h"
#include "kernels/core/tensor.h"
#include "kernels/masked_lm.h"

namespace electra {

struct Metrics {
  double loss = 0;                // gen_weight · masked_lm_loss + disc_weight · disc_loss
  double masked_lm_loss = 0;      // nats, mean over the masked positions
  double masked_lm_accuracy = 0;  // argmax = original
  double sampled_masked_lm_accuracy = 0;
  double disc_loss = 0;           // nats, mean over the real tokens
  double disc_auc = 0.5;
  double disc_accuracy = 0;       // at threshold 0.5, as precision and recall
  double disc_precision = 0;      // 0 where nothing was predicted
  double disc_recall = 0;
  double replaced_fraction = 0;   // q
  double skill = 0;               // 1 − disc_loss / H(q), H(q) = −q ln q − (1 − q) ln(1 − q); 0 where H(q) = 0
};

// Every metric with its name, in the order they are reported.
std::vector<std::pair<std::string_view, double>> named(const Metrics& metrics);

// Sums of the loss kernels over any number of batches: integers and doubles added in order.
class MetricSums {
 public:
  void clear();
  // sums: (kMaskedLmSums) f64. loss_sum: (1) f64; counts: (kBinaryCountsSize) i64; both absent without a discriminator.
  void add(const Tensor& sums, const Tensor& loss_sum, const Tensor& counts);
  void add(const MetricSums& other);
  // padding: how many padding positions count as negatives of probability 0 in the AUC, as the original has them.
  Metrics metrics(double gen_weight, double disc_weight, int64_t padding = 0) const;
  int64_t tokens() const { return counts_[0]; }

 private:
  MaskedLmSums masked_lm_;
  double disc_loss_ = 0;
  bool disc_ = false;
  std::array<int64_t, kBinaryCountsSize> counts_{};  // as in binary_classifier.h
};

// Area under the ROC curve of two histograms over probability, ties within a bin counted half; 0.5 where one is empty.
double auc(std::span<const int64_t> negatives, std::span<const int64_t> positives);

}  // namespace electra
