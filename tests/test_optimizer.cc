// Global gradient norm and AdamW.
#include <array>
#include <catch2/catch.hpp>
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/core/bf16.h"
#include "kernels/core/error.h"
#include "kernels/core/gpu.h"
#include "kernels/dispatch.h"
#include "kernels/optimizer.h"
#include "tests/op_test.h"
#include "tests/traffic.h"

using namespace electra;
using namespace electra::test;

namespace {

const std::array<ParameterGroup, 2> kGroups{{{.weight_decay = 0.01f, .learning_rate_scale = 1},
                                              {.weight_decay = 0, .learning_rate_scale = 0.5f}}};

struct Settings {
  bool bias_correction = false;
  uint32_t adam_step = 1;
  double factor = 1;
  int32_t finite = 1;
  double beta2 = 0.999;
};

int64_t groups_of(int64_t n) { return (n + kGroupElements - 1) / kGroupElements; }

// Runs adamw with what of its arguments does not lie in tensors.
void run_adamw(AdamW args, const GradNorm& norm, Stream& stream) {
  const DeviceValue<GradNorm> norm_value(stream, norm);
  const DeviceValue<std::array<ParameterGroup, 2>> groups(stream, kGroups);
  args.grad_norm = norm_value.data();
  args.groups = groups.data()->data();
  dispatch(stream, [&]<Backend B>() { adamw<B>(args, stream); });
  stream.synchronize();
}

// m, v and param in the middle of a training: every term of the update counts.
OpRecord adamw_record(int64_t n, const Settings& settings) {
  OpRecord record{.name = "adamw (" + std::to_string(n) + ")"};
  Random random(static_cast<uint64_t>(n));
  std::vector<double> v = random.normals(n, 1e-3);
  for (double& x : v) x = static_cast<float>(x * x);
  record.inputs = {{"grad", {n}, random.normals(n, 1e-2)}, {"group_ids", {groups_of(n)}, random.integers(groups_of(n), 2), DType::u8}};
  record.results = {{"param", {n}, false, {}, Compare::close, random.normals(n, 0.1)},
                    {"m", {n}, false, {}, Compare::close, random.normals(n, 1e-3)},
                    {"v", {n}, false, {}, Compare::close, v}};
  record.state = {.learning_rate = 1e-3, .adam_step = settings.adam_step};
  record.device_dtypes = {DType::f32};
  record.forward = [settings](const Arguments& a, Stream& stream) {
    run_adamw({.param = a["param"], .grad = a["grad"], .m = a["m"], .v = a["v"], .copy = a["copy"],
               .group_ids = a.data<uint8_t>("group_ids"), .beta2 = settings.beta2,
               .bias_correction = settings.bias_correction, .state = a.state},
              {.norm = 1 / settings.factor, .factor = settings.factor, .finite = settings.finite}, stream);
  };
  return record;
}

constexpr Execution kExactOnCpu{DType::f64, Backend::cpu}, kFloatOnCpu{DType::f32, Backend::cpu};

// Where grad_norm runs: see executions().
std::vector<Execution> norm_executions() {
  OpRecord record;
  record.device_dtypes = {DType::f32};
  return executions(record);
}

struct Norm {
  GradNorm result;
  Norm(const std::vector<double>& grad, double loss, double clip_norm, const Execution& where, int threads = 2) {
    const auto n = static_cast<int64_t>(grad.size());
    OpRecord record{.name = "grad_norm"};
    record.inputs = {{"grad", {n}, grad}, {"loss", {1}, {loss}}};
    record.workspace = [n](DType, Backend backend) {
      return dispatch(backend, [&]<Backend B>() { return grad_norm_workspace<B>(n); });
    };
    record.forward = [&](const Arguments& a, Stream& stream) {
      const DeviceValue<GradNorm> value(stream, {.norm = -1, .factor = -1, .finite = -1});
      dispatch(stream, [&]<Backend B>() {
        grad_norm<B>({.grad = a["grad"], .loss = a["loss"], .result = value.data(), .workspace = a["workspace"], .clip_norm = clip_norm},
                     stream);
      });
      result = value.get();
    };
    Run run(record, where.dtype, {}, where.backend);
    run.forward(threads);
    run.check_memory(false);
  }
};

constexpr double kInfinity = std::numeric_limits<double>::infinity(), kNan = std::numeric_limits<double>::quiet_NaN();

}  // namespace

TEST_CASE("adamw: one update is the formula of the header, in double") {
  for (const bool correction : {false, true})
    for (const double factor : {1.0, 0.25}) {
      const Settings settings{.bias_correction = correction, .adam_step = 3, .factor = factor};
      const OpRecord record = adamw_record(600, settings);
      Run run(record, DType::f64);
      const std::vector<double> p = run.values("param"), m = run.values("m"), v = run.values("v"), g = run.values("grad"),
                                ids = run.values("group_ids");
      run.forward();
      run.check_memory(false);
      std::vector<double> new_p(600), new_m(600), new_v(600);
      for (size_t i = 0; i < 600; ++i) {
        const double gradient = factor * g[i];
        new_m[i] = 0.9 * m[i] + 0.1 * gradient;
        new_v[i] = 0.999 * v[i] + 0.001 * gradient * gradient;
        const double m_hat = correction ? new_m[i] / (1 - 0.9 * 0.9 * 0.9) : new_m[i];
        const double v_hat = correction ? new_v[i] / (1 - 0.999 * 0.999 * 0.999) : new_v[i];
        const bool second = ids[i / 256] == 1;
        const double decay = second ? 0 : static_cast<double>(0.01f), rate = second ? 0.5e-3 : 1e-3;
        new_p[i] = p[i] - rate * (m_hat / (std::sqrt(v_hat) + 1e-6) + decay * p[i]);
      }
      INFO("bias correction " << correction << ", factor " << factor);
      check_close("param", run.values("param"), new_p, 1e-15);
      check_close("m", run.values("m"), new_m, 1e-17);
      check_close("v", run.values("v"), new_v, 1e-19);
    }
}

TEST_CASE("adamw and grad_norm: the oracle against another implementation") {
  for (const GoldenCase& golden : read_golden("optimizer")) {
    INFO(golden.name);
    const auto number = [&](const char* name) { return golden.attributes.at(name); };
    const std::vector<double> grad = golden.values("grad");
    const auto n = static_cast<int64_t>(grad.size());
    const GradNorm norm = Norm(grad, 1, number("clip_norm"), kExactOnCpu).result;
    CHECK(norm.norm == Approx(number("norm")).epsilon(1e-14));
    CHECK(norm.factor == Approx(number("factor")).epsilon(1e-14));
    OpRecord record = adamw_record(n, {});
    record.inputs = {{"grad", {n}, grad}, {"group_ids", {groups_of(n)}, {0, 1}, DType::u8}};
    for (Result& result : record.results) result.initial = golden.values(result.name + "_before");
    record.state = {.learning_rate = number("learning_rate"), .adam_step = static_cast<uint32_t>(number("adam_step"))};
    record.forward = [&](const Arguments& a, Stream& stream) {
      run_adamw({.param = a["param"], .grad = a["grad"], .m = a["m"], .v = a["v"], .group_ids = a.data<uint8_t>("group_ids"),
                 .beta1 = number("beta1"), .beta2 = number("beta2"), .eps = number("eps"),
                 .bias_correction = number("bias_correction") == 1, .state = a.state},
                norm, stream);
    };
    check_golden(record, golden);
  }
}

// The copy, which the kernels of a bf16 model read, is the parameter rounded.
void check_copy(int64_t n) {
  const auto with_copy = [n](const Settings& settings) {
    OpRecord record = adamw_record(n, settings);
    record.results.push_back({.name = "copy", .shape = {n}, .cotangent = false, .dtype = DType::bf16});
    return record;
  };
  Run run(with_copy({}), DType::f32, {}, Backend::cuda), alone(adamw_record(n, {}), DType::f32, {}, Backend::cuda);
  run.forward();
  run.check_memory(false);
  alone.forward();
  INFO(n << " elements");
  CHECK(run.bytes("param") == alone.bytes("param"));
  const std::vector<double> param = run.values("param"), copy = run.values("copy");
  for (size_t i = 0; i < param.size(); ++i)
    REQUIRE(copy[i] == static_cast<double>(to_float(to_bf16(static_cast<float>(param[i])))));
  Run skipped(with_copy({.finite = 0}), DType::f32, {}, Backend::cuda);
  const auto before = skipped.bytes("copy");
  skipped.forward();
  CHECK(skipped.bytes("copy") == before);
}

TEST_CASE("adamw: the float kernel follows the oracle for every size") {
  for (const int64_t n : {1, 15, 16, 17, 255, 256, 257, 1000, 65535, 65536, 65537, 140000}) {
    check_kernel(adamw_record(n, {}));
    check_kernel(adamw_record(n, {.bias_correction = true, .adam_step = 2, .factor = 0.125}));
    check_determinism(adamw_record(n, {.bias_correction = true}));
    if (n > 2000) continue;
    check_device(adamw_record(n, {}));
    check_device(adamw_record(n, {.bias_correction = true, .adam_step = 2, .factor = 0.125}));
  }
  for (const int64_t n : {2047, 2048, 2049, 5000}) check_device(adamw_record(n, {}));  // a block takes 2,048 elements
  if constexpr (kHasCudaBackend)
    for (const int64_t n : {3, 255, 256, 2049, 5000}) check_copy(n);
}

TEST_CASE("adamw: bias correction far into a training") {
  for (const uint32_t step : {1u, 1000u, 4097u, 1000000u, 0xffffffffu}) {
    check_kernel(adamw_record(300, {.bias_correction = true, .adam_step = step}));
    check_device(adamw_record(300, {.bias_correction = true, .adam_step = step}));
  }
}

TEST_CASE("adamw: a fresh second moment keeps its digits in float") {
  // 1 − 0.999 has four digits fewer in float than in double: it must be rounded once, from double.
  OpRecord record = adamw_record(64, {});
  record.ulps = 4;  // the parameter is all update: a root, a quotient and four products, rounded one after the other
  for (Result& result : record.results) result.initial.assign(64, 0.0);
  check_kernel(record);
  check_device(record);
}

TEST_CASE("adamw: a thousand float updates stay with the oracle") {
  const OpRecord record = adamw_record(256, {.bias_correction = true, .adam_step = 5});
  Run exact(record, DType::f64);
  for (int step = 0; step < 1000; ++step) exact.forward();
  for (const Execution& e : executions(record)) {
    if (e.dtype == DType::f64) continue;
    Run run(record, e.dtype, {}, e.backend);
    for (int step = 0; step < 1000; ++step) run.forward();
    // Each update of about 1e-3 is rounded at most to half an ulp of a parameter near 1.
    check_close("param, " + name_of(e), run.values("param"), exact.values("param"), 1000 * 0x1p-24);
  }
}

TEST_CASE("adamw: nothing moves after a gradient that is not finite") {
  const OpRecord record = adamw_record(300, {.factor = 0.5, .finite = 0});
  for (const Execution& e : executions(record)) {
    Run run(record, e.dtype, {}, e.backend);
    const auto p = run.bytes("param"), m = run.bytes("m"), v = run.bytes("v");
    run.forward();
    CHECK(run.bytes("param") == p);
    CHECK(run.bytes("m") == m);
    CHECK(run.bytes("v") == v);
  }
}

TEST_CASE("adamw: zero gradients leave only the decay") {
  OpRecord record = adamw_record(512, {});
  record.inputs = {{"grad", {512}, std::vector<double>(512, 0.0)}, {"group_ids", {2}, {0, 1}, DType::u8}};
  record.results[1].initial.assign(512, 0.0);
  record.results[2].initial.assign(512, 0.0);
  Run run(record, DType::f64);
  std::vector<double> expected = run.values("param");
  for (size_t i = 0; i < 256; ++i) expected[i] -= 1e-3 * static_cast<double>(0.01f) * expected[i];
  run.forward();
  check_close("param", run.values("param"), expected, 1e-17);
}

TEST_CASE("grad_norm: the norm and the clipping factor") {
  for (const Execution& where : norm_executions()) {
    INFO(name_of(where));
    const Norm small({0.3, 0.4}, 1, 1, where);
    CHECK(small.result.norm == Approx(0.5).epsilon(1e-7));
    CHECK(small.result.factor == 1);
    CHECK(small.result.finite == 1);
    const Norm large({3, 4}, 1, 1, where);
    CHECK(large.result.norm == 5);
    CHECK(large.result.factor == 0.2);
    const Norm zero({0, 0, 0}, 1, 1, where);
    CHECK(zero.result.norm == 0);
    CHECK(zero.result.factor == 1);
    CHECK(Norm({}, 1, 1, where).result.norm == 0);
    CHECK(Norm({3, 4}, 1, 2.5, where).result.factor == 0.5);
  }
}

// 2.5 million elements: each of the device's blocks goes over the buffer three times.
TEST_CASE("grad_norm: any size, against a plain sum, the same bits for any number of threads and under every schedule") {
  for (const int64_t n : {1, 3, 4, 15, 16, 17, 255, 257, 1024, 1025, 65535, 65536, 65537, 200001, 2500001}) {
    const std::vector<double> grad = Random(7).normals(n, 1e-3);
    double squares = 0;
    for (const double g : grad) squares += g * g;
    const GradNorm one = Norm(grad, 0, 1, kFloatOnCpu, 1).result;
    INFO(n << " elements");
    CHECK(one.norm == Approx(std::sqrt(squares)).epsilon(1e-12));
    for (const int threads : {2, 4}) CHECK(Norm(grad, 0, 1, kFloatOnCpu, threads).result.norm == one.norm);
    if constexpr (kHasCudaBackend) {
      const Execution device{DType::f32, Backend::cuda};
      const double norm = Norm(grad, 0, 1, device).result.norm;
      CHECK(norm == Approx(std::sqrt(squares)).epsilon(1e-12));
      for (int schedule = 1; schedule < std::min(gpu::test_schedules(), n < 1000000 ? 6 : 2); ++schedule) {
        gpu::use_test_schedule(schedule);
        const double again = Norm(grad, 0, 1, device).result.norm;
        gpu::use_test_schedule(0);
        CHECK(again == norm);
      }
    }
  }
}

TEST_CASE("grad_norm: no finite float gradient overflows or vanishes") {
  for (const Execution& where : norm_executions()) {
    if (where.dtype == DType::f64) continue;
    CHECK(Norm({3e30, 4e30}, 0, 1, where).result.norm == Approx(5e30).epsilon(1e-6));
    CHECK(Norm({3e30, 4e30}, 0, 1, where).result.finite == 1);
    CHECK(Norm({3e-30, 4e-30}, 0, 1, where).result.norm == Approx(5e-30).epsilon(1e-6));
  }
}

TEST_CASE("grad_norm: a gradient or a loss that is not finite stops the update") {
  for (const Execution& where : norm_executions())
    for (const double bad : {kInfinity, -kInfinity, kNan}) {
      std::vector<double> grad(1000, 0.001);
      grad[777] = bad;
      const Norm in_gradient(grad, 1, 1, where), in_loss({0.5, 0.5}, bad, 1, where);
      for (const Norm& norm : {in_gradient, in_loss}) {
        CHECK(norm.result.finite == 0);
        CHECK(norm.result.factor == 0);
      }
    }
}

void check_device_refuses() {
  if constexpr (kHasCudaBackend) {
    Stream stream = test_device().stream();
    const DeviceValue<std::array<float, 8>> values(stream);
    const DeviceValue<std::array<uint8_t, 4>> ids(stream);
    const DeviceValue<std::array<ParameterGroup, 2>> groups(stream, kGroups);
    const DeviceValue<GradNorm> norm(stream);
    const DeviceValue<StepState> state(stream);
    const Tensor four{values.data(), {4}, DType::f32}, three{values.data(), {3}, DType::f32}, doubles{values.data(), {4}, DType::f64};
    const AdamW good{.param = four, .grad = four, .m = four, .v = four, .group_ids = ids.data()->data(), .groups = groups.data()->data(),
                     .grad_norm = norm.data(), .state = state.data()};
    const auto error = [&](auto change) {
      AdamW args = good;
      change(args);
      return error_of<Error>([&] { adamw<Backend::cuda>(args, stream); });
    };
    CHECK(error([&](AdamW& a) { a.m = three; }) == "[adamw] m has shape (3), expected (4)");
    CHECK(error([&](AdamW& a) { a.param = doubles; }) == "[adamw] param has type f64, expected f32");
    CHECK(error([&](AdamW& a) { a.copy = four; }) == "[adamw] copy has type f32, expected bf16");
    CHECK(error([&](AdamW& a) { a.v = {values.data()->data() + 1, {4}, DType::f32}; }) ==
          "[adamw] v lies at an address that is no multiple of 16 bytes");
    CHECK(error([&](AdamW& a) { a.grad_norm = nullptr; }) == "[adamw] expected the result of grad_norm, got none");
    CHECK(error([&](AdamW& a) { a.state = nullptr; }) == "[adamw] expected a step state, got none");
    const auto norm_error = [&](const Tensor& grad, const Tensor& loss) {
      return error_of<Error>([&] {
        grad_norm<Backend::cuda>({.grad = grad, .loss = loss, .result = norm.data(), .workspace = {}}, stream);
      });
    };
    CHECK(norm_error(doubles, four) == "[grad_norm] grad has type f64, expected f32");
    CHECK(norm_error(four, four) == "[grad_norm] loss has shape (4), expected (1)");
    CHECK(norm_error(four, {values.data(), {1}, DType::f32}) == "[grad_norm] workspace has 0 bytes, expected at least 256");
  }
}

TEST_CASE("optimizer: wrong tensors are named") {
  ThreadPool pool(1);
  Stream stream(pool);
  float data[8] = {};
  uint8_t ids[1] = {};
  const GradNorm norm;
  const StepState state;
  const Tensor eight{data, {8}, DType::f32}, seven{data, {7}, DType::f32}, doubles{data, {8}, DType::f64};
  AdamW good{.param = eight, .grad = eight, .m = eight, .v = eight, .group_ids = ids, .groups = kGroups.data(), .grad_norm = &norm, .state = &state};
  CHECK_NOTHROW(adamw<Backend::cpu>(good, stream));
  AdamW args = good;
  args.m = seven;
  CHECK_THROWS_WITH(adamw<Backend::cpu>(args, stream), "[adamw] m has shape (7), expected (8)");
  args = good;
  args.grad = doubles;
  CHECK_THROWS_WITH(adamw<Backend::cpu>(args, stream), "[adamw] grad has type f64, expected f32");
  args = good;
  args.param = args.grad = args.m = args.v = {data, {8}, DType::i32};
  CHECK_THROWS_AS(adamw<Backend::cpu>(args, stream), ShapeError);
  for (Tensor AdamW::* buffer : {&AdamW::param, &AdamW::grad, &AdamW::m, &AdamW::v}) {
    args = good;
    (args.*buffer).data = nullptr;
    CHECK_THROWS_WITH(adamw<Backend::cpu>(args, stream), Catch::EndsWith(" has no memory, expected shape (8)"));
  }
  const std::pair<void (*)(AdamW&), const char*> missing[] = {
      {[](AdamW& a) { a.group_ids = nullptr; }, "[adamw] expected group ids and groups, got none"},
      {[](AdamW& a) { a.groups = nullptr; }, "[adamw] expected group ids and groups, got none"},
      {[](AdamW& a) { a.grad_norm = nullptr; }, "[adamw] expected the result of grad_norm, got none"},
      {[](AdamW& a) { a.state = nullptr; }, "[adamw] expected a step state, got none"}};
  for (const auto& [remove, error] : missing) {
    args = good;
    remove(args);
    CHECK_THROWS_WITH(adamw<Backend::cpu>(args, stream), error);
  }
  GradNorm result;
  const Tensor one{data, {1}, DType::f32};
  const auto norm_error = [&](const Tensor& grad, const Tensor& loss, GradNorm* to) {
    return error_of<Error>([&] { grad_norm<Backend::cpu>({.grad = grad, .loss = loss, .result = to, .workspace = {}}, stream); });
  };
  CHECK(norm_error(eight, {data, {1}, DType::i32}, &result) == "[grad_norm] loss has type i32, expected f32");
  CHECK(norm_error(eight, {nullptr, {1}, DType::f32}, &result) == "[grad_norm] loss has no memory, expected shape (1)");
  CHECK(norm_error({nullptr, {8}, DType::f32}, one, &result) == "[grad_norm] grad has no memory, expected shape (8)");
  CHECK(norm_error(eight, one, nullptr) == "[grad_norm] expected a place for the result, got none");
  CHECK_THROWS_WITH(grad_norm<Backend::cpu>({.grad = eight, .loss = eight, .result = &result, .workspace = {}}, stream),
                    "[grad_norm] loss has shape (8), expected (1)");
  CHECK_THROWS_WITH(grad_norm<Backend::cpu>({.grad = eight, .loss = {data, {1}, DType::f32}, .result = &result, .workspace = {}}, stream),
                    "[grad_norm] workspace has 0 bytes, expected at least 64");
  check_device_refuses();
}

// The gradients once, and 8 bytes a block, which the second launch reads with the loss.
TEST_CASE("grad_norm on the device: traffic", traffic_tag()) {
  if constexpr (kGpuBuild == GpuBuild::SIMT) {
    constexpr uint64_t kBlocks = 1056, kSize = (2 * kBlocks + 5) * 1024;  // blocks take two or three steps of 1,024
    const std::vector<double> grad = Random(1).normals(kSize);
    const simt::Traffic traffic = moved([&] { Norm(grad, 1, 1, {DType::f32, Backend::cuda}); });
    check_moved(traffic, 4 * kSize + 8 * kBlocks + 4, 8 * kBlocks + sizeof(GradNorm));
    check_near(traffic.read_bytes + traffic.write_bytes, 4 * kSize);
  }
}

// p, m, v, g read, p, m, v and the copy written once; a warp also reads what is of its 256 elements: group id, group, and of the step
// the learning rate, the norm's factor and whether it is finite.
TEST_CASE("adamw on the device: traffic", traffic_tag()) {
  if constexpr (kGpuBuild == GpuBuild::SIMT)
    for (const bool has_copy : {false, true}) {
      constexpr uint64_t kSize = 21 * 256;
      OpRecord record = adamw_record(kSize, {});
      if (has_copy) record.results.push_back({.name = "copy", .shape = {kSize}, .cotangent = false, .dtype = DType::bf16});
      Run run(record, DType::f32, {}, Backend::cuda);
      const simt::Traffic traffic = moved([&] { run.forward(); });
      check_moved(traffic, 16 * kSize + kSize / 256 * (1 + 8 + 8 + 8 + 4), (has_copy ? 14 : 12) * kSize);
      CHECK(traffic.write_sectors * 32 == traffic.write_bytes);
      check_near(traffic.read_bytes + traffic.write_bytes, (has_copy ? 30 : 28) * kSize);
    }
}

TEST_CASE("adamw on the device: a sweep of sizes", kDeviceSweep) {
  Random random(18);
  for (int i = 0; i < 200; ++i) {
    const int64_t n = random.extent(9000);
    check_device(adamw_record(n, {.bias_correction = i % 2 == 0, .adam_step = static_cast<uint32_t>(1 + i)}));
    if constexpr (kHasCudaBackend) check_copy(n);
  }
}
