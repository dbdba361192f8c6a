// The total loss: a weighted sum of two scalars.
#include <catch2/catch.hpp>

#include "kernels/core/error.h"
#include "kernels/dispatch.h"
#include "kernels/weighted_sum.h"
#include "tests/op_test.h"
#include "tests/traffic.h"

using namespace electra;
using namespace electra::test;

namespace {

OpRecord sum_record(bool two) {
  OpRecord record{.name = two ? "weighted_sum of two" : "weighted_sum of one"};
  record.inputs = {{"a", {1}, {1.75}}};
  record.gradients = {{"a"}};
  if (two) {
    record.inputs.push_back({"b", {1}, {-0.3}});
    record.gradients.push_back({"b"});
  }
  record.results = {{"sum", {1}}};
  record.device_dtypes = {DType::f32};
  record.forward = [](const Arguments& a, Stream& stream) {
    dispatch(stream, [&]<Backend B>() {
      weighted_sum<B>({.a = a["a"], .b = a["b"], .sum = a["sum"], .weight_a = 1.5, .weight_b = 50}, stream);
    });
  };
  record.backward = [](const Arguments& a, Stream& stream) {
    dispatch(stream, [&]<Backend B>() {
      weighted_sum_backward<B>({.dsum = a["dsum"], .da = a["da"], .db = a["db"], .weight_a = 1.5, .weight_b = 50,
                                .da_mode = a.mode("da"), .db_mode = a.mode("db")},
                               stream);
    });
  };
  return record;
}

}  // namespace

TEST_CASE("weighted_sum: gradients, kernel, modes, determinism") {
  // The sum is linear: its difference quotient can be exact, which check_gradients takes for an empty test.
  for (const bool two : {false, true}) {
    const OpRecord record = sum_record(two);
    Run run(record, DType::f64);
    run.forward();
    run.backward();
    run.check_memory(true);
    CHECK(run.values("sum")[0] == Approx(two ? 1.5 * 1.75 - 50 * static_cast<double>(0.3f) : 1.5 * 1.75).epsilon(1e-15));
    CHECK(run.values("da")[0] == 1.5 * run.values("dsum")[0]);
    if (two) CHECK(run.values("db")[0] == 50 * run.values("dsum")[0]);
    CHECK(run.values("dsum")[0] != 0);
    check_kernel(record);
    check_grad_modes(record);
    check_determinism(record);
    check_device(record);
  }
}

TEST_CASE("weighted_sum: weights of losses are kept in double until the end") {
  OpRecord record = sum_record(true);
  record.inputs = {{"a", {1}, {1e8}}, {"b", {1}, {-3e6}}};  // 1.5e8 − 1.5e8 cancels exactly
  Run run(record, DType::f32);
  run.forward();
  CHECK(run.values("sum")[0] == 0);
}

TEST_CASE("weighted_sum: wrong tensors are named") {
  ThreadPool pool(1);
  Stream stream(pool);
  float x[2] = {1, 2};
  double y[1] = {1};
  const Tensor one{x, {1}, DType::f32}, two{x, {2}, DType::f32}, exact{y, {1}, DType::f64};
  CHECK_THROWS_WITH(weighted_sum<Backend::cpu>({.a = two, .b = {}, .sum = one}, stream), "[weighted_sum] a has shape (2), expected (1)");
  CHECK_THROWS_WITH(weighted_sum<Backend::cpu>({.a = one, .b = {}, .sum = two}, stream), "[weighted_sum] sum has shape (2), expected (1)");
  CHECK_THROWS_WITH(weighted_sum<Backend::cpu>({.a = one, .b = two, .sum = one}, stream), "[weighted_sum] b has shape (2), expected (1)");
  CHECK_THROWS_WITH(weighted_sum<Backend::cpu>({.a = one, .b = {}, .sum = exact}, stream), "[weighted_sum] sum has type f64, expected f32");
  CHECK_THROWS_WITH(weighted_sum<Backend::cpu>({.a = one, .b = exact, .sum = one}, stream), "[weighted_sum] b has type f64, expected f32");
  const Tensor integer{x, {1}, DType::i32};
  CHECK_THROWS_WITH(weighted_sum<Backend::cpu>({.a = integer, .b = {}, .sum = integer}, stream), "[weighted_sum] expected f32 or f64, got i32");
  CHECK_THROWS_WITH(weighted_sum_backward<Backend::cpu>({.dsum = one, .da = exact, .db = {}}, stream),
                    "[weighted_sum] da has type f64, expected f32");
  CHECK_THROWS_WITH(weighted_sum_backward<Backend::cpu>({.dsum = one, .da = one, .db = two, .db_mode = GradMode::write}, stream),
                    "[weighted_sum] db has shape (2), expected (1)");
}

// Scalars of fp32, each once.
TEST_CASE("weighted_sum on the device: traffic", traffic_tag()) {
  if constexpr (kGpuBuild == GpuBuild::SIMT)
    for (const uint64_t terms : {1, 2})
      for (const GradMode mode : {GradMode::write, GradMode::accumulate}) {
        Run run(sum_record(terms == 2), DType::f32, {{"da", mode}, {"db", terms == 2 ? mode : GradMode::none}}, Backend::cuda);
        for (const char* gradient : {"da", "db"})
          if (terms == 2 || gradient[1] == 'a') run.set(gradient, {1});
        INFO(terms << " terms");
        check_moved(moved([&] { run.forward(); }), 4 * terms, 4);
        check_moved(moved([&] { run.backward(); }), mode == GradMode::write ? 4 : 4 + 4 * terms, 4 * terms);
      }
}
