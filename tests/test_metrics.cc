// Metrics: sums, AUC, skill, and what a training step adds to them.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "tests/toy_model.h"
#include "trainer/metrics.h"
#include "trainer/synthetic.h"
#include "trainer/training_step.h"

using namespace electra;

namespace {

using Histogram = std::vector<int64_t>;

// What the loss kernels leave behind for a batch.
struct Kernels {
  std::vector<double> masked_lm = std::vector<double>(kMaskedLmSums, 0);  // loss, correct, sampled_correct, weight
  double disc_loss = 0;
  std::vector<int64_t> counts = std::vector<int64_t>(kBinaryCountsSize, 0);
  int64_t& negatives(int64_t bin) { return counts[static_cast<size_t>(kBinaryCounts + bin)]; }
  int64_t& positives(int64_t bin) { return counts[static_cast<size_t>(kBinaryCounts + kProbabilityBins + bin)]; }
  void add_to(MetricSums& sums, int64_t padding = 0) {
    sums.add({masked_lm.data(), {kMaskedLmSums}, DType::f64}, {&disc_loss, {1}, DType::f64}, {counts.data(), {kBinaryCountsSize}, DType::i64},
             padding);
  }
};

Metrics metrics_of(Kernels kernels, const ElectraConfig& config = {}, int64_t padding = 0) {
  MetricSums sums;
  kernels.add_to(sums, padding);
  return sums.metrics(config, padding > 0);
}

// tokens tokens of which a share is replaced, with that mean loss.
Kernels with_loss(double replaced_fraction, double disc_loss) {
  Kernels k;
  k.counts[0] = 10000;
  k.counts[1] = std::llround(10000 * replaced_fraction);
  k.disc_loss = 10000 * disc_loss;
  return k;
}

}  // namespace

TEST_CASE("auc is the share of pairs in order, ties counted half") {
  CHECK(auc(Histogram{3, 0, 0}, Histogram{0, 0, 2}) == 1);
  CHECK(auc(Histogram{0, 0, 3}, Histogram{2, 0, 0}) == 0);
  CHECK(auc(Histogram{0, 5, 0}, Histogram{0, 7, 0}) == 0.5);
  // Pairs: 1 x (2 + 1/2 x 1) + 3 x (3 + 0) of 4 x 3.
  CHECK(auc(Histogram{2, 1, 0}, Histogram{0, 1, 3}) == Approx((2.5 + 9) / 12));
}

TEST_CASE("auc of one empty side is chance") {
  CHECK(auc(Histogram{0, 0}, Histogram{1, 2}) == 0.5);
  CHECK(auc(Histogram{1, 2}, Histogram{0, 0}) == 0.5);
  CHECK(auc(Histogram{0, 0}, Histogram{0, 0}) == 0.5);
}

TEST_CASE("padding counts as certain negatives where that is asked for") {
  Kernels k;
  k.counts[0] = 4;
  k.counts[1] = 2;
  k.negatives(0) = k.negatives(900) = k.positives(0) = k.positives(500) = 1;
  CHECK(metrics_of(k).disc_auc == Approx((0.5 + 1) / 4));
  // Six more in the lowest bin: half a pair each with the positive there, a whole one with the other.
  CHECK(metrics_of(k, {}, 6).disc_auc == Approx((7 * 0.5 + 7) / 16));
  // It adds up over batches, and touches nothing else.
  MetricSums a, b;
  k.add_to(a, 2);
  k.add_to(b, 4);
  a.add(b);
  CHECK(a.metrics({}, false).disc_auc == metrics_of(k).disc_auc);
  k.add_to(b = {}, 3);
  CHECK(a.metrics({}, true).disc_auc == b.metrics({}, true).disc_auc);
  CHECK(a.metrics({}, true).replaced_fraction == 0.5);
}

// spec/electra-semantics.md, table of 1.3: q, H(q), disc_loss of 1.2, skill.
TEST_CASE("skill is the share of the base rate's entropy that is explained") {
  struct Row { double q, entropy, disc_loss, skill; };
  for (const Row& row : {Row{0.1495, 0.4218, 0.3594, 0.15}, {0.0839, 0.2883, 0.1366, 0.53}, {0.0693, 0.2519, 0.1593, 0.37}, {0.0497, 0.1977, 0.1152, 0.42}}) {
    INFO(row.q);
    const Metrics m = metrics_of(with_loss(row.q, row.disc_loss));
    CHECK(m.replaced_fraction == Approx(row.q));
    CHECK(m.skill == Approx(row.skill).margin(0.005));
    CHECK(metrics_of(with_loss(row.q, row.entropy)).skill == Approx(0).margin(5e-4));
    CHECK(metrics_of(with_loss(row.q, 0)).skill == 1);
  }
  CHECK(metrics_of(with_loss(0, 0.3)).skill == 0);
  CHECK(metrics_of(with_loss(1, 0.3)).skill == 0);
}

TEST_CASE("the loss weighs its two halves") {
  Kernels k = with_loss(0.1, 0.25);
  k.masked_lm = {30, 2, 1, 4};
  ElectraConfig config;
  config.gen_weight = 2;
  config.disc_weight = 8;
  const Metrics m = metrics_of(k, config);
  CHECK(m.masked_lm_loss == 7.5);
  CHECK(m.masked_lm_accuracy == 0.5);
  CHECK(m.sampled_masked_lm_accuracy == 0.25);
  CHECK(m.disc_loss == Approx(0.25));
  CHECK(m.loss == Approx(2 * 7.5 + 8 * 0.25));
}

TEST_CASE("accuracy, precision and recall are at threshold one half") {
  Kernels k;
  const std::vector<int64_t> counts = {100, 20, 85, 15, 10};  // tokens, replaced, correct, predicted, true positives
  std::copy(counts.begin(), counts.end(), k.counts.begin());
  const Metrics m = metrics_of(k);
  CHECK(m.disc_accuracy == 0.85);
  CHECK(m.disc_precision == Approx(10.0 / 15));
  CHECK(m.disc_recall == 0.5);
  k.counts[3] = k.counts[4] = 0;
  CHECK(metrics_of(k).disc_precision == 0);
  CHECK(metrics_of(k).disc_recall == 0);
}

TEST_CASE("where nothing was measured no metric is a number") {
  for (const auto& [name, value] : named(MetricSums().metrics({}, false))) {
    INFO(name);
    CHECK(std::isnan(value));
  }
  CHECK(named(MetricSums().metrics({}, false)).size() == 11);
}

TEST_CASE("a model without a discriminator has none of its metrics") {
  ElectraConfig config;
  config.electra_objective = false;
  Kernels k;
  k.masked_lm = {30, 2, 1, 4};
  MetricSums sums;
  sums.add({k.masked_lm.data(), {kMaskedLmSums}, DType::f64}, {}, {}, 5);
  const Metrics m = sums.metrics(config, false);
  CHECK_FALSE(m.discriminator);
  CHECK(m.loss == 7.5);
  std::vector<std::string> names;
  for (const auto& [name, value] : named(m)) names.emplace_back(name);
  CHECK(names == std::vector<std::string>{"loss", "masked_lm_loss", "masked_lm_accuracy", "sampled_masked_lm_accuracy"});
}

namespace {

constexpr int64_t kSequences = 8, kLength = 16;

ElectraGraphOptions drawn_options() {
  ElectraGraphOptions options = toy_options(DType::f32);
  options.corruption = Corruption::drawn;
  return options;
}

// A step of kSequences sequences in that many micro-batches. Weights are as far from their start as perturb_weights takes them.
struct ToyStep {
  explicit ToyStep(int64_t micro_batches)
      : n(micro_batches),
        shape{.sequences = kSequences / n, .tokens = kSequences * kLength / n, .max_seq_len = kLength},
        step(toy_config(), shape, drawn_options(), {}, Stream(pool)),
        whole({.sequences = kSequences, .tokens = kSequences * kLength, .max_seq_len = kLength}, toy_config().vocab_size, 3) {
    perturb_weights(*step.store());
  }
  StepResult run(MetricSums& sums) {
    const HostBatch& batch = whole.fill(0);
    std::vector<HostBatch> parts;
    for (int64_t i = 0; i < n; ++i)  // every sequence is of full length, so a part's offsets are the first ones
      parts.push_back({batch.ids + i * shape.tokens, batch.segments + i * shape.tokens, batch.sequence_offsets, shape.sequences, shape.tokens});
    return step.run(parts, {.seed = 5, .step = 2, .learning_rate = 1e-3, .adam_step = 3}, sums);
  }
  ThreadPool pool{1};
  int64_t n;
  BatchShape shape;
  TrainingStep step;
  SyntheticBatch whole;
};

std::vector<float> flat(const Tensor& t) { return {t.as<float>(), t.as<float>() + t.size()}; }

}  // namespace

TEST_CASE("four micro-batches give the metrics of one batch") {
  ToyStep one(1), four(4);
  MetricSums a, b;
  const StepResult ra = one.run(a), rb = four.run(b);
  REQUIRE(ra.finite);
  CHECK(ra.tokens == kSequences * kLength);
  CHECK(rb.tokens == ra.tokens);
  CHECK(rb.loss == Approx(ra.loss).epsilon(1e-6));
  CHECK(rb.grad_norm == Approx(ra.grad_norm).epsilon(1e-5));
  const auto x = named(a.metrics(toy_config(), false)), y = named(b.metrics(toy_config(), false));
  for (size_t i = 0; i < x.size(); ++i) {
    INFO(x[i].first);
    CHECK(std::isfinite(x[i].second));
    // A token may change its bin of the AUC's histogram by a rounding.
    CHECK(y[i].second == Approx(x[i].second).epsilon(x[i].first == "disc_auc" ? 1e-3 : 1e-6));
  }
  CHECK(a.metrics(toy_config(), false).replaced_fraction > 0);
  // The sums are those of the step's own loss.
  CHECK(a.metrics(toy_config(), false).loss == Approx(ra.loss).epsilon(1e-6));
}

TEST_CASE("a step that is not finite changes no parameter, no moment and no metric") {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    ToyStep toy(2);
    const ParameterStore& store = *toy.step.store();
    MetricSums sums;
    REQUIRE(toy.run(sums).finite);  // moments that are not zero
    const Metrics before = sums.metrics(toy_config(), false);
    const Tensor bias = store.value(store.at("discriminator/discriminator_predictions.dense_prediction.bias"));
    const float good = *bias.as<float>();
    *bias.as<float>() = bad;
    const auto values = flat(store.values()), m = flat(store.first_moments()), v = flat(store.second_moments());
    CHECK(*std::max_element(v.begin(), v.end()) > 0);
    const StepResult result = toy.run(sums);
    CHECK_FALSE(result.finite);
    CHECK(std::memcmp(values.data(), store.values().data, store.values().bytes()) == 0);  // as bits: NaN is not itself
    CHECK(m == flat(store.first_moments()));
    CHECK(v == flat(store.second_moments()));
    CHECK(named(sums.metrics(toy_config(), false)) == named(before));
    // The same step with the parameter in order changes all of them.
    *bias.as<float>() = good;
    REQUIRE(toy.run(sums).finite);
    CHECK(values != flat(store.values()));
    CHECK(m != flat(store.first_moments()));
    CHECK(v != flat(store.second_moments()));
    CHECK(named(sums.metrics(toy_config(), false)) != named(before));
  }
}
