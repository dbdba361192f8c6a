// Linear layers with their epilogues.
#include <array>
#include <catch2/catch.hpp>
#include <cmath>

#include "kernels/core/error.h"
#include "kernels/dispatch.h"
#include "kernels/linear.h"
#include "tests/gemm_kinds.h"
#include "tests/traffic.h"
#include "tests/op_test.h"

using namespace electra;
using namespace electra::test;

namespace {

struct Options {
  int64_t rows = 4, in = 6, out = 5;
  Epilogue epilogue = Epilogue::bias;
};

float naive_gelu(float v) { return 0.5f * v * (1.0f + std::erf(v * 0.70710678f)); }
float naive_gelu_slope(float v) {
  return 0.5f * (1.0f + std::erf(v * 0.70710678f)) + v * 0.39894228f * std::exp(-0.5f * v * v);
}

// The product, then the bias, then GELU, each rounded to float.
void naive_forward(const Arguments& a, const Options& o) {
  for (int64_t r = 0; r < o.rows; ++r)
    for (int64_t j = 0; j < o.out; ++j) {
      float sum = 0;
      for (int64_t p = 0; p < o.in; ++p) sum += a.data<float>("x")[r * o.in + p] * a.data<float>("weight")[j * o.in + p];
      if (o.epilogue != Epilogue::none) sum += a.data<float>("bias")[j];
      if (a["u"]) a.data<float>("u")[r * o.out + j] = sum;
      a.data<float>("y")[r * o.out + j] = o.epilogue == Epilogue::bias_gelu ? naive_gelu(sum) : sum;
    }
}

void naive_backward(const Arguments& a, const Options& o) {
  std::vector<float> du(a.data<float>("dy"), a.data<float>("dy") + o.rows * o.out);
  if (o.epilogue == Epilogue::bias_gelu)
    for (size_t i = 0; i < du.size(); ++i) du[i] *= naive_gelu_slope(a.data<float>("u")[i]);
  const auto at = [&](int64_t r, int64_t j) { return du[static_cast<size_t>(r * o.out + j)]; };
  for (int64_t r = 0; r < o.rows; ++r)
    for (int64_t p = 0; p < o.in; ++p) {
      float sum = 0;
      for (int64_t j = 0; j < o.out; ++j) sum += at(r, j) * a.data<float>("weight")[j * o.in + p];
      a.data<float>("dx")[r * o.in + p] = sum;
    }
  for (int64_t j = 0; j < o.out; ++j) {
    for (int64_t p = 0; p < o.in; ++p) {
      float sum = 0;
      for (int64_t r = 0; r < o.rows; ++r) sum += at(r, j) * a.data<float>("x")[r * o.in + p];
      a.data<float>("dweight")[j * o.in + p] = sum;
    }
    if (o.epilogue == Epilogue::none) continue;
    float sum = 0;
    for (int64_t r = 0; r < o.rows; ++r) sum += at(r, j);
    a.data<float>("dbias")[j] = sum;
  }
}

OpRecord record_of(const Options& o) {
  const char* names[] = {" none", " bias", " bias_gelu"};
  OpRecord record{.name = "linear " + Shape{o.rows, o.in, o.out}.str() + names[static_cast<int>(o.epilogue)]};
  record.inputs = {{"x", {o.rows, o.in}, Random(1).normals(o.rows * o.in)},
                   {"weight", {o.out, o.in}, Random(2).normals(o.out * o.in, 1.5 / std::sqrt(static_cast<double>(o.in)))}};
  record.results = {{"y", {o.rows, o.out}}};
  record.gradients = {{"x"}, {.of = "weight", .parameter = true}};
  if (o.epilogue != Epilogue::none) {
    record.inputs.push_back({"bias", {o.out}, Random(3).normals(o.out)});
    record.gradients.push_back({.of = "bias", .parameter = true});
  }
  if (o.epilogue == Epilogue::bias_gelu) record.results.push_back({"u", {o.rows, o.out}, false});
  record.workspace = [o](DType dtype, Backend backend) {
    return dispatch(backend, [&]<Backend B>() { return linear_backward_workspace<B>(o.rows, o.in, o.out, o.epilogue, dtype); });
  };
  record.forward = [o](const Arguments& a, Stream& stream) {
    dispatch(stream, [&]<Backend B>() {
      linear_forward<B>({.x = a["x"], .weight = a["weight"], .bias = a["bias"], .y = a["y"], .u = a["u"], .epilogue = o.epilogue}, stream);
    });
  };
  record.backward = [o](const Arguments& a, Stream& stream) {
    dispatch(stream, [&]<Backend B>() {
      linear_backward<B>({.x = a["x"], .weight = a["weight"], .dy = a["dy"], .u = a["u"], .dx = a["dx"], .dweight = a["dweight"],
                          .dbias = a["dbias"], .dx_mode = a.mode("dx"), .dweight_mode = a.mode("dweight"),
                          .dbias_mode = a.mode("dbias"), .workspace = a["workspace"], .epilogue = o.epilogue},
                         stream);
    });
  };
  record.naive_forward = [o](const Arguments& a) { naive_forward(a, o); };
  record.naive_backward = [o](const Arguments& a) { naive_backward(a, o); };
  return record;
}

void check_on_device(const Options& o, double ulps = 2) {
  OpRecord record = record_of(o);
  record.ulps = ulps;
  record.device_dtypes = {DType::f32, DType::bf16};
  check_device_with_every_gemm(record);
}

constexpr Epilogue kEpilogues[] = {Epilogue::none, Epilogue::bias, Epilogue::bias_gelu};

}  // namespace

TEST_CASE("linear agrees with PyTorch") {
  for (const GoldenCase& golden : read_golden("linear")) {
    OpRecord record = record_of({.rows = golden.shape("x")[0], .in = golden.shape("x")[1], .out = golden.shape("weight")[0],
                                 .epilogue = kEpilogues[static_cast<int>(golden.attributes.at("epilogue"))]});
    for (Input& input : record.inputs) input.values = golden.values(input.name);
    check_golden(record, golden);
  }
}

TEST_CASE("linear: every epilogue, odd extents") {
  for (const Epilogue epilogue : kEpilogues)
    for (const auto& [rows, in, out] : {std::array<int64_t, 3>{1, 1, 1}, {3, 5, 7}, {17, 15, 16}, {65, 33, 31}, {64, 8, 129}})
      check_op(record_of({.rows = rows, .in = in, .out = out, .epilogue = epilogue}));
}

TEST_CASE("linear: sizes of ELECTRA") {
  for (const Epilogue epilogue : kEpilogues) check_kernel(record_of({.rows = 70, .in = 128, .out = 256, .epilogue = epilogue}));
  check_kernel(record_of({.rows = 33, .in = 256, .out = 1024, .epilogue = Epilogue::bias_gelu}));
  check_kernel(record_of({.rows = 33, .in = 1024, .out = 256}));
  // From 2,048 rows and 512 outputs on work items are larger.
  for (const int64_t rows : {2047, 2048, 2049, 2305}) {
    check_kernel(record_of({.rows = rows, .in = 9, .out = 17, .epilogue = Epilogue::bias_gelu}));
    check_determinism(record_of({.rows = rows, .in = 9, .out = 17, .epilogue = Epilogue::bias_gelu}));
  }
  for (const int64_t out : {511, 512, 513}) check_kernel(record_of({.rows = 70, .in = 12, .out = out}));
  check_determinism(record_of({.rows = 2100, .in = 16, .out = 520, .epilogue = Epilogue::bias_gelu}));
}

TEST_CASE("linear on the device: every epilogue, odd extents and whole tiles", kOnDevice) {
  for (const Epilogue epilogue : kEpilogues)
    for (const auto& [rows, in, out] : {std::array<int64_t, 3>{1, 1, 1}, {3, 5, 7}, {17, 15, 16}, {65, 33, 31}, {64, 8, 129}, {70, 64, 72},
                                        {130, 264, 296}})
      check_on_device({.rows = rows, .in = in, .out = out, .epilogue = epilogue});
  check_on_device({.rows = 1100, .in = 16, .out = 24, .epilogue = Epilogue::bias_gelu});  // the sums of dweight are split
}

TEST_CASE("linear on the device: sizes of ELECTRA", kOnDevice) {
  check_on_device({.rows = 128, .in = 256, .out = 256, .epilogue = Epilogue::bias_gelu});
  check_on_device({.rows = 33, .in = 256, .out = 1024, .epilogue = Epilogue::bias_gelu});
  check_on_device({.rows = 19, .in = 768, .out = 256});
  check_on_device({.rows = 40, .in = 1024, .out = 64, .epilogue = Epilogue::none});
}

TEST_CASE("linear on the device: NaN shows, in its row alone", kOnDevice) {
  if constexpr (kHasCudaBackend) {
    OpRecord record = record_of({.rows = 5, .in = 8, .out = 24, .epilogue = Epilogue::bias_gelu});
    record.inputs[0].values[8 * 2 + 3] = std::nan("");
    for_each_gemm_kind([&](GemmKind) {
      for (const DType dtype : {DType::f32, DType::bf16}) {
        Run run(record, dtype, {}, Backend::cuda);
        run.forward();
        const std::vector<double> y = run.values("y");
        for (size_t i = 0; i < y.size(); ++i) CHECK(std::isnan(y[i]) == (i / 24 == 2));
      }
    });
  }
}

// The pass over rows: dy and u read once, du written once, and the partial sums.
TEST_CASE("linear on the device: traffic", traffic_tag()) {
  if constexpr (kGpuBuild == GpuBuild::SIMT) {
    constexpr uint64_t kRows = 128, kOut = 256, kPartial = 4 * kOut * (kRows / 64);
    for (const bool has_gelu : {false, true}) {
      const OpRecord record = record_of({.rows = kRows, .in = 8, .out = kOut, .epilogue = has_gelu ? Epilogue::bias_gelu : Epilogue::bias});
      Run run(record, DType::bf16, {{"dx", GradMode::none}, {"dweight", GradMode::none}}, Backend::cuda);
      run.forward();
      const simt::Traffic traffic = moved([&] { run.backward(); });
      check_moved(traffic, (has_gelu ? 4 : 2) * kRows * kOut + kPartial, (has_gelu ? 2 : 0) * kRows * kOut + kPartial + 4 * kOut);
      check_whole_sectors(traffic);
    }
  }
}

// A recorded step reads what its operands hold when it is launched, whoever computes the products.
TEST_CASE("linear on the device: recorded launches give the same bits", kOnDevice) {
  if constexpr (kHasCudaBackend) {
    const OpRecord record = record_of({.rows = 70, .in = 64, .out = 72, .epilogue = Epilogue::bias_gelu});
    for_each_gemm_kind([&](GemmKind) {
      Run eager(record, DType::bf16, {}, Backend::cuda), recorded(record, DType::bf16, {}, Backend::cuda);
      const std::vector<double> x = Random(9).normals(70 * 64);
      for (Run* run : {&eager, &recorded}) {  // also lets the library choose its algorithms
        run->forward();
        run->backward();
      }
      eager.set("x", x);
      eager.forward();
      eager.backward();
      const Stream stream = test_device().stream();
      const LaunchGraph graph = LaunchGraph::capture(stream, [&] {
        Stream recording = stream;
        record.forward(recorded.arguments(), recording);
        record.backward(recorded.arguments(), recording);
      });
      recorded.set("x", x);
      graph.launch(stream);
      stream.synchronize();
      for (const char* name : {"y", "u", "dx", "dweight", "dbias"}) CHECK(recorded.bytes(name) == eager.bytes(name));
    });
  }
}

TEST_CASE("linear on the device: u may be absent in evaluation", kOnDevice) {
  if constexpr (kHasCudaBackend)
    for_each_gemm_kind([](GemmKind) {
      const OpRecord record = record_of({.rows = 9, .in = 16, .out = 24, .epilogue = Epilogue::bias_gelu});
      for (const DType dtype : {DType::f32, DType::bf16}) {
        Run with(record, dtype, {}, Backend::cuda), without(record, dtype, {}, Backend::cuda);
        without.arguments().tensors.erase("u");
        with.forward();
        without.forward();
        CHECK(with.bytes("y") == without.bytes("y"));
      }
    });
}

TEST_CASE("linear: u may be absent in evaluation") {
  const OpRecord record = record_of({.rows = 9, .in = 12, .out = 21, .epilogue = Epilogue::bias_gelu});
  for (const DType dtype : {DType::f64, DType::f32}) {
    Run with(record, dtype), without(record, dtype);
    without.arguments().tensors.erase("u");
    with.forward();
    without.forward();
    CHECK(with.bytes("y") == without.bytes("y"));
  }
}

TEST_CASE("linear: NaN shows, in its row alone") {
  OpRecord record = record_of({.rows = 5, .in = 8, .out = 20, .epilogue = Epilogue::bias_gelu});
  record.inputs[0].values[8 * 2 + 3] = std::nan("");
  for (const DType dtype : {DType::f64, DType::f32}) {
    Run run(record, dtype);
    run.forward();
    const std::vector<double> y = run.values("y");
    for (size_t i = 0; i < y.size(); ++i) CHECK(std::isnan(y[i]) == (i / 20 == 2));
  }
}

TEST_CASE("linear refuses what does not fit") {
  const OpRecord record = record_of({.rows = 4, .in = 6, .out = 5, .epilogue = Epilogue::bias_gelu});
  const auto error = [&](const char* name, const Shape& shape, DType dtype) {
    return refusal(record, {DType::f32, Backend::cpu}, name, shape, dtype);
  };
  CHECK(error("weight", {5, 7}, DType::f32) == "[linear] weight has shape (5, 7), expected (5, 6)");
  CHECK(error("weight", {5, 6}, DType::f64) == "[linear] weight has type f64, expected f32");
  CHECK(error("bias", {6}, DType::f32) == "[linear] bias has shape (6), expected (5)");
  CHECK(error("y", {4, 6}, DType::f32) == "[linear] y has shape (4, 6), expected (4, 5)");
  CHECK(error("u", {5, 4}, DType::f32) == "[linear] u has shape (5, 4), expected (4, 5)");
  CHECK(error("dy", {3, 5}, DType::f32) == "[linear] dy has shape (3, 5), expected (4, 5)");
  CHECK(error("dx", {4, 5}, DType::f32) == "[linear] dx has shape (4, 5), expected (4, 6)");
  CHECK(error("dweight", {6, 5}, DType::f32) == "[linear] dweight has shape (6, 5), expected (5, 6)");
  CHECK(error("dbias", {5}, DType::f64) == "[linear] dbias has type f64, expected f32");
  CHECK(error("workspace", {100}, DType::u8) == "[linear] workspace has 100 bytes, expected at least 192");

  Run no_gelu(record_of({.rows = 4, .in = 6, .out = 5}), DType::f32);
  no_gelu.arguments().tensors["u"] = no_gelu.arguments()["y"];
  CHECK(error_of<ShapeError>([&] { no_gelu.forward(); }) == "[linear] expected u only with the bias_gelu epilogue, got one of shape (4, 5)");
}

TEST_CASE("linear on the device refuses what does not fit", kOnDevice) {
  if constexpr (kHasCudaBackend) {
    const OpRecord record = record_of({.rows = 4, .in = 6, .out = 5, .epilogue = Epilogue::bias_gelu});
    const auto error = [&](const char* name, const Shape& shape, DType dtype) {
      return refusal(record, {DType::bf16, Backend::cuda}, name, shape, dtype);
    };
    CHECK(error("weight", {5, 7}, DType::bf16) == "[linear] weight has shape (5, 7), expected (5, 6)");
    CHECK(error("bias", {5}, DType::f32) == "[linear] bias has type f32, expected bf16");
    CHECK(error("y", {4, 6}, DType::bf16) == "[linear] y has shape (4, 6), expected (4, 5)");
    CHECK(error("u", {5, 4}, DType::bf16) == "[linear] u has shape (5, 4), expected (4, 5)");
    CHECK(error("dx", {4, 6}, DType::f32) == "[linear] dx has type f32, expected bf16");
    CHECK(error("dweight", {5, 6}, DType::bf16) == "[linear] dweight has type bf16, expected f32");
    CHECK(error("dbias", {5}, DType::bf16) == "[linear] dbias has type bf16, expected f32");
    CHECK(error("workspace", {100}, DType::u8).starts_with("[linear] workspace has 100 bytes, expected at least "));

    Run doubles(record, DType::f64, {}, Backend::cuda);
    CHECK(error_of<ShapeError>([&] { doubles.forward(); }) == "[linear] expected f32 or bf16 on this device, got f64");
  }
}

TEST_CASE("linear on the device: a sweep of extents", kDeviceSweep) {
  Random random(12);
  for (int i = 0; i < 150; ++i)
    check_on_device({.rows = random.extent(300), .in = random.extent(300), .out = random.extent(300), .epilogue = kEpilogues[i % 3]}, kSweepUlps);
}
