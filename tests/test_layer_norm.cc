// dropout(x) + residual and LayerNorm.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>

#include "kernels/core/error.h"
#include "kernels/dispatch.h"
#include "kernels/layer_norm.h"
#include "tests/op_test.h"
#include "tests/row_dropout.h"

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
  record.results = {{"y", shape}, {"mean", {o.rows}, false}, {"rstd", {o.rows}, false}};
  record.gradients = {{"x"}, {"gamma"}, {"beta"}};
  if (o.residual) {
    record.inputs.push_back({"residual", shape, Random(4).normals(shape.size(), 1.5)});
    record.gradients.push_back({"residual"});
  }
  if (o.residual || o.drop_p > 0) record.results.push_back({"sum", shape, false});
  record.workspace = [o](DType dtype, Backend backend) {
    return dispatch(backend, [&]<Backend B>() { return layer_norm_backward_workspace<B>(o.rows, o.cols, dtype); });
  };
  record.forward = [o, dropout](const Arguments& a, Stream& stream) {
    layer_norm_forward<Backend::cpu>({.x = a["x"], .residual = a["residual"], .gamma = a["gamma"], .beta = a["beta"],
                                      .sequence_offsets = a["sequence_offsets"], .y = a["y"], .sum = a["sum"],
                                      .mean = a["mean"], .rstd = a["rstd"], .eps = o.eps, .dropout = dropout, .state = a.state},
                                     stream);
  };
  record.backward = [dropout](const Arguments& a, Stream& stream) {
    layer_norm_backward<Backend::cpu>(
        {.sum = a["sum"] ? a["sum"] : a["x"], .gamma = a["gamma"], .mean = a["mean"], .rstd = a["rstd"], .dy = a["dy"],
         .sequence_offsets = a["sequence_offsets"], .dx = a["dx"], .dresidual = a["dresidual"], .dgamma = a["dgamma"],
         .dbeta = a["dbeta"], .dx_mode = a.mode("dx"), .dresidual_mode = a.mode("dresidual"),
         .dgamma_mode = a.mode("dgamma"), .dbeta_mode = a.mode("dbeta"), .workspace = a["workspace"], .dropout = dropout,
         .state = a.state},
        stream);
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
  for (const int64_t cols : {256, 768, 1024})
    check_kernel(record_of({.rows = 130, .cols = cols, .residual = true, .drop_p = 0.1, .offsets = {0, 64, 128}}));
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
    for (const int64_t cols : {17, 40, 128, 256, 768, 1024})
      for (const bool residual : {false, true})
        for (const DType dtype : {DType::f64, DType::f32}) {
          OpRecord record = record_of({.rows = 3, .cols = cols, .residual = residual});
          record.inputs[0].values.assign(static_cast<size_t>(3 * cols), value);
          if (residual) record.inputs.back().values.assign(static_cast<size_t>(3 * cols), 0.7 * value);
          Run run(record, dtype);
          run.forward();
          run.backward();
          run.check_memory(true);
          INFO(value << " over " << cols << " columns in " << name_of(dtype) << (residual ? ", with a residual" : ""));
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
      }
}

// One-pass variance (E[x²] − E[x]²) loses every digit here.
TEST_CASE("layer_norm: a mean far larger than the spread") {
  OpRecord record = record_of({.rows = 3, .cols = 64});
  record.inputs[0].values = Random(5).normals(3 * 64, 1, 4096);
  check_kernel(record);
}

TEST_CASE("layer_norm: a row does not depend on the others") {
  const OpRecord record = record_of({.rows = 70, .cols = 48, .residual = true, .drop_p = 0.2, .offsets = {0, 70}});
  Run whole(record, DType::f32);
  whole.forward();
  OpRecord changed = record;
  for (size_t i = 0; i < changed.inputs[0].values.size(); ++i)
    if (i / 48 != 37) changed.inputs[0].values[i] = 9;
  Run other(changed, DType::f32);
  other.forward();
  CHECK(std::memcmp(whole.arguments().data<float>("y") + 37 * 48, other.arguments().data<float>("y") + 37 * 48,
                    48 * sizeof(float)) == 0);
}

TEST_CASE("layer_norm: NaN shows, in its row alone") {
  OpRecord record = record_of({.rows = 3, .cols = 20});
  record.inputs[0].values[25] = std::nan("");
  for (const DType dtype : {DType::f64, DType::f32}) {
    Run run(record, dtype);
    run.forward();
    const std::vector<double> y = run.values("y");
    for (size_t i = 0; i < y.size(); ++i) CHECK(std::isnan(y[i]) == (i / 20 == 1));
  }
}

TEST_CASE("layer_norm: the sum may be absent in evaluation") {
  const OpRecord record = record_of({.rows = 5, .cols = 33, .residual = true});
  for (const DType dtype : {DType::f64, DType::f32}) {
    Run with(record, dtype), without(record, dtype);
    without.arguments().tensors.erase("sum");
    with.forward();
    without.forward();
    CHECK(with.bytes("y") == without.bytes("y"));
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
}
