#include "trainer/metrics.h"

#include <algorithm>
#include <cmath>

namespace electra {
namespace {

double ratio(double a, double b) { return b > 0 ? a / b : 0; }

double binary_entropy(double q) { return q <= 0 || q >= 1 ? 0 : -q * std::log(q) - (1 - q) * std::log(1 - q); }

}  // namespace

void MetricSums::clear() { *this = MetricSums(); }

void MetricSums::add(const Tensor& sums, const Tensor& loss_sum, const Tensor& counts) {
  const double* s = sums.as<double>();
  masked_lm_.loss += s[0];
  masked_lm_.correct += s[1];
  masked_lm_.sampled_correct += s[2];
  masked_lm_.weight += s[3];
  if (!counts) return;
  disc_ = true;
  disc_loss_ += *loss_sum.as<double>();
  for (size_t i = 0; i < counts_.size(); ++i) counts_[i] += counts.as<int64_t>()[i];
}

void MetricSums::add(const MetricSums& other) {
  masked_lm_.loss += other.masked_lm_.loss;
  masked_lm_.correct += other.masked_lm_.correct;
  masked_lm_.sampled_correct += other.masked_lm_.sampled_correct;
  masked_lm_.weight += other.masked_lm_.weight;
  disc_loss_ += other.disc_loss_;
  disc_ = disc_ || other.disc_;
  for (size_t i = 0; i < counts_.size(); ++i) counts_[i] += other.counts_[i];
}

Metrics MetricSums::metrics(double gen_weight, double disc_weight, int64_t padding) const {
  Metrics m;
  m.masked_lm_loss = ratio(masked_lm_.loss, masked_lm_.weight);
  m.masked_lm_accuracy = ratio(masked_lm_.correct, masked_lm_.weight);
  m.sampled_masked_lm_accuracy = ratio(masked_lm_.sampled_correct, masked_lm_.weight);
  m.loss = gen_weight * m.masked_lm_loss;
  if (!disc_) return m;
  const auto tokens = static_cast<double>(counts_[0]), replaced = static_cast<double>(counts_[1]);
  const auto predicted = static_cast<double>(counts_[3]), true_positive = static_cast<double>(counts_[4]);
  m.disc_loss = ratio(disc_loss_, tokens);
  m.disc_accuracy = ratio(static_cast<double>(counts_[2]), tokens);
  m.disc_precision = ratio(true_positive, predicted);
  m.disc_recall = ratio(true_positive, replaced);
  m.replaced_fraction = ratio(replaced, tokens);
  const double entropy = binary_entropy(m.replaced_fraction);
  m.skill = entropy > 0 ? 1 - m.disc_loss / entropy : 0;
  const std::span<const int64_t> all(counts_);
  std::array<int64_t, kProbabilityBins> negatives;
  std::copy_n(all.begin() + kBinaryCounts, kProbabilityBins, negatives.begin());
  negatives[0] += padding;
  m.disc_auc = auc(negatives, all.subspan(kBinaryCounts + kProbabilityBins));
  m.loss += disc_weight * m.disc_loss;
  return m;
}

std::vector<std::pair<std::string_view, double>> named(const Metrics& m) {
  return {{"loss", m.loss},
          {"masked_lm_loss", m.masked_lm_loss},
          {"disc_loss", m.disc_loss},
          {"masked_lm_accuracy", m.masked_lm_accuracy},
          {"sampled_masked_lm_accuracy", m.sampled_masked_lm_accuracy},
          {"disc_auc", m.disc_auc},
          {"disc_accuracy", m.disc_accuracy},
          {"disc_precision", m.disc_precision},
          {"disc_recall", m.disc_recall},
          {"replaced_fraction", m.replaced_fraction},
          {"skill", m.skill}};
}

double auc(std::span<const int64_t> negatives, std::span<const int64_t> positives) {
  double pairs = 0, below = 0, total_positives = 0;
  for (size_t i = 0; i < negatives.size(); ++i) {
    const auto n = static_cast<double>(negatives[i]), p = static_cast<double>(positives[i]);
    pairs += p * (below + n / 2);
    below += n;
    total_positives += p;
  }
  return below > 0 && total_positives > 0 ? pairs / (below * total_positives) : 0.5;
}

}  // namespace electra
