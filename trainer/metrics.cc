#include "trainer/metrics.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace electra {
namespace {

constexpr double kNothing = std::numeric_limits<double>::quiet_NaN();

double mean(double sum, double count) { return count > 0 ? sum / count : kNothing; }
double share(double part, double whole) { return whole > 0 ? part / whole : 0; }

double binary_entropy(double q) { return q <= 0 || q >= 1 ? 0 : -q * std::log(q) - (1 - q) * std::log(1 - q); }

}  // namespace

void MetricSums::clear() { *this = MetricSums(); }

void MetricSums::add(const Tensor& sums, const Tensor& loss_sum, const Tensor& counts, int64_t padding) {
  const double* s = sums.as<double>();
  masked_lm_.loss += s[0];
  masked_lm_.correct += s[1];
  masked_lm_.sampled_correct += s[2];
  masked_lm_.weight += s[3];
  if (!counts) return;
  disc_loss_ += *loss_sum.as<double>();
  padding_ += padding;
  for (size_t i = 0; i < counts_.size(); ++i) counts_[i] += counts.as<int64_t>()[i];
}

void MetricSums::add(const MetricSums& other) {
  masked_lm_.loss += other.masked_lm_.loss;
  masked_lm_.correct += other.masked_lm_.correct;
  masked_lm_.sampled_correct += other.masked_lm_.sampled_correct;
  masked_lm_.weight += other.masked_lm_.weight;
  disc_loss_ += other.disc_loss_;
  padding_ += other.padding_;
  for (size_t i = 0; i < counts_.size(); ++i) counts_[i] += other.counts_[i];
}

Metrics MetricSums::metrics(const ElectraConfig& config, bool auc_padding) const {
  Metrics m;
  m.discriminator = config.electra_objective;
  m.masked_lm_loss = mean(masked_lm_.loss, masked_lm_.weight);
  m.masked_lm_accuracy = mean(masked_lm_.correct, masked_lm_.weight);
  m.sampled_masked_lm_accuracy = mean(masked_lm_.sampled_correct, masked_lm_.weight);
  m.loss = config.gen_weight * m.masked_lm_loss;
  if (!m.discriminator) return m;
  const auto tokens = static_cast<double>(counts_[0]), replaced = static_cast<double>(counts_[1]);
  const auto predicted = static_cast<double>(counts_[3]), true_positive = static_cast<double>(counts_[4]);
  m.disc_loss = mean(disc_loss_, tokens);
  m.disc_accuracy = mean(static_cast<double>(counts_[2]), tokens);
  m.disc_precision = tokens > 0 ? share(true_positive, predicted) : kNothing;
  m.disc_recall = tokens > 0 ? share(true_positive, replaced) : kNothing;
  m.replaced_fraction = mean(replaced, tokens);
  const double entropy = binary_entropy(m.replaced_fraction);
  m.skill = entropy == 0 ? 0 : 1 - m.disc_loss / entropy;
  const std::span<const int64_t> all(counts_);
  std::array<int64_t, kProbabilityBins> negatives;
  std::copy_n(all.begin() + kBinaryCounts, kProbabilityBins, negatives.begin());
  if (auc_padding) negatives[0] += padding_;
  m.disc_auc = tokens > 0 ? auc(negatives, all.subspan(kBinaryCounts + kProbabilityBins)) : kNothing;
  m.loss += config.disc_weight * m.disc_loss;
  return m;
}

std::vector<std::pair<std::string_view, double>> named(const Metrics& m) {
  if (!m.discriminator)
    return {{"loss", m.loss},
            {"masked_lm_loss", m.masked_lm_loss},
            {"masked_lm_accuracy", m.masked_lm_accuracy},
            {"sampled_masked_lm_accuracy", m.sampled_masked_lm_accuracy}};
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
