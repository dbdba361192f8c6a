// dropout(x) + residual and LayerNorm.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>

#include "kernels/core/error.h"
#include "kernels/dispatch.h"
#include "kernels/layer_norm.h"
#include "tests/op_test.h"
#include "tests/row_dropout.h"
#include "tests/traffic.h"

using namespace electra;
using namespace electra::test;

namespace {

struct Options {
  int64_t rows = 3, cols = 16;
  bool residual = false;
  double drop_p = 0;
  std::vector<double> offsets = {0};  // of sequences; rows beyond the last are unused capacity
  double eps = 1e-12;
};

// The unfused form: dropout, sum, mean, variance, scale, each rounded to float.
void naive_forward(const Arguments& a, const Options& o, const Dropout& dropout) {
  const float *x = a.data<float>("x"), *residual = a.data<float>("residual");
  for (int64_t r = 0; r < o.rows; ++r) {
    std::vector<float> sum(static_cast<size_t>(o.cols));
    float total = 0, squares = 0;
    for (int64_t c = 0; c < o.cols; ++c) {
      float& s = sum[static_cast<size_t>(c)];
      s = x[r * o.cols + c] * static_cast<float>(row_keep_factor(dropout, *a.state, o.offsets, r, c));
      if (residual) s += residual[r * o.cols + c];
      if (a["sum"]) a.data<float>("sum")[r * o.cols + c] = s;
      total += s;
    }
    const float mean = total / static_cast<float>(o.cols);
    for (const float s : sum) squares += (s - mean) * (s - mean);
    const float rstd = 1 / std::sqrt(squares / static_cast<float>(o.cols) + static_cast<float>(o.eps));
    a.data<float>("mean")[r] = mean;
    a.data<float>("rstd")[r] = rstd;
    for (int64_t c = 0; c < o.cols; ++c)
      a.data<float>("y")[r * o.cols + c] =
          (sum[static_cast<size_t>(c)] - mean) * rstd * a.data<float>("gamma")[c] + a.data<float>("beta")[c];
  }
}

void naive_backward(const Arguments& a, const Options& o, const Dropout& dropout) {
  const float *sum = a["sum"] ? a.data<float>("sum") : a.data<float>("x"), *dy = a.data<float>("dy");
  float *dgamma = a.data<float>("dgamma"), *dbeta = a.data<float>("dbeta");
  std::fill_n(dgamma, o.cols, 0.0f);
  std::fill_n(dbeta, o.cols, 0.0f);
  for (int64_t r = 0; r < o.rows; ++r) {
    const float mean = a.data<float>("mean")[r], rstd = a.data<float>("rstd")[r];
    float average = 0, average_xhat = 0;
    for (int64_t c = 0; c < o.cols; ++c) {
      const float dn = dy[r * o.cols + c] * a.data<float>("gamma")[c], xhat = (sum[r * o.cols + c] - mean) * rstd;
      average += dn;
      average_xhat += dn * xhat;
      dgamma[c] += dy[r * o.cols + c] * xhat;
      dbeta[c] += dy[r * o.cols + c];
    }
    average /= static_cast<float>(o.cols);
    average_xhat /= static_cast<float>(o.cols);
    for (int64_t c = 0; c < o.cols; ++c) {
      const float dn = dy[r * o.cols + c] * a.data<float>("gamma")[c], xhat = (sum[r * o.cols + c] - mean) * rstd;
      const float d = rstd * (dn - average - xhat * average_xhat);
      if (o.residual) a.data<float>("dresidual")[r * o.cols + c] = d;
      a.data<float>("dx")[r * o.cols + c] = d * static_cast<float>(row_keep_factor(dropout, *a.state, o.offsets, r, c));
    }
  }
}

OpRecord record_of(const Options& o) {
  const Dropout dropout{.drop_p = o.drop_p, .site = fnv1a64("test/layer_norm")};
  OpRecord record{.name = "layer_norm (" + std::to_string(o.rows) + ", " + std::to_string(o.cols) + ")" +
                          (o.residual ? " + residual" : "") + (o.drop_p > 0 ? " + dropout" : "")};
  const Shape shape{o.rows, o.cols};
  record.inputs = {{"x", shape, Random(1).normals(shape.size(), 2, 0.5)},
                   {"gamma", {o.cols}, Random(2).normals(o.cols, 0.5, 1)},
                   {"beta", {o.cols}, Random(3).normals(o.cols, 0.5)},
                   {"sequence_offsets", {static_cast<int64_t>(o.offsets.size())}, o.offsets, DType::i32}};
  record.results = {{"y", shape},
                    {.name = "mean", .shape = {o.rows}, .cotangent = false, .statistic = true, .of_rounded = true},
                    {.name = "rstd", .shape = {o.rows}, .cotangent = false, .statistic = true, .of_rounded = true}};
  record.gradients = {{"x"}, {.of = "gamma", .parameter = true}, {.of = "beta", .parameter = true}};
  record.device_dtypes = {DType::f32, DType::bf16};
  if (o.residual) {
    record.inputs.push_back({"residual", shape, Random(4).normals(shape.size(), 1.5)});
    record.gradients.push_back({"residual"});
  }
  if (o.residual || o.drop_p > 0) record.results.push_back({"sum", shape, false});
  record.workspace = [o](DType dtype, Backend backend) {
    return dispatch(backend, [&]<Backend B>() { return layer_norm_backward_workspace<B>(o.rows, o.cols, dtype); });
  };
  record.forward = [o, dropout](const Arguments& a, Stream& stream) {
    dispatch(stream, [&]<Backend B>() {
      layer_norm_forward<B>({.x = a["x"], .residual = a["residual"], .gamma = a["gamma"], .beta = a["beta"],
                             .sequence_offsets = a["sequence_offsets"], .y = a["y"], .sum = a["sum"], .mean = a["mean"],
                             .rstd = a["rstd"], .eps = o.eps, .dropout = dropout, .state = a.state},
                            stream);
    });
  };
  record.backward = [dropout](const Arguments& a, Stream& stream) {
    dispatch(stream, [&]<Backend B>() {
      layer_norm_backward<B>(
          {.sum = a["sum"] ? a["sum"] : a["x"], .gamma = a["gamma"], .mean = a["mean"], .rstd = a["rstd"], .dy = a["dy"],
           .sequence_offsets = a["sequence_offsets"], .dx = a["dx"], .dresidual = a["dresidual"], .dgamma = a["dgamma"],
           .dbeta = a["dbeta"], .dx_mode = a.mode("dx"), .dresidual_mode = a.mode("dresidual"),
           .dgamma_mode = a.mode("dgamma"), .dbeta_mode = a.mode("dbeta"), .workspace = a["workspace"], .dropout = dropout,
           .state = a.state},
          stream);
    });
  };
  record.naive_forward = [o, dropout](const Arguments& a) { naive_forward(a, o, dropout); };
  record.naive_backward = [o, dropout](const Arguments& a) { naive_backward(a, o, dropout); };
  return record;
}

}  // namespace

TEST_CASE("layer_norm agrees with PyTorch") {
  for (const GoldenCase& golden : read_golden("layer_norm")) {
    const Shape shape = golden.shape("x");
    OpRecord record = record_of({.rows = shape.rows(), .cols = shape[-1], .residual = golden.tensors.contains("residual"),
                                 .drop_p = golden.attributes.at("drop_p"), .offsets = golden.values("sequence_offsets"),
                                 .eps = golden.attributes.at("eps")});
    record.state = {.seed = 20200323, .step = 11, .first_sequence = 5};
    for (Input& input : record.inputs) input.values = golden.values(input.name);
    check_golden(record, golden);
  }
}

TEST_CASE("layer_norm: every form") {
  const std::vector<double> offsets{0, 4, 5, 5, 9};
  for (const bool residual : {false, true})
    for (const double drop_p : {0.0, 0.3})
      check_op(record_of({.rows = 11, .cols = 40, .residual = residual, .drop_p = drop_p, .offsets = offsets}));
}

TEST_CASE("layer_norm: widths and numbers of rows") {
  for (const int64_t cols : {3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 127, 128, 129, 257})
    check_op(record_of({.rows = 5, .cols = cols, .residual = true, .drop_p = 0.1, .offsets = {0, 2, 5}}));
  for (const int64_t rows : {1, 63, 64, 65, 129})
    check_op(record_of({.rows = rows, .cols = 20, .residual = true, .drop_p = 0.1, .offsets = {0, static_cast<double>(rows)}}));
  for (const int64_t cols : {256, 768, 1024}) {
    check_kernel(record_of({.rows = 130, .cols = cols, .residual = true, .drop_p = 0.1, .offsets = {0, 64, 128}}));
    check_device(record_of({.rows = 20, .cols = cols, .residual = true, .drop_p = 0.1, .offsets = {0, 9, 18}}));
  }
}

// The device's kernels have a layout for each range of widths, to 8,192 columns.
TEST_CASE("layer_norm: widths where the device's layouts change") {
  for (const int64_t cols : {56, 72, 120, 136, 248, 255, 264, 512, 520, 776, 1023, 1025, 1032, 8192}) {
    const OpRecord record = record_of({.rows = 9, .cols = cols, .residual = true, .drop_p = 0.1, .offsets = {0, 3, 8}});
    check_kernel(record);
    check_device(record);
  }
}

// Backward's blocks stay and go over the rows: each three times here.
TEST_CASE("layer_norm: more rows than the device's blocks take at a time") {
  OpRecord wide = record_of({.rows = 270, .cols = 1032, .drop_p = 0.1, .offsets = {0, 269}}), odd = record_of({.rows = 2120, .cols = 257});
  wide.device_dtypes = {DType::f32};
  odd.device_dtypes = {DType::bf16};
  for (const OpRecord& record : {wide, odd}) {
    check_kernel(record);
    check_device(record);
  }
}

// Between layers the gradient of a sum goes to both its operands, which may be one tensor; buffers are reused in place.
TEST_CASE("layer_norm: backward in place") {
  const OpRecord record = record_of({.rows = 20, .cols = 136, .residual = true, .drop_p = 0.2, .offsets = {0, 20}});
  const OpRecord odd = record_of({.rows = 20, .cols = 131, .residual = true, .drop_p = 0.2, .offsets = {0, 20}});
  for (const OpRecord& r : {record, odd})
    for (const Execution& e : executions(r)) {
      if (e.backend == Backend::cpu && e.dtype == DType::f64) continue;  // the oracle reads dy while it writes
      INFO(r.name << ", " << name_of(e));
      Run apart(r, e.dtype, {}, e.backend), in_place(r, e.dtype, {}, e.backend);
      apart.forward();
      apart.backward();
      in_place.forward();
      if (e.backend == Backend::cuda) {
        in_place.arguments().tensors["dx"] = in_place.arguments()["dy"];
        in_place.backward();
        CHECK(in_place.bytes("dy") == apart.bytes("dx"));
        CHECK(in_place.bytes("dresidual") == apart.bytes("dresidual"));
        CHECK(in_place.bytes("dgamma") == apart.bytes("dgamma"));
      }
      Run same(r, e.dtype, {{"dresidual", GradMode::accumulate}}, e.backend);
      same.forward();
      same.arguments().tensors["dresidual"] = same.arguments()["dx"];
      same.backward();
      const std::vector<double> dx = apart.values("dx"), dresidual = apart.values("dresidual");
      std::vector<double> sum(dx.size());
      double most = 0;
      for (size_t i = 0; i < sum.size(); ++i) {
        sum[i] = dx[i] + dresidual[i];
        most = std::max(most, std::abs(sum[i]));
      }
      check_close("dx and dresidual in one", same.values("dx"), sum, most * (e.dtype == DType::bf16 ? 0x1p-8 : 0x1p-23));
    }
}

// Without a gradient to speak of: the mean is the row.
TEST_CASE("layer_norm: one column") {
  OpRecord record = record_of({.rows = 4, .cols = 1});
  Run run(record, DType::f32);
  run.forward();
  run.check_memory(false);
  for (int64_t r = 0; r < 4; ++r) CHECK(run.values("y")[static_cast<size_t>(r)] == run.values("beta")[0]);
}

TEST_CASE("layer_norm: constant rows and large values stay finite") {
  for (const double value : {0.0, 1.0, -1e4, 3e18}) {
    OpRecord record = record_of({.rows = 3, .cols = 40});
    record.inputs[0].values.assign(120, value);
    Run run(record, DType::f32);
    run.forward();
    run.backward();
    run.check_memory(true);
    for (const double y : run.values("y")) CHECK(std::isfinite(y));
  }
}

// A mean that is off by an ulp makes y off by rstd times that, and rstd of a constant row is a million.
TEST_CASE("layer_norm: a constant row gives beta exactly") {
  for (const double value : {0.1, 3.3, 100.1, 12345.678, -7.7})
    for (const int64_t cols : {17, 40, 41, 128, 256, 328, 768, 1024})  // 41 times the float next to 1 / 41 is not 1
      for (const bool residual : {false, true})
        for (const Execution& e : executions(record_of({}))) {
          OpRecord record = record_of({.rows = 3, .cols = cols, .residual = residual});
          record.inputs[0].values.assign(static_cast<size_t>(3 * cols), value);
          if (residual) record.inputs.back().values.assign(static_cast<size_t>(3 * cols), 0.7 * value);
          Run run(record, e.dtype, {}, e.backend);
          run.forward();
          run.backward();
          run.check_memory(true);
          INFO(value << " over " << cols << " columns in " << name_of(e) << (residual ? ", with a residual" : ""));
          const std::vector<double> y = run.values("y"), beta = run.values("beta");
          for (int64_t r = 0; r < 3; ++r) {
            CHECK(std::equal(beta.begin(), beta.end(), y.begin() + r * cols));
            CHECK(run.values("rstd")[static_cast<size_t>(r)] == Approx(1e6).epsilon(1e-6));
          }
          for (const double d : run.values("dx")) REQUIRE(std::isfinite(d));
        }
}

// The sum is taken from the first column on: that column far from the others must not cost the mean its digits.
TEST_CASE("layer_norm: a first column far from the others") {
  for (const double outlier : {1e2, 1e4, -3e5})
    for (const int64_t cols : {24, 256, 1024})
      for (const double drop_p : {0.0, 0.1}) {
        OpRecord record = record_of({.rows = 4, .cols = cols, .drop_p = drop_p, .offsets = {0, 4}});
        for (int64_t r = 0; r < 4; ++r) record.inputs[0].values[static_cast<size_t>(r * cols)] = outlier;
        check_kernel(record);
        check_device(record);
      }
}

// One-pass variance (E[x²] − E[x]²) loses every digit here.
TEST_CASE("layer_norm: a mean far larger than the spread") {
  OpRecord record = record_of({.rows = 3, .cols = 64});
  record.inputs[0].values = Random(5).normals(3 * 64, 1, 4096);
  check_kernel(record);
  check_device(record);
}

TEST_CASE("layer_norm: a row does not depend on the others") {
  const OpRecord record = record_of({.rows = 70, .cols = 48, .residual = true, .drop_p = 0.2, .offsets = {0, 70}});
  OpRecord changed = record;
  for (size_t i = 0; i < changed.inputs[0].values.size(); ++i)
    if (i / 48 != 37) changed.inputs[0].values[i] = 9;
  for (const Execution& e : executions(record)) {
    Run whole(record, e.dtype, {}, e.backend), other(changed, e.dtype, {}, e.backend);
    whole.forward();
    other.forward();
    INFO(name_of(e));
    const std::vector<double> y = whole.values("y"), of_other = other.values("y");
    CHECK(std::equal(y.begin() + 37 * 48, y.begin() + 38 * 48, of_other.begin() + 37 * 48));
  }
}

TEST_CASE("layer_norm: NaN shows, in its row alone") {
  OpRecord record = record_of({.rows = 3, .cols = 20});
  record.inputs[0].values[25] = std::nan("");
  for (const Execution& e : executions(record)) {
    Run run(record, e.dtype, {}, e.backend);
    run.forward();
    const std::vector<double> y = run.values("y");
    for (size_t i = 0; i < y.size(); ++i) CHECK(std::isnan(y[i]) == (i / 20 == 1));
  }
}

TEST_CASE("layer_norm: the sum may be absent in evaluation") {
  const OpRecord record = record_of({.rows = 5, .cols = 33, .residual = true});
  for (const Execution& e : executions(record)) {
    Run with(record, e.dtype, {}, e.backend), without(record, e.dtype, {}, e.backend);
    without.arguments().tensors.erase("sum");
    with.forward();
    without.forward();
    CHECK(with.bytes("y") == without.bytes("y"));
  }
}

void check_device_refuses(const OpRecord& record) {
  if constexpr (kHasCudaBackend) {
    const auto error = [&](const char* name, const Shape& shape, DType dtype, int shift = 0) {
      return refusal(record, {DType::bf16, Backend::cuda}, name, shape, dtype, shift);
    };
    CHECK(error("gamma", {15}, DType::bf16) == "[layer_norm] gamma has shape (15), expected (16)");
    CHECK(error("y", {4, 15}, DType::bf16) == "[layer_norm] y has shape (4, 15), expected (4, 16)");
    CHECK(error("mean", {4}, DType::bf16) == "[layer_norm] mean has type bf16, expected f32");
    CHECK(error("sum", {4, 16}, DType::f32) == "[layer_norm] sum has type f32, expected bf16");
    CHECK(error("sequence_offsets", {2}, DType::i64) == "[layer_norm] sequence_offsets has type i64, expected i32");
    CHECK(error("dx", {4, 17}, DType::bf16) == "[layer_norm] dx has shape (4, 17), expected (4, 16)");
    CHECK(error("dgamma", {16}, DType::bf16) == "[layer_norm] dgamma has type bf16, expected f32");
    CHECK(error("dresidual", {4, 16}, DType::bf16, 8) == "[layer_norm] dresidual lies at an address that is no multiple of 16 bytes");
    CHECK(error("workspace", {64}, DType::u8) == "[layer_norm] workspace has 64 bytes, expected at least 256");
    CHECK(error_of<ShapeError>([&] { layer_norm_backward_workspace<Backend::cuda>(4, 8200, DType::f32); }) ==
          "[layer_norm] expected rows of 1 to 8192 columns on this device, got 8200");
    Run stateless(record, DType::f32, {}, Backend::cuda);
    stateless.arguments().state = nullptr;
    CHECK(error_of<ConfigError>([&] { stateless.forward(); }) == "[layer_norm] expected a step state, got none");
  }
}

TEST_CASE("layer_norm refuses what does not fit") {
  const OpRecord record = record_of({.rows = 4, .cols = 16, .residual = true, .drop_p = 0.1, .offsets = {0, 4}});
  const auto forward_error = [&](const char* name, const Shape& shape, DType dtype) {
    Run run(record, DType::f32);
    Tensor& t = run.arguments().tensors.at(name);
    t = {t.data, shape, dtype};
    return error_of<ShapeError>([&] { run.forward(); });
  };
  CHECK(forward_error("gamma", {15}, DType::f32) == "[layer_norm] gamma has shape (15), expected (16)");
  CHECK(forward_error("beta", {1, 16}, DType::f32) == "[layer_norm] beta has shape (1, 16), expected (16)");
  CHECK(forward_error("x", {4, 0}, DType::f32) == "[layer_norm] x has shape (4, 0), expected at least 1 column");
  CHECK(forward_error("residual", {4, 15}, DType::f32) == "[layer_norm] residual has shape (4, 15), expected (4, 16)");
  CHECK(forward_error("sum", {16, 4}, DType::f32) == "[layer_norm] sum has shape (16, 4), expected (4, 16)");
  CHECK(forward_error("mean", {3}, DType::f32) == "[layer_norm] mean has shape (3), expected (4)");
  CHECK(forward_error("gamma", {16}, DType::f64) == "[layer_norm] gamma has type f64, expected f32");
  CHECK(forward_error("x", {4, 16}, DType::i32) == "[layer_norm] gamma has type f32, expected i32");
  CHECK(forward_error("sequence_offsets", {2}, DType::i64) == "[layer_norm] sequence_offsets has type i64, expected i32");

  Run run(record, DType::f32);
  run.forward();
  const auto backward_error = [&](const char* name, const Shape& shape, DType dtype) {
    const Tensor before = run.arguments()[name];
    run.arguments().tensors[name] = {before.data, shape, dtype};
    const std::string error = error_of<ShapeError>([&] { run.backward(); });
    run.arguments().tensors[name] = before;
    return error;
  };
  CHECK(backward_error("dx", {4, 17}, DType::f32) == "[layer_norm] dx has shape (4, 17), expected (4, 16)");
  CHECK(backward_error("dgamma", {4}, DType::f32) == "[layer_norm] dgamma has shape (4), expected (16)");
  CHECK(backward_error("rstd", {5}, DType::f32) == "[layer_norm] rstd has shape (5), expected (4)");
  CHECK(backward_error("dbeta", {16}, DType::f64) == "[layer_norm] dbeta has type f64, expected f32");
  CHECK(backward_error("workspace", {64}, DType::u8) == "[layer_norm] workspace has 64 bytes, expected at least 128");

  run.arguments().state = nullptr;
  CHECK(error_of<ConfigError>([&] { run.forward(); }) == "[layer_norm] expected a step state, got none");
  check_device_refuses(record);
}

// No rows: parameters still get their gradient, which is zero.
TEST_CASE("layer_norm: no rows") {
  const OpRecord record = record_of({.rows = 0, .cols = 16});
  for (const Execution& e : executions(record)) {
    Run run(record, e.dtype, {}, e.backend);
    run.forward();
    run.backward();
    INFO(name_of(e));
    for (const char* name : {"dgamma", "dbeta"})
      for (const double g : run.values(name)) CHECK(g == 0);
  }
}

// Every operand once; gamma, beta and the state once a block; sequence offsets. No more than 1.05 of the operands and statistics, beside the
// partial sums of dgamma and dbeta, which backward writes and its second launch reads.
TEST_CASE("layer_norm on the device: traffic", traffic_tag()) {
  if constexpr (kGpuBuild == GpuBuild::SIMT) {
    struct Case {
      uint64_t rows, cols, forward_blocks, backward_blocks;
    };
    for (const Case& c : {Case{16384, 256, 528, 396}, Case{8192, 768, 264, 132}}) {
      const uint64_t operand = 2 * c.rows * c.cols;
      const auto rows = static_cast<int64_t>(c.rows), cols = static_cast<int64_t>(c.cols);
      std::vector<double> offsets;
      for (int64_t i = 0; i <= 16; ++i) offsets.push_back(static_cast<double>(i * rows / 16));
      Run run(record_of({.rows = rows, .cols = cols, .residual = true, .drop_p = 0.1, .offsets = offsets}), DType::bf16, {}, Backend::cuda);
      const simt::Traffic forward = moved([&] { run.forward(); });
      // Of a row's place, the last offset, four steps of bisection and where its sequence begins.
      const uint64_t statistics = 8 * c.rows, places = 4 * (1 + 4 + 1) * c.rows, minimum = 4 * operand + statistics;
      const auto once_a_block = [&](uint64_t blocks, uint64_t vectors) { return blocks * (vectors * 2 * c.cols + 8 * sizeof(StepState)); };
      check_moved(forward, 2 * operand + places + once_a_block(c.forward_blocks, 2), 2 * operand + statistics);
      check_near(forward.read_bytes + forward.write_bytes, minimum);
      const uint64_t partial = 4 * 2 * c.cols * c.backward_blocks;
      const simt::Traffic backward = moved([&] { run.backward(); });
      check_moved(backward, 2 * operand + statistics + places + once_a_block(c.backward_blocks, 1) + partial, 2 * operand + partial + 4 * 2 * c.cols);
      check_near(backward.read_bytes + backward.write_bytes - 2 * partial, minimum);
    }
  }
}

TEST_CASE("layer_norm on the device: a sweep of widths", kDeviceSweep) {
  Random random(13);
  for (int64_t cols = 2; cols <= 2100; cols += cols < 300 ? 1 : 1 + random.below(60)) {
    const int64_t rows = random.extent(40);
    OpRecord record = record_of({.rows = rows, .cols = cols, .residual = cols % 2 == 0, .drop_p = cols % 3 == 0 ? 0.1 : 0,
                                 .offsets = {0, static_cast<double>(rows / 2), static_cast<double>(rows - rows / 5)}});
    record.ulps = kSweepUlps;
    check_device(record);
  }
}
