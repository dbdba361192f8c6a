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
#include "model/config.h"

namespace electra {

// NaN where there was nothing to measure, as in an interval whose steps were all skipped.
struct Metrics {
  bool discriminator = true;      // false: the model has none, and so no disc_…, replaced_fraction and skill
  double loss = 0;                // gen_weight · masked_lm_loss + disc_weight · disc_loss
  double masked_lm_loss = 0;      // nats, mean over the masked positions
  double masked_lm_accuracy = 0;  // argmax = original
  double sampled_masked_lm_accuracy = 0;
  double disc_loss = 0;           // nats, mean over the real tokens
  double disc_auc = 0.5;
  double disc_accuracy = 0;       // at threshold 0.5, as precision and recall
  double disc_precision = 0;      // 0 where nothing was predicted
  double disc_recall = 0;         // 0 where nothing was replaced
  double replaced_fraction = 0;   // q
  double skill = 0;               // 1 − disc_loss / H(q), H(q) = −q ln q − (1 − q) ln(1 − q); 0 where H(q) = 0
};

// Every metric the model has with its name, in the order they are reported.
std::vector<std::pair<std::string_view, double>> named(const Metrics& metrics);

// Sums of the loss kernels over any number of batches: integers and doubles added in order.
class MetricSums {
 public:
  void clear();
  // sums: (kMaskedLmSums) f64. loss_sum: (1) f64; counts: (kBinaryCountsSize) i64; both absent without a discriminator.
  // padding: positions that the batch would have more if its sequences were all of full length.
  void add(const Tensor& sums, const Tensor& loss_sum, const Tensor& counts, int64_t padding);
  void add(const MetricSums& other);
  // auc_padding: padding counts as negatives of probability 0 in the AUC, as the original has it.
  Metrics metrics(const ElectraConfig& config, bool auc_padding) const;
  int64_t tokens() const { return counts_[0]; }

 private:
  MaskedLmSums masked_lm_;
  double disc_loss_ = 0;
  int64_t padding_ = 0;
  std::array<int64_t, kBinaryCountsSize> counts_{};  // as in binary_classifier.h
};

// Area under the ROC curve of two histograms over probability, ties within a bin counted half; 0.5 where one is empty.
double auc(std::span<const int64_t> negatives, std::span<const int64_t> positives);

}  // namespace electra
