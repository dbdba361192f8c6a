// The discriminator's head: dense, GELU, one logit a token, sigmoid cross-entropy and metric counts.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <numeric>

#include "kernels/binary_classifier.h"
#include "kernels/core/error.h"
#include "kernels/dispatch.h"
#include "tests/gemm_kinds.h"
#include "tests/traffic.h"
#include "tests/op_test.h"

using namespace electra;
using namespace electra::test;

namespace {

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// Unfused, in float, rounded after every operation.
void naive_forward(const Arguments& a) {
  const int64_t rows = a["x"].rows(), cols = a["x"].cols(), used = a.data<int32_t>("sequence_offsets")[a["sequence_offsets"].size() - 1];
  float loss = 0;
  for (int64_t r = 0; r < rows; ++r) {
    float logit = 0;
    for (int64_t j = 0; r < used && j < cols; ++j) {
      float u = 0;
      for (int64_t c = 0; c < cols; ++c) u += a.data<float>("x")[r * cols + c] * a.data<float>("weight")[j * cols + c];
      u += a.data<float>("bias")[j];
      logit += 0.5f * u * (1 + std::erf(u * 0.70710678f)) * a.data<float>("out_weight")[j];
    }
    if (r < used) {
      logit += *a.data<float>("out_bias");
      loss += std::max(logit, 0.0f) - logit * a.data<float>("labels")[r] + std::log1p(std::exp(-std::abs(logit)));
    }
    a.data<float>("logits")[r] = logit;
  }
  *a.data<double>("loss_sum") = static_cast<double>(loss);
  *a.data<float>("loss") = loss / static_cast<float>(a.state->disc_denominator);
}

void naive_backward(const Arguments& a) {
  const int64_t cols = a["x"].cols(), used = a.data<int32_t>("sequence_offsets")[a["sequence_offsets"].size() - 1];
  for (const char* name : {"dx", "dweight", "dbias", "dout_weight", "dout_bias"}) std::fill_n(a.data<float>(name), a[name].size(), 0.0f);
  for (int64_t r = 0; r < used; ++r) {
    const float error = 1 / (1 + std::exp(-a.data<float>("logits")[r])) - a.data<float>("labels")[r];
    const float g = *a.data<float>("dloss") * error / static_cast<float>(a.state->disc_denominator);
    *a.data<float>("dout_bias") += g;
    for (int64_t j = 0; j < cols; ++j) {
      float u = 0;
      for (int64_t c = 0; c < cols; ++c) u += a.data<float>("x")[r * cols + c] * a.data<float>("weight")[j * cols + c];
      u += a.data<float>("bias")[j];
      const float cdf = 0.5f * (1 + std::erf(u * 0.70710678f)), density = 0.39894228f * std::exp(-0.5f * u * u);
      const float du = g * a.data<float>("out_weight")[j] * (cdf + u * density);
      a.data<float>("dout_weight")[j] += g * u * cdf;
      a.data<float>("dbias")[j] += du;
      for (int64_t c = 0; c < cols; ++c) {
        a.data<float>("dx")[r * cols + c] += du * a.data<float>("weight")[j * cols + c];
        a.data<float>("dweight")[j * cols + c] += du * a.data<float>("x")[r * cols + c];
      }
    }
  }
}

OpRecord head_record(int64_t rows, int64_t cols, const std::vector<double>& offsets) {
  OpRecord record{.name = "binary_classifier (" + std::to_string(rows) + ", " + std::to_string(cols) + ")"};
  Random random(static_cast<uint64_t>(rows * 4096 + cols));
  const double scale = 1 / std::sqrt(static_cast<double>(cols));
  record.inputs = {{"x", {rows, cols}, random.normals(rows * cols)},
                   {"weight", {cols, cols}, random.normals(cols * cols, scale)},
                   {"bias", {cols}, random.normals(cols, 0.2)},
                   {"out_weight", {1, cols}, random.normals(cols, 2 * scale)},
                   {"out_bias", {1}, random.normals(1)},
                   {"labels", {rows}, random.integers(rows, 2), DType::f32},
                   {"sequence_offsets", {static_cast<int64_t>(offsets.size())}, offsets, DType::i32}};
  record.results = {{.name = "loss", .shape = {1}, .statistic = true},
                    {"loss_sum", {1}, false, DType::f64},
                    {.name = "logits", .shape = {rows}, .cotangent = false, .statistic = true},
                    {"counts", {kBinaryCountsSize}, false, DType::i64, Compare::skip}};
  record.gradients = {{"x"},
                      {.of = "weight", .parameter = true},
                      {.of = "bias", .parameter = true},
                      {.of = "out_weight", .parameter = true},
                      {.of = "out_bias", .parameter = true}};
  record.state = {.disc_denominator = std::max(1.0, offsets.back())};
  record.workspace = [rows, cols](DType dtype, Backend backend) {
    return dispatch(backend, [&]<Backend B>() { return binary_classifier_workspace<B>(rows, cols, 4, dtype); });
  };
  record.forward = [](const Arguments& a, Stream& stream) {
    dispatch(stream, [&]<Backend B>() {
      binary_classifier_forward<B>({.x = a["x"], .weight = a["weight"], .bias = a["bias"], .out_weight = a["out_weight"],
                                    .out_bias = a["out_bias"], .labels = a["labels"], .sequence_offsets = a["sequence_offsets"],
                                    .loss = a["loss"], .loss_sum = a["loss_sum"], .logits = a["logits"], .counts = a["counts"],
                                    .workspace = a["workspace"], .state = a.state},
                                   stream);
    });
  };
  record.backward = [](const Arguments& a, Stream& stream) {
    dispatch(stream, [&]<Backend B>() {
      binary_classifier_backward<B>(
          {.x = a["x"], .weight = a["weight"], .bias = a["bias"], .out_weight = a["out_weight"], .labels = a["labels"],
           .sequence_offsets = a["sequence_offsets"], .logits = a["logits"], .dloss = a["dloss"], .dx = a["dx"], .dweight = a["dweight"],
           .dbias = a["dbias"], .dout_weight = a["dout_weight"], .dout_bias = a["dout_bias"], .dx_mode = a.mode("dx"),
           .dweight_mode = a.mode("dweight"), .dbias_mode = a.mode("dbias"), .dout_weight_mode = a.mode("dout_weight"),
           .dout_bias_mode = a.mode("dout_bias"), .workspace = a["workspace"], .state = a.state},
          stream);
    });
  };
  record.naive_forward = naive_forward;
  record.naive_backward = naive_backward;
  return record;
}

void check_on_device(int64_t rows, int64_t cols, const std::vector<double>& offsets, double ulps = 2) {
  OpRecord record = head_record(rows, cols, offsets);
  record.ulps = ulps;
  record.device_dtypes = {DType::f32, DType::bf16};
  check_device_with_every_gemm(record);
}

// A head whose logits are given.
OpRecord record_of_logits(const std::vector<double>& logits, const std::vector<double>& labels) {
  const auto rows = static_cast<int64_t>(logits.size());
  OpRecord record = head_record(rows, 1, {0, static_cast<double>(rows)});
  std::vector<double> x(logits.size());
  // logit = GELU(x) − 20000, and GELU is the identity for x ≥ 30.
  for (size_t i = 0; i < logits.size(); ++i) x[i] = logits[i] + 20000;
  record.inputs[0].values = x;
  record.inputs[1].values = {1};
  record.inputs[2].values = {0};
  record.inputs[3].values = {1};
  record.inputs[4].values = {-20000};
  record.inputs[5].values = labels;
  return record;
}

}  // namespace

TEST_CASE("binary_classifier: the oracle against another implementation") {
  for (const GoldenCase& golden : read_golden("binary_classifier")) {
    const Shape shape = golden.shape("x");
    OpRecord record = head_record(shape.rows(), shape[-1], golden.values("sequence_offsets"));
    for (Input& input : record.inputs) input.values = golden.values(input.name);
    record.state.disc_denominator = golden.attributes.at("denominator");
    check_golden(record, golden);
    Run run(record, DType::f64);
    run.forward();
    CHECK(run.values("counts") == golden.values("counts"));
  }
}

TEST_CASE("binary_classifier: gradients, kernel, modes, determinism") {
  check_op(head_record(7, 5, {0, 3, 3, 7}));
  check_op(head_record(9, 16, {0, 4, 6}));  // three unused rows
  check_op(head_record(33, 33, {0, 33}));
}

TEST_CASE("binary_classifier: widths and numbers of rows") {
  for (const int64_t cols : {1, 7, 8, 9, 15, 16, 17, 31, 63, 64, 65, 129}) {
    check_kernel(head_record(5, cols, {0, 5}));
    check_determinism(head_record(5, cols, {0, 5}));
  }
  for (const int64_t rows : {1, 127, 128, 129, 300}) {
    check_kernel(head_record(rows, 24, {0, static_cast<double>(rows)}));
    check_grad_modes(head_record(rows, 24, {0, static_cast<double>(rows)}));
    check_determinism(head_record(rows, 24, {0, static_cast<double>(rows)}));
  }
}

TEST_CASE("binary_classifier: the sizes of ELECTRA") {
  check_kernel(head_record(140, 256, {0, 128, 137}));
  for (const int64_t cols : {768, 1024}) {
    OpRecord record = head_record(5, cols, {0, 5});
    record.ulps = 8;  // dout_bias is the sum of five gradients of either sign: 1/20 of the largest, whose ulp counts
    check_kernel(record);
  }
}

TEST_CASE("binary_classifier on the device: widths and numbers of rows", kOnDevice) {
  check_on_device(1, 1, {0, 1});
  check_on_device(7, 5, {0, 3, 3, 7});
  check_on_device(33, 33, {0, 33});
  check_on_device(9, 16, {0, 4, 6});       // three unused rows
  check_on_device(200, 40, {0, 70, 130});  // and a whole block of them
  check_on_device(64, 64, {0, 64});
  check_on_device(129, 136, {0, 128, 129});
  check_on_device(5, 24, {0, 0, 0});
}

TEST_CASE("binary_classifier on the device: the ring wraps twice, with tiles side by side", kOnDevice) {
  check_on_device(70, 264, {0, 33, 69});
}

TEST_CASE("binary_classifier on the device: widths of ELECTRA", kOnDevice) {
  check_on_device(70, 256, {0, 33, 68});
  for (const int64_t cols : {768, 1024}) {
    OpRecord record = head_record(3, cols, {0, 3});
    record.device_dtypes = {DType::bf16};
    check_device(record);
  }
}

// x once for each tile across and W once for each block of rows, and little beside them; no bank conflicts.
TEST_CASE("binary_classifier on the device: traffic", traffic_tag()) {
  if constexpr (kGpuBuild == GpuBuild::SIMT) {
    constexpr uint64_t kRows = 192, kCols = 256, kTiling = 2 * (kRows * kCols * (kCols / 128) + kCols * kCols * (kRows / 64));
    Run run(head_record(kRows, kCols, {0, kRows}), DType::bf16,
            {{"dx", GradMode::none}, {"dweight", GradMode::none}}, Backend::cuda);
    const auto check = [](const simt::Traffic& traffic, uint64_t reads, uint64_t writes) {
      check_near(traffic.read_bytes, reads);
      CHECK(traffic.write_bytes == writes);
      CHECK(traffic.shared_read_conflicts == 0);
    };
    const simt::Traffic forward = moved([&] { run.forward(); });
    constexpr uint64_t kBlocks = kRows / 64;
    check(forward, kTiling, 4 * kRows + 8 * kBlocks + 8 + 4);  // logits, the blocks' losses, loss_sum, loss
    CHECK(forward.shared_write_conflicts == 0);
    const uint64_t partial = 4 * (2 * kCols + 1) * kBlocks;
    check(moved([&] { run.backward(); }), kTiling + partial, 2 * kRows * kCols + partial + 4 * (2 * kCols + 1));
  }
}

TEST_CASE("binary_classifier on the device: wrong tensors are named", kOnDevice) {
  if constexpr (kHasCudaBackend) {
    const OpRecord record = head_record(6, 8, {0, 6});
    const auto error = [&](const char* name, const Shape& shape, DType dtype) {
      return refusal(record, {DType::bf16, Backend::cuda}, name, shape, dtype);
    };
    CHECK(error("weight", {8, 7}, DType::bf16) == "[binary_classifier] weight has shape (8, 7), expected (8, 8)");
    CHECK(error("out_bias", {1}, DType::f32) == "[binary_classifier] out_bias has type f32, expected bf16");
    CHECK(error("labels", {6}, DType::bf16) == "[binary_classifier] labels has type bf16, expected f32");
    CHECK(error("logits", {6}, DType::bf16) == "[binary_classifier] logits has type bf16, expected f32");
    CHECK(error("loss", {1}, DType::bf16) == "[binary_classifier] loss has type bf16, expected f32");
    CHECK(error("counts", {5}, DType::i64) == "[binary_classifier] counts has shape (5), expected (2053)");
    CHECK(error("sequence_offsets", {2}, DType::i64) == "[binary_classifier] sequence_offsets has type i64, expected i32");
    CHECK(error("dweight", {8, 8}, DType::bf16) == "[binary_classifier] dweight has type bf16, expected f32");
    CHECK(error("dx", {6, 7}, DType::bf16) == "[binary_classifier] dx has shape (6, 7), expected (6, 8)");
    CHECK(error("workspace", {64}, DType::u8).starts_with("[binary_classifier] workspace has 64 bytes, expected at least "));
    Run stateless(record, DType::bf16, {}, Backend::cuda);
    stateless.arguments().state = nullptr;
    CHECK(error_of<ConfigError>([&] { stateless.forward(); }) == "[binary_classifier] expected a step state, got none");
  }
}

// Against the definition, from the device's own logits: what the executor and the CPU may count differently is the logits alone.
TEST_CASE("binary_classifier on the device: counts and histograms", kOnDevice) {
  if constexpr (kHasCudaBackend)
    for (const DType dtype : {DType::f32, DType::bf16})
      for (const int64_t used : {0, 1, 150, 163}) {
        const OpRecord record = head_record(163, 16, {0, static_cast<double>(used)});
        Run run(record, dtype, {}, Backend::cuda);
        run.forward();
        run.forward();  // counts begin at zero each time
        const std::vector<double> logits = run.values("logits"), labels = run.values("labels");
        std::vector<double> expected(static_cast<size_t>(kBinaryCountsSize), 0.0);
        for (size_t i = 0; i < static_cast<size_t>(used); ++i) {
          const bool label = labels[i] == 1, predicted = logits[i] > 0;
          expected[0] += 1;
          expected[1] += label;
          expected[2] += label == predicted;
          expected[3] += predicted;
          expected[4] += label && predicted;
          expected[static_cast<size_t>(kBinaryCounts + (label ? kProbabilityBins : 0)) + static_cast<size_t>(sigmoid(logits[i]) * 1024)] += 1;
        }
        CHECK(run.values("counts") == expected);
        CHECK(expected[0] == used);
      }
}

TEST_CASE("binary_classifier on the device: large logits neither overflow nor lose their gradient", kOnDevice) {
  if constexpr (kHasCudaBackend) {
    Run run(record_of_logits({1e4, -1e4, 1e4, -1e4}, {0, 1, 1, 0}), DType::f32, {}, Backend::cuda);
    run.set("dloss", {1});
    run.forward();
    run.backward();
    run.check_memory(true);
    CHECK(run.values("loss_sum")[0] == 2e4);
    CHECK(run.values("dx") == std::vector<double>{0.25, -0.25, 0, 0});
    CHECK(run.values("dout_bias")[0] == 0);
    const std::vector<double> counts = run.values("counts");
    CHECK(counts[2] == 2);
    CHECK(counts[kBinaryCounts + 1023] == 1);  // label 0, probability 1: in the last bin
  }
}

TEST_CASE("binary_classifier: rows beyond the last offset give nothing and get nothing") {
  for (const DType dtype : {DType::f64, DType::f32}) {
    const OpRecord record = head_record(9, 16, {0, 4, 6}), empty = head_record(9, 16, {0, 0});
    Run run(record, dtype), none(empty, dtype);
    for (Run* r : {&run, &none}) {
      r->forward();
      r->backward();
      r->check_memory(true);
    }
    const std::vector<double> logits = run.values("logits"), dx = run.values("dx");
    CHECK(std::all_of(logits.begin() + 6, logits.end(), [](double v) { return v == 0; }));
    CHECK(std::all_of(dx.begin() + 6 * 16, dx.end(), [](double v) { return v == 0; }));
    CHECK(std::none_of(logits.begin(), logits.begin() + 6, [](double v) { return v == 0; }));
    CHECK(run.values("counts")[0] == 6);
    CHECK(none.values("loss")[0] == 0);
    CHECK(none.values("counts") == std::vector<double>(static_cast<size_t>(kBinaryCountsSize), 0.0));
    for (const char* name : {"dx", "dweight", "dbias", "dout_weight", "dout_bias"})
      CHECK(largest_residual(none.values(name), std::vector<double>(none.values(name).size(), 0.0)).error == 0);
  }
}

// Capacity beyond the last offset is nobody's: in poison mode it may be NaN, and 0 · NaN is not 0.
TEST_CASE("binary_classifier: what rows beyond the last offset hold reaches no gradient") {
  for (const DType dtype : {DType::f64, DType::f32})
    for (const GradMode mode : {GradMode::write, GradMode::accumulate}) {
      std::vector<std::vector<double>> results;
      for (const double beyond : {0.5, static_cast<double>(NAN)}) {
        OpRecord record = head_record(140, 16, {0, 4, 131});
        std::fill(record.inputs[0].values.begin() + 131 * 16, record.inputs[0].values.end(), beyond);
        std::fill(record.inputs[5].values.begin() + 131, record.inputs[5].values.end(), beyond);
        Run run(record, dtype, {{"dx", mode}, {"dweight", mode}, {"dbias", mode}, {"dout_weight", mode}, {"dout_bias", mode}});
        for (const char* name : {"dx", "dweight", "dbias", "dout_weight", "dout_bias"})
          run.set(name, std::vector<double>(run.values(name).size(), 7));
        run.forward();
        run.backward();
        const std::vector<double> dx = run.values("dx");
        CHECK(std::all_of(dx.begin() + 131 * 16, dx.end(), [&](double d) { return d == (mode == GradMode::write ? 0 : 7); }));
        std::vector<double>& all = results.emplace_back();
        for (const char* name : {"loss", "logits", "dx", "dweight", "dbias", "dout_weight", "dout_bias"}) {
          const std::vector<double> v = run.values(name);
          all.insert(all.end(), v.begin(), v.end());
        }
      }
      CHECK(results[0] == results[1]);
    }
}

TEST_CASE("binary_classifier: a label is 1 above a half, in the loss and in its gradient") {
  for (const DType dtype : {DType::f64, DType::f32}) {
    OpRecord sharp = head_record(4, 8, {0, 4}), soft = sharp;
    sharp.inputs[5].values = {1, 0, 0, 1};
    soft.inputs[5].values = {0.75, 0.5, 0.25, 2};
    Run a(sharp, dtype), b(soft, dtype);
    for (Run* run : {&a, &b}) {
      run->forward();
      run->backward();
    }
    for (const char* name : {"loss", "counts", "dx", "dweight", "dout_bias"}) CHECK(a.values(name) == b.values(name));
  }
}

TEST_CASE("binary_classifier: a row's logit depends on no other row") {
  OpRecord record = head_record(129, 24, {0, 129});
  Run run(record, DType::f32);
  run.forward();
  const double before = run.values("logits")[128];
  for (size_t i = 0; i < 128 * 24; ++i) record.inputs[0].values[i] *= -1;
  Run other(record, DType::f32);
  other.forward();
  CHECK(other.values("logits")[128] == before);
  CHECK(other.values("logits")[0] != run.values("logits")[0]);
}

TEST_CASE("binary_classifier: counts and histograms") {
  const std::vector<double> logits{2, -1, 0, 3, -4, 0.5, -0.25, 20, -20, 9}, labels{1, 1, 1, 0, 0, 0, 1, 1, 0, 1};
  for (const DType dtype : {DType::f64, DType::f32}) {
    OpRecord record = record_of_logits(logits, labels);
    Run run(record, dtype);
    run.forward();
    run.check_memory(false);
    const std::vector<double> got = run.values("logits"), counts = run.values("counts");
    std::vector<double> expected(static_cast<size_t>(kBinaryCountsSize), 0.0);
    for (size_t i = 0; i < logits.size(); ++i) {
      CHECK(got[i] == Approx(logits[i]).margin(0.002));
      const bool label = labels[i] == 1, predicted = got[i] > 0;
      expected[0] += 1;
      expected[1] += label;
      expected[2] += label == predicted;
      expected[3] += predicted;
      expected[4] += label && predicted;
      const auto bin = std::min<int64_t>(kProbabilityBins - 1, static_cast<int64_t>(sigmoid(got[i]) * 1024));
      expected[static_cast<size_t>(kBinaryCounts + (label ? kProbabilityBins : 0) + bin)] += 1;
    }
    CHECK(counts == expected);
    CHECK(counts[0] == 10);
    CHECK(counts[1] == 6);
    CHECK(counts[2] == 5);  // 2, 20 and 9 of the ones, −4 and −20 of the zeros; a logit of 0 predicts 0
    CHECK(counts[3] == 5);
    CHECK(counts[4] == 3);
  }
}

TEST_CASE("binary_classifier: large logits neither overflow nor lose their gradient") {
  for (const DType dtype : {DType::f64, DType::f32}) {
    OpRecord record = record_of_logits({1e4, -1e4, 1e4, -1e4}, {0, 1, 1, 0});
    Run run(record, dtype);
    run.set("dloss", {1});
    run.forward();
    run.backward();
    run.check_memory(true);
    CHECK(run.values("loss_sum")[0] == 2e4);
    CHECK(run.values("loss")[0] == 5000);
    // dlogit is (σ − label) / 4: 1/4, −1/4, 0, 0, and GELU's slope there is 1.
    CHECK(run.values("dx") == std::vector<double>{0.25, -0.25, 0, 0});
    CHECK(run.values("dout_bias")[0] == 0);
    CHECK(run.values("counts")[2] == 2);
  }
}

TEST_CASE("binary_classifier: the loss of a micro-batch is its share of the step's") {
  OpRecord record = head_record(7, 5, {0, 7});
  Run whole(record, DType::f64);
  whole.forward();
  record.state.disc_denominator = 28;
  Run share(record, DType::f64);
  share.forward();
  CHECK(share.values("loss")[0] == Approx(whole.values("loss")[0] / 4).epsilon(1e-15));
  CHECK(share.values("loss_sum") == whole.values("loss_sum"));
  CHECK(share.values("loss_sum")[0] == Approx(whole.values("loss")[0] * 7).epsilon(1e-15));
}

TEST_CASE("binary_classifier: wrong tensors are named") {
  const OpRecord record = head_record(6, 4, {0, 6});
  const auto forward_message = [&](const char* name, auto change) {
    Run run(record, DType::f32);
    change(run.arguments().tensors[name]);
    try {
      run.forward();
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("none");
  };
  const auto shape = [](const Shape& s) { return [s](Tensor& t) { t.shape = s; }; };
  const auto type = [](DType d) { return [d](Tensor& t) { t.dtype = d; }; };
  CHECK(forward_message("x", [](Tensor&) {}) == "none");
  CHECK(forward_message("weight", shape({4, 3})) == "[binary_classifier] weight has shape (4, 3), expected (4, 4)");
  CHECK(forward_message("bias", shape({5})) == "[binary_classifier] bias has shape (5), expected (4)");
  CHECK(forward_message("out_weight", shape({4})) == "[binary_classifier] out_weight has shape (4), expected (1, 4)");
  CHECK(forward_message("out_bias", shape({2})) == "[binary_classifier] out_bias has shape (2), expected (1)");
  CHECK(forward_message("labels", shape({7})) == "[binary_classifier] labels has shape (7), expected (6)");
  CHECK(forward_message("labels", type(DType::i32)) == "[binary_classifier] labels has type i32, expected f32");
  CHECK(forward_message("weight", type(DType::f64)) == "[binary_classifier] weight has type f64, expected f32");
  CHECK(forward_message("loss_sum", type(DType::f32)) == "[binary_classifier] loss_sum has type f32, expected f64");
  CHECK(forward_message("counts", shape({5})) == "[binary_classifier] counts has shape (5), expected (2053)");
  CHECK(forward_message("sequence_offsets", [](Tensor& t) { t.as<int32_t>()[1] = 7; }) ==
        "[binary_classifier] the last offset is 7, expected at most 6");
  CHECK(forward_message("workspace", shape({64})).starts_with("[binary_classifier] workspace has 64 bytes, expected at least "));

  Run run(record, DType::f32);
  run.forward();
  run.arguments().tensors["dx"].shape = {6, 5};
  CHECK_THROWS_WITH(run.backward(), "[binary_classifier] dx has shape (6, 5), expected (6, 4)");
  run.arguments().tensors["dx"].shape = {6, 4};
  run.arguments().tensors["dout_bias"].dtype = DType::f64;
  CHECK_THROWS_WITH(run.backward(), "[binary_classifier] dout_bias has type f64, expected f32");
}

// dout_bias is one sum of numbers of either sign, which may leave little.
TEST_CASE("binary_classifier on the device: a sweep of rows and widths", kDeviceSweep) {
  Random random(16);
  for (int i = 0; i < 80; ++i) {
    const int64_t rows = random.extent(300);
    check_on_device(rows, random.extent(270), {0, static_cast<double>(rows / 3), static_cast<double>(rows - (i % 4 == 0 ? rows / 4 : 0))}, 4 * kSweepUlps);
  }
}
