// Does tests/op_test.h see what it is there to see? One sound op, and one for each defect: a case tagged [!shouldfail] is
// green only when a check in it fails.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

#include "tests/op_test.h"

using namespace electra;
using namespace electra::test;

namespace {

enum class Defect {
  none, wrong_gradient, zero_gradient, wrong_kernel, last_unwritten, writes_outside, reads_outside, writes_input, ignores_accumulate, ignores_none,
  depends_on_threads, depends_on_worker, differs_between_runs
};

int runs = 0;
std::map<int, std::set<int>> workers;  // that had an item, by the number of threads

// Work items of two elements.
void note_workers(ThreadPool& pool, float* y, int64_t n, Defect defect) {
  std::vector<int> worker(static_cast<size_t>((n + 1) / 2));
  pool.parallel_for((n + 1) / 2, [&](int64_t item, int w) {
    worker[static_cast<size_t>(item)] = w;
    if (defect == Defect::depends_on_worker && w == 3) y[2 * item] = std::nextafter(y[2 * item], 0.0f);
  });
  workers[pool.threads()].insert(worker.begin(), worker.end());
}

// y = x² in the run's type, dx = 2 x dy.
template <class T> void forward(const Arguments& a, int threads, Defect defect) {
  const int64_t n = a["x"].size();
  T *x = a.data<T>("x"), *y = a.data<T>("y");
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] * x[i];
  if (defect == Defect::last_unwritten) y[n - 1] = std::nan("");
  if (defect == Defect::writes_outside) y[n] = 0;
  if (defect == Defect::reads_outside) y[0] += x[n] * T(1e-30);
  if (defect == Defect::writes_input) x[0] = -x[0];
  if (sizeof(T) == 8) return;
  if (defect == Defect::wrong_kernel) *std::max_element(y, y + n) *= 1 + T(0x1p-20);  // 4 to 8 ulp
  if (defect == Defect::depends_on_threads && threads == 4) y[0] = std::nextafter(y[0], T(0));
  if (defect == Defect::differs_between_runs && ++runs % 2 == 0) y[0] = std::nextafter(y[0], T(0));
}

template <class T> void backward(const Arguments& a, Defect defect) {
  const GradMode mode = a.mode("dx");
  if (mode == GradMode::none && defect != Defect::ignores_none) return;
  for (int64_t i = 0; i < a["x"].size(); ++i) {
    T d = 2 * a.data<T>("x")[i] * a.data<T>("dy")[i];
    if (defect == Defect::wrong_gradient) d *= 1 + T(1e-6);
    if (defect == Defect::zero_gradient) d = 0;
    const bool add = mode == GradMode::accumulate && defect != Defect::ignores_accumulate;
    a.data<T>("dx")[i] = add ? a.data<T>("dx")[i] + d : d;
  }
}

OpRecord square(Defect defect) {
  runs = 0;
  OpRecord record{.name = "square"};
  record.inputs = {{"x", {37}, Random(1).normals(37)}};
  record.results = {{"y", {37}}};
  record.gradients = {{"x"}};
  record.forward = [defect](const Arguments& a, Stream& stream) {
    const int threads = stream.pool().threads();
    a.dtype == DType::f64 ? forward<double>(a, threads, defect) : forward<float>(a, threads, defect);
    if (a.dtype == DType::f32) note_workers(stream.pool(), a.data<float>("y"), a["y"].size(), defect);
  };
  record.backward = [defect](const Arguments& a, Stream&) {
    a.dtype == DType::f64 ? backward<double>(a, defect) : backward<float>(a, defect);
  };
  return record;
}

}  // namespace

TEST_CASE("a sound op passes every check") { check_op(square(Defect::none)); }

TEST_CASE("a gradient off by a millionth is seen", "[!shouldfail]") { check_gradients(square(Defect::wrong_gradient)); }
TEST_CASE("a gradient of zero is seen", "[!shouldfail]") { check_gradients(square(Defect::zero_gradient)); }
TEST_CASE("one wrong element of a kernel is seen", "[!shouldfail]") { check_kernel(square(Defect::wrong_kernel)); }
TEST_CASE("an oracle and a kernel that are wrong alike are seen", "[!shouldfail]") {
  OpRecord record = square(Defect::none);
  record.naive_forward = [](const Arguments& a) {
    for (int64_t i = 0; i < a["x"].size(); ++i) a.data<float>("y")[i] = 1.01f * a.data<float>("x")[i] * a.data<float>("x")[i];
  };
  record.naive_backward = [](const Arguments& a) { backward<float>(a, Defect::none); };
  check_kernel(record);
}
TEST_CASE("an element that is not written is seen", "[!shouldfail]") { check_kernel(square(Defect::last_unwritten)); }
// AddressSanitizer does not fail a check, it ends the process.
#if defined(__SANITIZE_ADDRESS__)
TEST_CASE("what is beside a tensor is poisoned, the tensor is not") {
  Run run(square(Defect::none), DType::f32);
  for (const char* name : {"x", "y", "dx"}) {
    const Tensor t = run.arguments()[name];
    CHECK(__asan_region_is_poisoned(t.data, t.bytes()) == nullptr);
    for (const std::byte* beside : {t.as<std::byte>() - 1, t.as<std::byte>() - 64, t.as<std::byte>() + t.bytes()})
      CHECK(__asan_address_is_poisoned(beside) == 1);
  }
  run.forward();
  run.check_memory(false);
  CHECK(__asan_address_is_poisoned(run.arguments()["y"].as<std::byte>() - 1) == 1);
}
#else
TEST_CASE("a write behind a tensor is seen", "[!shouldfail]") { check_kernel(square(Defect::writes_outside)); }
TEST_CASE("a read behind a tensor is seen", "[!shouldfail]") { check_kernel(square(Defect::reads_outside)); }
#endif
TEST_CASE("a write into an input is seen", "[!shouldfail]") { check_kernel(square(Defect::writes_input)); }
TEST_CASE("writing where accumulating was asked is seen", "[!shouldfail]") { check_grad_modes(square(Defect::ignores_accumulate)); }
TEST_CASE("writing where nothing was asked is seen", "[!shouldfail]") { check_grad_modes(square(Defect::ignores_none)); }
TEST_CASE("a result that depends on threads is seen", "[!shouldfail]") { check_determinism(square(Defect::depends_on_threads)); }
TEST_CASE("a result that depends on who computes it is seen", "[!shouldfail]") {
  check_determinism(square(Defect::depends_on_worker));
}
TEST_CASE("determinism is checked with one, two and four threads that all had work") {
  workers.clear();
  check_determinism(square(Defect::none));
  CHECK(workers == std::map<int, std::set<int>>{{1, {0}}, {2, {0, 1}}, {4, {0, 1, 2, 3}}});
}
TEST_CASE("a result that changes from run to run is seen", "[!shouldfail]") {
  check_determinism(square(Defect::differs_between_runs));
}

TEST_CASE("an input that nothing reads makes no gradient test", "[!shouldfail]") {
  OpRecord record = square(Defect::none);
  record.inputs.push_back({"unread", {3}, {1, 2, 3}});
  record.gradients.push_back({"unread"});
  record.backward = [](const Arguments& a, Stream&) {
    a.dtype == DType::f64 ? backward<double>(a, Defect::none) : backward<float>(a, Defect::none);
    for (int i = 0; i < 3; ++i)
      if (a.dtype == DType::f64) a.data<double>("dunread")[i] = 0;
  };
  check_gradients(record);
}

TEST_CASE("infinite and missing values have no small residual") {
  const double infinity = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  CHECK(largest_residual({1, infinity}, {1, infinity}).error == 0);
  CHECK(largest_residual({1, infinity}, {1, 5}).error == infinity);
  CHECK(largest_residual({nan, 1}, {1, 1}).error == infinity);
  CHECK(largest_residual({1, 1}, {1, nan}).error == infinity);
  CHECK(largest_residual({1, 2, 4}, {1, 2.5, 4}).index == 1);
}
