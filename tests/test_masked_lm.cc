// Masked-LM head: loss, gradients, samples and sums over the vocabulary.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <numeric>
#include <set>

#include "kernels/core/bf16.h"
#include "kernels/core/error.h"
#include "kernels/core/philox.h"
#include "kernels/dispatch.h"
#include "kernels/masked_lm.h"
#include "tests/op_test.h"
#include "tests/traffic.h"

using namespace electra;
using namespace electra::test;

namespace {

constexpr uint64_t kSite = fnv1a64("test/masked_lm");

struct Options {
  int64_t slots = 6, vocab = 70, cols = 5;
  double temperature = 1;
  bool disallow_correct = false, uniform = false, keep_logits = true;
  uint64_t site = kSite;
};

// The unfused form in float: logits, softmax, cross-entropy, each stored.
float naive_logits(const Arguments& a, const Options& o, int64_t i, std::vector<float>& logits) {
  for (int64_t v = 0; v < o.vocab; ++v) {
    float dot = 0;
    for (int64_t c = 0; c < o.cols; ++c) dot += a.data<float>("hidden")[i * o.cols + c] * a.data<float>("word")[v * o.cols + c];
    logits[static_cast<size_t>(v)] = dot + a.data<float>("bias")[v];
  }
  const float top = *std::max_element(logits.begin(), logits.end());
  float total = 0;
  for (const float x : logits) total += std::exp(x - top);
  return top + std::log(total);
}

// Perturbed by scalar draws, one id after the other.
int64_t naive_sample(const Arguments& a, const Options& o, int64_t i, const std::vector<float>& logits) {
  const int32_t *rows = a.data<int32_t>("rows"), *offsets = a.data<int32_t>("sequence_offsets");
  uint32_t sequence = 0, repeat = 0;
  while (offsets[sequence + 1] <= rows[i]) ++sequence;
  const auto position = static_cast<uint32_t>(rows[i] - offsets[sequence]);
  while (i > repeat && rows[i - repeat - 1] == rows[i]) ++repeat;
  sequence += a.state->first_sequence;
  float best = -INFINITY;
  int64_t best_id = 0;
  for (int64_t v = 0; v < o.vocab; ++v) {
    const uint32_t group = (repeat << 28) + static_cast<uint32_t>(v / 4);
    const uint32_t draw = philox(a.state->seed ^ o.site, {a.state->step, sequence, position, group}).word[v % 4];
    float z = logits[static_cast<size_t>(v)] / static_cast<float>(o.temperature) - std::log(-std::log(uniform_open(draw)));
    if (o.disallow_correct && v == a.data<int32_t>("targets")[i]) z -= 1000;
    if (z > best) {
      best = z;
      best_id = v;
    }
  }
  return best_id;
}

void naive_forward(const Arguments& a, const Options& o) {
  float loss = 0;
  double* const sums = a.data<double>("sums");
  std::fill_n(sums, kMaskedLmSums, 0.0);
  std::vector<float> logits(static_cast<size_t>(o.vocab));
  for (int64_t i = 0; i < o.slots; ++i) {
    const float weight = a.data<float>("weights")[i];
    const bool used = weight != 0;
    const float lse = naive_logits(a, o, i, logits);
    a.data<float>("lse")[i] = used ? lse : 0;
    for (int64_t v = 0; o.keep_logits && v < o.vocab; ++v)
      a.data<float>("logits")[i * o.vocab + v] = used ? logits[static_cast<size_t>(v)] : 0;
    if (!used) continue;
    const int32_t target = a.data<int32_t>("targets")[i];
    loss += weight * (lse - logits[static_cast<size_t>(target)]);
    const auto weighted = static_cast<double>(weight);
    if (std::max_element(logits.begin(), logits.end()) - logits.begin() == target) sums[1] += weighted;
    if (naive_sample(a, o, i, logits) == target) sums[2] += weighted;
    sums[3] += weighted;
  }
  sums[0] = static_cast<double>(loss);
  *a.data<float>("loss") = loss / static_cast<float>(a.state->masked_lm_denominator);
}

void naive_backward(const Arguments& a, const Options& o) {
  for (const char* name : {"dhidden", "dword", "dbias"}) std::fill_n(a.data<float>(name), a[name].size(), 0.0f);
  std::vector<float> logits(static_cast<size_t>(o.vocab));
  for (int64_t i = 0; i < o.slots; ++i) {
    const float factor = *a.data<float>("dloss") * a.data<float>("weights")[i] / static_cast<float>(a.state->masked_lm_denominator);
    if (factor == 0) continue;
    const float lse = naive_logits(a, o, i, logits);
    for (int64_t v = 0; v < o.vocab; ++v) {
      const float p = std::exp(logits[static_cast<size_t>(v)] - lse);
      const float d = factor * (v == a.data<int32_t>("targets")[i] ? p - 1 : p);
      a.data<float>("dbias")[v] += d;
      for (int64_t c = 0; c < o.cols; ++c) {
        a.data<float>("dhidden")[i * o.cols + c] += d * a.data<float>("word")[v * o.cols + c];
        a.data<float>("dword")[v * o.cols + c] += d * a.data<float>("hidden")[i * o.cols + c];
      }
    }
  }
}

// Slots of two sequences; every fifth is unused, and one weighs half.
OpRecord masked_lm_record(const Options& o) {
  OpRecord record{.name = "masked_lm " + std::to_string(o.slots) + " slots, vocabulary " + std::to_string(o.vocab)};
  Random random(static_cast<uint64_t>(o.vocab));
  const auto n = static_cast<size_t>(o.slots);
  std::vector<double> rows(n), weights(n, 1);
  for (size_t i = 0; i < n; ++i) {
    rows[i] = static_cast<double>(2 * i);
    if (i % 5 == 4) weights[i] = rows[i] = 0;
    else if (i % 7 == 3) weights[i] = 0.5;
  }
  const double scale = 2 / std::sqrt(static_cast<double>(o.cols));
  if (!o.uniform)
    record.inputs = {{"hidden", {o.slots, o.cols}, random.normals(o.slots * o.cols)},
                     {"word", {o.vocab, o.cols}, random.normals(o.vocab * o.cols, scale)},
                     {"bias", {o.vocab}, random.normals(o.vocab, 0.5)}};
  record.inputs.insert(record.inputs.end(), {{"targets", {o.slots}, random.integers(o.slots, o.vocab), DType::i32},
                                             {"rows", {o.slots}, rows, DType::i32},
                                             {"weights", {o.slots}, weights, DType::f32},
                                             {"sequence_offsets", {3}, {0, static_cast<double>(o.slots), static_cast<double>(2 * o.slots)}, DType::i32}});
  record.results = {{.name = "loss", .shape = {1}, .cotangent = !o.uniform, .statistic = true},
                    {.name = "lse", .shape = {o.slots}, .cotangent = false, .statistic = true},
                    {.name = "sampled_ids", .shape = {o.slots}, .cotangent = false, .dtype = DType::i32, .compare = Compare::exact},
                    {.name = "sums", .shape = {kMaskedLmSums}, .cotangent = false, .dtype = DType::f64}};
  if (o.keep_logits) record.results.push_back({.name = "logits", .shape = {o.slots, o.vocab}, .cotangent = false, .statistic = true});
  record.device_dtypes = {DType::f32};
  if (!o.uniform) record.device_dtypes.push_back(DType::bf16);
  record.workspace = [=](DType dtype, Backend backend) {
    return dispatch(backend, [&]<Backend B>() { return masked_lm_workspace<B>(o.slots, o.vocab, o.uniform ? 0 : o.cols, 4, dtype); });
  };
  record.state.masked_lm_denominator = 3.5;
  record.forward = [=](const Arguments& a, Stream& stream) {
    dispatch(stream, [&]<Backend B>() {
      masked_lm_forward<B>({.hidden = a["hidden"],
                            .word = a["word"],
                            .bias = a["bias"],
                            .targets = a["targets"],
                            .rows = a["rows"],
                            .weights = a["weights"],
                            .sequence_offsets = a["sequence_offsets"],
                            .loss = a["loss"],
                            .lse = a["lse"],
                            .sampled_ids = a["sampled_ids"],
                            .sums = a["sums"],
                            .logits = a["logits"],
                            .workspace = a["workspace"],
                            .vocab_size = o.vocab,
                            .temperature = o.temperature,
                            .disallow_correct = o.disallow_correct,
                            .uniform = o.uniform,
                            .site = o.site,
                            .state = a.state},
                           stream);
    });
  };
  if (o.uniform) return record;
  record.gradients = {{.of = "hidden"}, {.of = "word", .parameter = true}, {.of = "bias", .parameter = true}};
  record.backward = [](const Arguments& a, Stream& stream) {
    dispatch(stream, [&]<Backend B>() {
      masked_lm_backward<B>({.hidden = a["hidden"],
                             .word = a["word"],
                             .bias = a["bias"],
                             .targets = a["targets"],
                             .weights = a["weights"],
                             .lse = a["lse"],
                             .dloss = a["dloss"],
                             .dhidden = a["dhidden"],
                             .dword = a["dword"],
                             .dbias = a["dbias"],
                             .dhidden_mode = a.mode("dhidden"),
                             .dword_mode = a.mode("dword"),
                             .dbias_mode = a.mode("dbias"),
                             .workspace = a["workspace"],
                             .state = a.state},
                            stream);
    });
  };
  record.naive_forward = [=](const Arguments& a) { naive_forward(a, o); };
  record.naive_backward = [=](const Arguments& a) { naive_backward(a, o); };
  return record;
}

// What tests of values run on: both types of the CPU, and what the CUDA kernels take where the build has them.
struct Place {
  DType dtype;
  Backend backend;
};
std::vector<Place> places() {
  std::vector<Place> all{{DType::f64, Backend::cpu}, {DType::f32, Backend::cpu}};
  if (kHasCudaBackend) all.insert(all.end(), {{DType::f32, Backend::cuda}, {DType::bf16, Backend::cuda}});
  return all;
}
Run run_on(const OpRecord& record, const Place& place) { return Run(record, place.dtype, {}, place.backend); }

std::vector<double>& input(OpRecord& record, const std::string& name) {
  return std::find_if(record.inputs.begin(), record.inputs.end(), [&](const Input& i) { return i.name == name; })->values;
}

OpRecord golden_record(const GoldenCase& golden) {
  const auto flag = [&](const char* name) { return golden.attributes.at(name) != 0; };
  const bool uniform = flag("uniform");
  OpRecord record = masked_lm_record({.slots = golden.shape("rows")[0],
                                      .vocab = static_cast<int64_t>(golden.attributes.at("vocab_size")),
                                      .cols = uniform ? 1 : golden.shape("word")[1],
                                      .temperature = golden.attributes.at("temperature"),
                                      .disallow_correct = flag("disallow_correct"),
                                      .uniform = uniform,
                                      .keep_logits = !uniform,
                                      .site = static_cast<uint64_t>(golden.attributes.at("site"))});
  for (Input& i : record.inputs) {
    i.shape = golden.shape(i.name);
    i.values = golden.values(i.name);
  }
  record.state.masked_lm_denominator = golden.attributes.at("denominator");
  return record;
}

// How often each id is sampled at `draws` slots with these logits; each slot is a row of its own.
std::vector<double> sample_counts(const std::vector<double>& logits, int64_t draws, Options o, Place place = {DType::f32, Backend::cpu}) {
  o.slots = draws;
  o.vocab = static_cast<int64_t>(logits.size());
  o.cols = 1;
  o.keep_logits = false;
  OpRecord record = masked_lm_record(o);
  const auto n = static_cast<size_t>(draws);
  if (!o.uniform) {
    input(record, "hidden").assign(n, 0);
    input(record, "bias") = logits;
  }
  input(record, "weights").assign(n, 1);
  input(record, "targets").assign(n, 2);
  std::iota(input(record, "rows").begin(), input(record, "rows").end(), 0);
  Run run = run_on(record, place);
  run.forward();
  std::vector<double> counts(logits.size());
  for (const double id : run.values("sampled_ids")) counts[static_cast<size_t>(id)] += 1;
  return counts;
}

double chi_square(const std::vector<double>& counts, const std::vector<double>& probabilities) {
  const double draws = std::accumulate(counts.begin(), counts.end(), 0.0);
  double result = 0;
  for (size_t i = 0; i < counts.size(); ++i)
    if (probabilities[i] > 0) result += std::pow(counts[i] - draws * probabilities[i], 2) / (draws * probabilities[i]);
  return result;
}

std::vector<double> softmax(std::vector<double> x) {
  double total = 0;
  for (double& v : x) total += v = std::exp(v);
  for (double& v : x) v /= total;
  return x;
}

}  // namespace

TEST_CASE("masked_lm: values, samples and gradients of PyTorch, and the float kernel on them") {
  for (const GoldenCase& golden : read_golden("masked_lm")) {
    const OpRecord record = golden_record(golden);
    check_golden(record, golden);
    check_kernel(record);
    check_device(record);
  }
}

TEST_CASE("masked_lm: gradients, modes and determinism of small shapes") {
  check_op(masked_lm_record({}));
  check_op(masked_lm_record({.slots = 3, .vocab = 130, .cols = 8, .temperature = 0.5, .disallow_correct = true}));
  check_op(masked_lm_record({.slots = 1, .vocab = 1, .cols = 1, .uniform = true}));
}

TEST_CASE("masked_lm: the kernel at every edge of a vector, a chunk of ids and a block of slots") {
  for (const int64_t vocab : {2, 15, 16, 17, 63, 64, 65, 511, 512, 513, 1100}) check_kernel(masked_lm_record({.slots = 7, .vocab = vocab, .cols = 9}));
  for (const int64_t slots : {1, 127, 128, 129, 300}) check_kernel(masked_lm_record({.slots = slots, .vocab = 600, .cols = 16}));
  check_kernel(masked_lm_record({.slots = 6, .vocab = 8192, .cols = 64}));
  // More than 16 chunks: a partial gradient of hidden covers two of them.
  check_kernel(masked_lm_record({.slots = 6, .vocab = 9000, .cols = 33, .disallow_correct = true}));
  check_kernel(masked_lm_record({.slots = 40, .vocab = 3000, .uniform = true}));
}

void check_kernels_in(const Options& options, std::vector<DType> types, double ulps = 8) {
  OpRecord record = masked_lm_record(options);
  record.device_dtypes = std::move(types);
  record.ulps = ulps;  // a probability's relative error is its logit's absolute one: roundings of numbers around 10, 2^-21 each
  check_kernel(record);
  check_device(record);
}

// Tiles are 128 slots by 32 ids (128 ids by 32 slots for dword), chunks 512 ids in forward and 2,048 in backward; a stage takes 64
// or 128 columns of width, two of them take turns. Widths that 8 does not divide have no tensor-core form.
TEST_CASE("masked_lm: at every edge of a tile, a chunk and a stage of the CUDA kernels") {
  const std::vector<DType> both{DType::f32, DType::bf16}, tensor_core{DType::bf16};
  for (const int64_t vocab : {2, 31, 33, 65}) check_kernels_in({.slots = 7, .vocab = vocab, .cols = 16}, both);
  for (const int64_t vocab : {127, 128, 129, 513, 1100}) check_kernels_in({.slots = 7, .vocab = vocab, .cols = 16}, tensor_core);
  for (const int64_t slots : {15, 17, 129}) check_kernels_in({.slots = slots, .vocab = 70, .cols = 40}, both);
  for (const int64_t slots : {1, 65, 300}) check_kernels_in({.slots = slots, .vocab = 70, .cols = 40}, tensor_core);
  for (const int64_t cols : {5, 65}) check_kernels_in({.slots = 9, .vocab = 70, .cols = cols}, both);
  for (const int64_t cols : {8, 64, 72, 136, 264}) check_kernels_in({.slots = 70, .vocab = 130, .cols = cols}, tensor_core);
}

TEST_CASE("masked_lm: at real widths, and with more than one part of dhidden on CUDA") {
  check_kernels_in({.slots = 140, .vocab = 530, .cols = 128, .temperature = 0.7, .disallow_correct = true}, {DType::bf16});
  check_kernels_in({.slots = 19, .vocab = 100, .cols = 128}, {DType::f32});
  check_kernels_in({.slots = 6, .vocab = 4200, .cols = 64, .keep_logits = false}, {DType::bf16});
  check_kernels_in({.slots = 5, .vocab = 130, .cols = 768}, {DType::bf16});
  check_kernels_in({.slots = 40, .vocab = 3000, .uniform = true}, {DType::f32});
  check_kernels_in({.slots = 300, .vocab = 7, .disallow_correct = true, .uniform = true}, {DType::f32});
}

TEST_CASE("masked_lm: the same bits with 1, 2 and 4 threads") {
  check_determinism(masked_lm_record({.slots = 140, .vocab = 9000, .cols = 32}));
  check_determinism(masked_lm_record({.slots = 30, .vocab = 2000, .uniform = true}));
}

TEST_CASE("masked_lm: gradients are accumulated over several chunks and blocks") {
  check_grad_modes(masked_lm_record({.slots = 140, .vocab = 1030, .cols = 16, .keep_logits = false}));
}

TEST_CASE("masked_lm: float and double draw the same samples") {
  for (const auto& [temperature, disallow] : {std::pair{1.0, false}, {0.7, true}, {3.0, false}}) {
    const OpRecord record = masked_lm_record({.slots = 100, .vocab = 2000, .cols = 12, .temperature = temperature, .disallow_correct = disallow});
    Run exact(record, DType::f64), fast(record, DType::f32);
    exact.forward();
    fast.forward();
    CHECK(exact.values("sampled_ids") == fast.values("sampled_ids"));
  }
}

TEST_CASE("masked_lm: samples follow the softmax") {
  const std::vector<double> logits{0, 1, -1, 2, 0.5, -2, 1.5, 0, -0.5};
  // 8 degrees of freedom: 26.1 is exceeded once in a thousand, 0.86 undershot as often.
  for (const double temperature : {1.0, 0.5, 2.0}) {
    std::vector<double> scaled = logits;
    for (double& x : scaled) x /= temperature;
    const double statistic = chi_square(sample_counts(logits, 40000, {.temperature = temperature}), softmax(scaled));
    INFO("temperature " << temperature << ": chi-square " << statistic);
    CHECK(statistic < 26.1);
    CHECK(statistic > 0.86);
  }
  // Ids of several chunks: 599 degrees of freedom, mean 599, deviation 35.
  const std::vector<double> flat(600, 0.25);
  const double statistic = chi_square(sample_counts(flat, 30000, {}), std::vector<double>(600, 1.0 / 600));
  INFO("600 ids: chi-square " << statistic);
  CHECK(statistic < 720);
  CHECK(statistic > 490);
}

TEST_CASE("masked_lm: uniform samples are uniform, and a disallowed id is never drawn") {
  const std::vector<double> nothing(70, 0);
  std::vector<double> p(70, 1.0 / 70);
  const double all = chi_square(sample_counts(nothing, 30000, {.uniform = true}), p);  // 69 degrees: mean 69, deviation 12
  INFO("chi-square " << all);
  CHECK(all < 115);
  CHECK(all > 35);
  for (const bool uniform : {true, false}) {
    const std::vector<double> counts = sample_counts(nothing, 30000, {.disallow_correct = true, .uniform = uniform});
    CHECK(counts[2] == 0);
    p.assign(70, 1.0 / 69);
    p[2] = 0;
    CHECK(chi_square(counts, p) < 115);
    if (!kHasCudaBackend) continue;
    const std::vector<double> device_counts =
        sample_counts(nothing, 3000, {.disallow_correct = true, .uniform = uniform}, {DType::f32, Backend::cuda});
    CHECK(device_counts[2] == 0);
    CHECK(chi_square(device_counts, p) < 115);
  }
}

TEST_CASE("masked_lm: samples change with step, seed and sequence, and not with the micro-batch") {
  const OpRecord record = masked_lm_record({.slots = 20, .vocab = 500, .cols = 4});
  const auto samples = [&](auto change) {
    OpRecord changed = record;
    change(changed.state);
    Run run(changed, DType::f32);
    run.forward();
    return run.values("sampled_ids");
  };
  const std::vector<double> first = samples([](StepState&) {});
  CHECK(samples([](StepState&) {}) == first);
  CHECK(samples([](StepState& s) { ++s.step; }) != first);
  CHECK(samples([](StepState& s) { ++s.seed; }) != first);
  CHECK(samples([](StepState& s) { ++s.first_sequence; }) != first);
  CHECK(samples([](StepState& s) { s.masked_lm_denominator = 100; }) == first);

  // The second sequence (rows 20 to 39: slots 10 to 19) as a micro-batch of its own.
  OpRecord tail = record;
  input(tail, "sequence_offsets") = {0, 20, 20};
  for (int64_t i = 0; i < 20; ++i) {
    double& row = input(tail, "rows")[static_cast<size_t>(i)];
    if (i < 10) input(tail, "weights")[static_cast<size_t>(i)] = row = 0;
    else row = std::max(0.0, row - 20);
  }
  tail.state.first_sequence += 1;
  Run run(tail, DType::f32);
  run.forward();
  const std::vector<double> second = run.values("sampled_ids");
  CHECK(std::equal(second.begin() + 10, second.end(), first.begin() + 10));
}

TEST_CASE("masked_lm: each draw of a repeated row is its own") {
  OpRecord record = masked_lm_record({.slots = 12, .vocab = 300, .cols = 8});
  input(record, "hidden").assign(12 * 8, 0.125);
  input(record, "weights").assign(12, 1);
  input(record, "weights")[6] = 0;  // ends a run: the next slot is a first draw again
  input(record, "rows") = {2, 2, 2, 5, 5, 5, 0, 5, 7, 7, 7, 7};
  check_device(record);
  for (const Place& place : places()) {
    Run run = run_on(record, place);
    run.forward();
    const std::vector<double> ids = run.values("sampled_ids");
    CHECK(ids[3] == ids[7]);
    CHECK(std::set<double>{ids[0], ids[1], ids[2]}.size() > 1);
    CHECK(std::set<double>(ids.begin() + 8, ids.end()).size() > 1);
  }
}

TEST_CASE("masked_lm: equal logits: lse is ln V and ties go to the smaller id") {
  OpRecord record = masked_lm_record({.slots = 4, .vocab = 1040, .cols = 8});
  input(record, "word").assign(1040 * 8, 0.5);
  input(record, "bias").assign(1040, 0.25);
  input(record, "targets") = {0, 1, 0, 512};
  input(record, "weights").assign(4, 1);
  for (const Place& place : places()) {
    Run run = run_on(record, place);
    run.forward();
    const std::vector<double> lse = run.values("lse"), sums = run.values("sums"), logits = run.values("logits");
    for (size_t i = 0; i < 4; ++i) CHECK(lse[i] - logits[i * 1040] == Approx(std::log(1040.0)).epsilon(1e-6));
    CHECK(sums[0] == Approx(4 * std::log(1040.0)).epsilon(1e-6));
    CHECK(sums[1] == 2);  // the argmax is id 0
    CHECK(sums[3] == 4);
  }
  // Ids 5, 19, 35 and 600 share the largest logit: lanes and chunks see them in another order.
  for (const int64_t id : {5, 19, 35, 600}) input(record, "bias")[static_cast<size_t>(id)] = 2;
  for (const auto& [targets, right] : {std::pair{std::vector<double>{5, 19, 35, 600}, 1}, {{5, 5, 5, 5}, 4}, {{19, 35, 600, 0}, 0}}) {
    input(record, "targets") = targets;
    for (const Place& place : places()) {
      Run run = run_on(record, place);
      run.forward();
      CHECK(run.values("sums")[1] == right);
    }
  }
}

TEST_CASE("masked_lm: logits of 1e4 and more neither overflow nor make a NaN") {
  for (const int64_t cols : {5, 8}) {
    OpRecord record = masked_lm_record({.slots = 9, .vocab = 700, .cols = cols});
    for (double& h : input(record, "hidden")) h *= 5000;
    check_kernel(record);
    check_device(record);
    Run run(record, DType::f32);
    run.forward();
    const std::vector<double> logits = run.values("logits");
    CHECK(*std::max_element(logits.begin(), logits.end()) > 1e4);
    CHECK(*std::min_element(logits.begin(), logits.end()) < -1e4);
  }
}

TEST_CASE("masked_lm: unused slots read nothing, and without a used slot all is zero") {
  OpRecord record = masked_lm_record({.slots = 10, .vocab = 80, .cols = 8});
  OpRecord wild_record = record, none_record = record;
  for (const int64_t slot : {4, 9})
    for (int64_t c = 0; c < 8; ++c) input(wild_record, "hidden")[static_cast<size_t>(slot * 8 + c)] = 1e38;
  input(none_record, "weights").assign(10, 0);
  for (const Place& place : places()) {
    Run clean = run_on(record, place), wild = run_on(wild_record, place), none = run_on(none_record, place);
    for (Run* run : {&clean, &wild, &none}) {
      run->forward();
      run->backward();
      run->check_memory(true);
    }
    for (const char* name : {"loss", "lse", "sampled_ids", "sums", "dhidden", "dword", "dbias"}) {
      INFO(name);
      CHECK(wild.values(name) == clean.values(name));
      const std::vector<double> v = none.values(name);
      CHECK(std::all_of(v.begin(), v.end(), [](double x) { return x == 0; }));
    }
  }
}

TEST_CASE("masked_lm: a NaN in the logits reaches the loss, and the sample stays an id") {
  for (const int64_t cols : {4, 8}) {
    OpRecord record = masked_lm_record({.slots = 2, .vocab = 100, .cols = cols, .keep_logits = false});
    input(record, "hidden").assign(static_cast<size_t>(2 * cols), NAN);
    for (const Place& place : places()) {
      Run run = run_on(record, place);
      run.forward();
      CHECK(std::isnan(run.values("loss")[0]));
      for (const double id : run.values("sampled_ids")) CHECK((id >= 0 && id < 100));
    }
  }
}

// A slot's two best perturbed logits from given logits, in double; first of all the id that wins.
struct BestTwo {
  int64_t id;
  double margin;
};
BestTwo best_two(const std::vector<double>& logits, int64_t slot, const Options& o, const StepState& state) {
  BestTwo best{0, INFINITY};
  double top = -INFINITY;
  for (int64_t v = 0; v < o.vocab; ++v) {
    const uint32_t draw = philox(state.seed ^ o.site, {state.step, state.first_sequence, static_cast<uint32_t>(slot), static_cast<uint32_t>(v / 4)}).word[v % 4];
    const double z = logits[static_cast<size_t>(slot * o.vocab + v)] / o.temperature - std::log(-std::log(static_cast<double>(uniform_open(draw))));
    if (z > top) best = {v, z - top};
    else best.margin = std::min(best.margin, top - z);
    top = std::max(top, z);
  }
  return best;
}

// The kernels differ in the last bits of logits and noise: the samples may differ where the two best perturbed logits are
// closer than that, and only there. Few such slots are expected, and they are counted.
TEST_CASE("masked_lm: every kernel draws the oracle's samples but for near-ties") {
  for (const auto& [cols, temperature] : {std::pair{16, 1.0}, {128, 0.6}}) {
    const Options o{.slots = 300, .vocab = 1100, .cols = cols, .temperature = temperature};
    OpRecord record = masked_lm_record(o);
    input(record, "weights").assign(300, 1);
    std::iota(input(record, "rows").begin(), input(record, "rows").end(), 0);
    input(record, "sequence_offsets") = {0, 300, 300};
    for (const char* name : {"hidden", "word", "bias"})  // the same numbers for both types
      for (double& x : input(record, name)) x = static_cast<double>(to_float(to_bf16(static_cast<float>(x))));
    Run oracle(record, DType::f64);
    oracle.forward();
    const std::vector<double> expected = oracle.values("sampled_ids"), expected_logits = oracle.values("logits");
    for (const Place& place : places()) {
      if (place.dtype == DType::f64) continue;
      Run run = run_on(record, place);
      run.forward();
      const std::vector<double> samples = run.values("sampled_ids"), logits = run.values("logits");
      // Of the logits 8 fp32 roundings of their size, of the noise (at most 17) two.
      double tolerance = 2 * 17 * 0x1p-24;
      for (const double x : expected_logits) tolerance = std::max(tolerance, (8 * std::abs(x) / temperature + 2 * 17) * 0x1p-24);
      const double apart = largest_residual(logits, expected_logits).error;
      CHECK(apart <= tolerance * temperature);
      int close = 0, different = 0;
      for (int64_t i = 0; i < o.slots; ++i) {
        const BestTwo best = best_two(logits, i, o, record.state);
        const bool is_close = best.margin <= tolerance;
        close += is_close;
        different += samples[static_cast<size_t>(i)] != expected[static_cast<size_t>(i)];
        INFO(name_of(place.dtype) << ", slot " << i << ": margin " << best.margin << ", tolerance " << tolerance);
        if (!is_close) CHECK(samples[static_cast<size_t>(i)] == static_cast<double>(best.id));
        if (!is_close) CHECK(expected[static_cast<size_t>(i)] == static_cast<double>(best.id));
      }
      INFO(name_of(place.dtype) << ": " << different << " samples differ, " << close << " slots are near-ties");
      CHECK(different <= close);
      CHECK(close <= 2);
    }
  }
}

TEST_CASE("masked_lm: bad input is named") {
  OpRecord record = masked_lm_record({.slots = 6, .vocab = 70, .cols = 5});
  const auto with = [&](const std::string& name, auto change, bool backward = false) {
    Run run(record, DType::f32);
    if (backward) run.forward(1);
    change(run.arguments().tensors[name]);
    return error_of<ShapeError>([&] { backward ? run.backward(1) : run.forward(1); });
  };
  const auto reshape = [](const Shape& shape) { return [=](Tensor& t) { t.shape = shape; }; };
  const auto retype = [](DType type) { return [=](Tensor& t) { t.dtype = type; }; };
  CHECK(with("word", reshape({69, 5})) == "[masked_lm] word has shape (69, 5), expected (70, 5)");
  CHECK(with("bias", reshape({5})) == "[masked_lm] bias has shape (5), expected (70)");
  CHECK(with("hidden", reshape({5, 5})) == "[masked_lm] hidden has shape (5, 5), expected (6, 5)");
  CHECK(with("hidden", retype(DType::f64)) == "[masked_lm] hidden has type f64, expected f32");
  CHECK(with("sampled_ids", reshape({5})) == "[masked_lm] sampled_ids has shape (5), expected (6)");
  CHECK(with("weights", retype(DType::f64)) == "[masked_lm] weights has type f64, expected f32");
  CHECK(with("loss", reshape({2})) == "[masked_lm] loss has shape (2), expected (1)");
  CHECK(with("rows", reshape({5})) == "[masked_lm] rows has shape (5), expected (6)");
  CHECK(with("rows", retype(DType::i64)) == "[masked_lm] rows has type i64, expected i32");
  CHECK(with("sequence_offsets", retype(DType::i64)) == "[masked_lm] sequence_offsets has type i64, expected i32");
  CHECK(with("sequence_offsets", reshape({1, 3})) == "[masked_lm] sequence_offsets has shape (1, 3), expected (3)");
  CHECK(with("hidden", [](Tensor& t) { t.data = nullptr; }) == "[masked_lm] hidden has no memory, expected shape (6, 5)");
  CHECK(with("sums", reshape({3})) == "[masked_lm] sums has shape (3), expected (4)");
  CHECK(with("logits", reshape({6, 69})) == "[masked_lm] logits has shape (6, 69), expected (6, 70)");
  CHECK(with("workspace", reshape({8})).find("[masked_lm] workspace has 8 bytes, expected at least ") == 0);
  CHECK(with("dword", reshape({70, 4}), true) == "[masked_lm] dword has shape (70, 4), expected (70, 5)");
  CHECK(with("dbias", retype(DType::f64), true) == "[masked_lm] dbias has type f64, expected f32");
  CHECK(with("dloss", reshape({2}), true) == "[masked_lm] dloss has shape (2), expected (1)");

  const auto with_values = [&](const char* name, const std::vector<double>& values) {
    Run run(record, DType::f32);
    run.set(name, values);
    return error_of<DataError>([&] { run.forward(1); });
  };
  CHECK(with_values("sequence_offsets", {1, 6, 12}) == "[masked_lm] expected the first offset to be 0, got 1");
  CHECK(with_values("sequence_offsets", {0, 13, 12}) == "[masked_lm] expected ascending offsets, got 13 before 12");
  CHECK(with_values("rows", {0, 2, 12, 6, 0, 10}) == "[masked_lm] row of slot 2 is 12, expected 0 to 11");
  CHECK(with_values("rows", {-1, 2, 4, 6, 0, 10}) == "[masked_lm] row of slot 0 is -1, expected 0 to 11");
  CHECK(with_values("rows", {0, 2, 4, 6, 99, 10}) == "no error");  // slot 4 has no weight
  for (const bool uniform : {false, true}) {
    Run empty(masked_lm_record({.vocab = 0, .uniform = uniform}), DType::f32);
    CHECK(error_of<ShapeError>([&] { empty.forward(1); }) == "[masked_lm] expected a vocabulary of at least 1, got 0");
  }

  Run run(record, DType::f32);
  run.set("targets", {0, 1, 70, 3, 4, 5});
  CHECK(error_of<DataError>([&] { run.forward(1); }) == "[masked_lm] target of slot 2 is 70, expected 0 to 69");
  CHECK(error_of<DataError>([&] { run.backward(1); }) == "[masked_lm] target of slot 2 is 70, expected 0 to 69");
  run.arguments().state = nullptr;
  CHECK(error_of<ConfigError>([&] { run.forward(1); }) == "[masked_lm] expected a step state, got none");
  const OpRecord cold = masked_lm_record({.temperature = 0});
  Run frozen(cold, DType::f32);
  CHECK(error_of<ConfigError>([&] { frozen.forward(1); }) == "[masked_lm] expected a temperature above 0, got 0.000000");
}

TEST_CASE("masked_lm: bad input of the CUDA kernels is named") {
  if (!kHasCudaBackend) {
    SUCCEED("this build has none");
    return;
  }
  OpRecord record = masked_lm_record({.slots = 6, .vocab = 70, .cols = 8});
  const auto with = [&](const std::string& name, auto change, bool backward = false) {
    Run run = run_on(record, {DType::bf16, Backend::cuda});
    change(run.arguments().tensors[name]);
    return error_of<Error>([&] { backward ? run.backward() : run.forward(); });
  };
  const auto reshape = [](const Shape& shape) { return [=](Tensor& t) { t.shape = shape; }; };
  const auto retype = [](DType type) { return [=](Tensor& t) { t.dtype = type; }; };
  CHECK(with("word", reshape({69, 8})) == "[masked_lm] word has shape (69, 8), expected (70, 8)");
  CHECK(with("word", retype(DType::f32)) == "[masked_lm] word has type f32, expected bf16");
  CHECK(with("loss", retype(DType::bf16)) == "[masked_lm] loss has type bf16, expected f32");
  CHECK(with("lse", reshape({5})) == "[masked_lm] lse has shape (5), expected (6)");
  CHECK(with("logits", retype(DType::bf16)) == "[masked_lm] logits has type bf16, expected f32");
  CHECK(with("targets", retype(DType::i64)) == "[masked_lm] targets has type i64, expected i32");
  CHECK(with("workspace", reshape({8})).find("[masked_lm] workspace has 8 bytes, expected at least ") == 0);
  CHECK(with("dword", retype(DType::bf16), true) == "[masked_lm] dword has type bf16, expected f32");
  CHECK(with("dhidden", retype(DType::f32), true) == "[masked_lm] dhidden has type f32, expected bf16");
  CHECK(with("dbias", reshape({71}), true) == "[masked_lm] dbias has shape (71), expected (70)");
  Run wide = run_on(record, {DType::bf16, Backend::cuda});
  for (const char* name : {"hidden", "word", "bias"}) wide.arguments().tensors[name].dtype = DType::f64;
  CHECK(error_of<ShapeError>([&] { wide.forward(); }) == "[masked_lm] expected f32 or bf16 on this device, got f64");
  Run lost = run_on(record, {DType::bf16, Backend::cuda});
  lost.arguments().state = nullptr;
  CHECK(error_of<ConfigError>([&] { lost.forward(); }) == "[masked_lm] expected a step state, got none");
  Run frozen = run_on(masked_lm_record({.cols = 8, .temperature = 0}), {DType::bf16, Backend::cuda});
  CHECK(error_of<ConfigError>([&] { frozen.forward(); }) == "[masked_lm] expected a temperature above 0, got 0.000000");
}

// What the tiles imply, and little beside it (UsedSlot, weights, state): the operand of a tile's rows comes twice a block, once for each
// stage, that of its columns once. No logits.
TEST_CASE("masked_lm on the device: traffic", traffic_tag()) {
  if constexpr (kGpuBuild == GpuBuild::SIMT) {
    constexpr uint64_t kSlots = 320, kUsed = 256, kVocab = 4096, kCols = 128;
    constexpr uint64_t kHidden = 2 * kUsed * kCols, kWord = 2 * kVocab * kCols, kTiles = kUsed / 128, kChunks = kVocab / 512;
    Run run(masked_lm_record({.slots = kSlots, .vocab = kVocab, .cols = kCols, .keep_logits = false}), DType::bf16, {}, Backend::cuda);
    const simt::Traffic forward = moved([&] { run.forward(); });
    constexpr uint64_t kPartials = 32 * kUsed * kChunks;
    check_near(forward.read_bytes, kTiles * (kWord + 2 * kVocab) + 2 * kChunks * kHidden + kPartials);
    // Also the used slots (24 bytes), what each adds to the sums, lse and sample of every slot, count, sums and loss.
    CHECK(forward.write_bytes == kPartials + (24 + 32) * kUsed + 8 * kSlots + 4 + 32 + 4);
    CHECK(forward.shared_read_conflicts == 0);
    CHECK(forward.shared_write_conflicts == 0);

    const simt::Traffic backward = moved([&] { run.backward(); });
    constexpr uint64_t kSplits = kVocab / 2048, kBlocks = kVocab / 128, kSums = 4 * kSplits * kUsed * kCols;  // partial dhidden
    check_near(backward.read_bytes, kTiles * (kWord + 2 * kVocab) + 2 * kSplits * kHidden + kSums     // dhidden
                                        + 2 * kWord + 2 * kVocab + kBlocks * (kHidden + 12 * kUsed));  // dword: a slot's lse, factor and target
    CHECK(backward.write_bytes == kSums + 2 * kSlots * kCols + 4 * kVocab * (kCols + 1) + 20 * kUsed + 4 * kSlots + 4);
    CHECK(backward.shared_read_conflicts == 0);
    // The four words of a slot's gradient, written one by one, 4 banks apart: 12 cycles a warp, once a tile of columns or block of rows.
    CHECK(backward.shared_write_conflicts == 12 * (kBlocks * kUsed / 32 + kTiles * kSplits * 4));
  }
}

TEST_CASE("masked_lm on the device: a sweep of slots, vocabularies and widths", kDeviceSweep) {
  Random random(15);
  for (int i = 0; i < 30; ++i)
    check_kernels_in({.slots = random.extent(200), .vocab = 63 + random.extent(2000), .cols = 8 * random.extent(20), .disallow_correct = i % 3 == 0},
                     {DType::f32, DType::bf16}, 4 * kSweepUlps);
}
