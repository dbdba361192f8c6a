// GELU, the erf form.
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>

#include "kernels/activation.h"
#include "kernels/core/error.h"
#include "kernels/dispatch.h"
#include "tests/op_test.h"
#include "tests/traffic.h"

using namespace electra;
using namespace electra::test;

namespace {

OpRecord gelu_record(const Shape& shape, std::vector<double> x) {
  OpRecord record{.name = "gelu " + shape.str()};
  record.inputs = {{"x", shape, std::move(x)}};
  record.results = {{"y", shape}};
  record.gradients = {{"x"}};
  record.device_dtypes = {DType::f32, DType::bf16};
  record.forward = [](const Arguments& a, Stream& stream) {
    dispatch(stream, [&]<Backend B>() { gelu_forward<B>({.x = a["x"], .y = a["y"]}, stream); });
  };
  record.backward = [](const Arguments& a, Stream& stream) {
    dispatch(stream, [&]<Backend B>() {
      gelu_backward<B>({.x = a["x"], .dy = a["dy"], .dx = a["dx"], .dx_mode = a.mode("dx")}, stream);
    });
  };
  record.naive_forward = [](const Arguments& a) {
    for (int64_t i = 0; i < a["x"].size(); ++i) {
      const float v = a.data<float>("x")[i];
      a.data<float>("y")[i] = 0.5f * v * (1.0f + std::erf(v * 0.70710678f));
    }
  };
  record.naive_backward = [](const Arguments& a) {
    for (int64_t i = 0; i < a["x"].size(); ++i) {
      const float v = a.data<float>("x")[i];
      const float cdf = 0.5f * (1.0f + std::erf(v * 0.70710678f)), density = 0.39894228f * std::exp(-0.5f * v * v);
      a.data<float>("dx")[i] = a.data<float>("dy")[i] * (cdf + v * density);
    }
  };
  return record;
}

}  // namespace

TEST_CASE("gelu agrees with PyTorch") {
  for (const GoldenCase& golden : read_golden("gelu")) check_golden(gelu_record(golden.shape("x"), golden.values("x")), golden);
}

TEST_CASE("gelu: gradients, kernel, modes, determinism") {
  for (const int64_t n : {1, 7, 15, 16, 17, 31, 33, 255, 256, 1000}) check_op(gelu_record({n}, Random(1).normals(n, 2)));
  // More than one work item, the last one not whole.
  check_op(gelu_record({33, 1024}, Random(2).normals(33 * 1024, 3)));
  // A work item has 16,384 elements.
  for (const int64_t n : {16383, 16384, 16385}) {
    check_kernel(gelu_record({n}, Random(3).normals(n, 3)));
    check_determinism(gelu_record({n}, Random(3).normals(n, 3)));
  }
}

// The tanh approximation is off by up to 5e-4; the absolute error in the tails counts in ulps of the value itself.
TEST_CASE("gelu: small values and tails keep their digits") {
  std::vector<double> x;
  for (double v = -8; v <= 8; v += 1.0 / 64) x.push_back(v);
  const auto n = static_cast<int64_t>(x.size());
  const OpRecord record = gelu_record({n}, x);
  Run exact(record, DType::f64), kernel(record, DType::f32);
  exact.forward();
  kernel.forward();
  const std::vector<double> expected = exact.values("y"), got = kernel.values("y");
  for (size_t i = 0; i < x.size(); ++i) {
    INFO("gelu(" << x[i] << ") is " << got[i] << ", expected " << expected[i]);
    CHECK(std::abs(got[i] - expected[i]) <= (6e-7 + 3e-8 * x[i] * x[i]) * std::abs(expected[i]));
  }
}

TEST_CASE("gelu: far values and NaN") {
  const double infinity = std::numeric_limits<double>::infinity();
  for (const DType dtype : {DType::f64, DType::f32}) {
    Run run(gelu_record({5}, {-1e4, 1e4, std::nan(""), infinity, 0}), dtype);
    run.forward();
    run.backward();
    const std::vector<double> y = run.values("y"), dx = run.values("dx"), dy = run.values("dy");
    CHECK(std::abs(y[0]) < 1e-30);
    CHECK(y[1] == 1e4);
    CHECK(std::isnan(y[2]));
    CHECK(y[3] == infinity);
    CHECK(y[4] == 0);
    CHECK(std::abs(dx[0]) < 1e-30);
    CHECK(dx[1] == dy[1]);
    CHECK(std::isnan(dx[2]));
    CHECK(dx[4] == Approx(dy[4] / 2));
  }
}

TEST_CASE("gelu: the gradient may take the cotangent's place") {
  const OpRecord record = gelu_record({100}, Random(4).normals(100, 2));
  Run apart(record, DType::f32), in_place(record, DType::f32);
  apart.backward();
  in_place.arguments().tensors["dx"] = in_place.arguments()["dy"];
  in_place.backward();
  CHECK(in_place.values("dy") == apart.values("dx"));
}

TEST_CASE("gelu refuses what does not fit") {
  const OpRecord record = gelu_record({2, 8}, Random(1).normals(16));
  const auto error = [&](const char* name, const Shape& shape, DType dtype) {
    return refusal(record, {DType::f32, Backend::cpu}, name, shape, dtype);
  };
  CHECK(error("y", {16}, DType::f32) == "[gelu] y has shape (16), expected (2, 8)");
  CHECK(error("y", {2, 8}, DType::f64) == "[gelu] y has type f64, expected f32");
  CHECK(error("dy", {2, 7}, DType::f32) == "[gelu] dy has shape (2, 7), expected (2, 8)");
  CHECK(error("dx", {2, 9}, DType::f32) == "[gelu] dx has shape (2, 9), expected (2, 8)");
  CHECK(error("dx", {2, 8}, DType::f64) == "[gelu] dx has type f64, expected f32");
}

// Every operand once. Eight elements are one access in bf16, and two of fp32, each of which has half a sector a lane.
TEST_CASE("gelu on the device: traffic", traffic_tag()) {
  if constexpr (kGpuBuild == GpuBuild::SIMT)
    for (const DType dtype : {DType::f32, DType::bf16})
      for (const GradMode mode : {GradMode::write, GradMode::accumulate}) {
        constexpr uint64_t kSize = 5 * 2048 + 256;
        const uint64_t operand = kSize * (dtype == DType::bf16 ? 2 : 4);
        Run run(gelu_record({kSize}, Random(1).normals(kSize)), dtype, {{"dx", mode}}, Backend::cuda);
        INFO(electra::name_of(dtype) << (mode == GradMode::write ? ", written" : ", accumulated"));
        run.set("dx", std::vector<double>(kSize, 1));
        const simt::Traffic forward = moved([&] { run.forward(); });
        check_moved(forward, operand, operand);
        if (dtype == DType::bf16) check_whole_sectors(forward);
        const simt::Traffic backward = moved([&] { run.backward(); });
        check_moved(backward, (mode == GradMode::write ? 2 : 3) * operand, operand);
        if (dtype == DType::bf16) check_whole_sectors(backward);
      }
}

TEST_CASE("gelu on the device: a sweep of sizes", kDeviceSweep) {
  Random random(19);
  for (int i = 0; i < 200; ++i) {
    const int64_t n = random.extent(20000);
    check_device(gelu_record({n}, random.normals(n, 2)));
  }
}
