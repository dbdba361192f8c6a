// The vector functions that the float kernels are made of, for every instruction set that this processor has.
#include <bit>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "kernels/core/philox.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/vector/kernels.h"
#include "tests/op_test.h"

namespace electra::cpu {
namespace baseline { VectorKernels make_table(); }
#if defined(__x86_64__)
namespace avx2 { VectorKernels make_table(); }
namespace avx512 { VectorKernels make_table(); }
#endif
}  // namespace electra::cpu

using namespace electra;

namespace {

std::vector<std::pair<std::string, cpu::VectorKernels>> tables() {
  std::vector<std::pair<std::string, cpu::VectorKernels>> all{{"baseline", cpu::baseline::make_table()}};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) all.emplace_back("avx2", cpu::avx2::make_table());
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw"))
    all.emplace_back("avx512", cpu::avx512::make_table());
#endif
  return all;
}

// Floats of [low, high] at even steps of their bit patterns: every exponent is visited.
std::vector<float> floats_between(float low, float high, uint32_t step) {
  std::vector<float> v;
  for (uint64_t bits = 0; bits < uint64_t{1} << 32; bits += step) {
    const float x = std::bit_cast<float>(static_cast<uint32_t>(bits));
    if (x >= low && x <= high) v.push_back(x);
  }
  return v;
}

using Pass = void (*)(const float* x, float* y, int64_t n);

// CHECKs |f(x) − exact(x)| <= bound(x, exact) for all of them; prints the worst share of the bound.
void check_function(const std::string& what, Pass f, const std::vector<float>& x, const std::function<double(double)>& exact,
                    const std::function<double(double, double)>& bound) {
  std::vector<float> y(x.size());
  f(x.data(), y.data(), static_cast<int64_t>(x.size()));
  double worst = 0;
  size_t at = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double expected = exact(x[i]), share = std::abs(y[i] - expected) / bound(x[i], expected);
    if (!(share <= worst)) {
      worst = share;
      at = i;
    }
  }
  INFO(what << "(" << x[at] << ") is " << y[at] << ", expected " << exact(x[at]) << ": " << worst << " of the bound, " << x.size()
            << " values");
  CHECK(x.size() > 1000);
  CHECK(worst <= 1);
}

double cdf(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }

}  // namespace

TEST_CASE("exp is within 2e-7 over the whole range") {
  const auto values = floats_between(-87, 88, 1499);
  for (const auto& [isa, table] : tables()) {
    check_function(isa + " exp", table.exp, values, [](double x) { return std::exp(x); },
                   [](double, double y) { return 2e-7 * y; });
    const float infinity = std::numeric_limits<float>::infinity();
    const std::vector<float> x{-infinity, -1e30f, -88, 89, 1e30f, infinity, 0, -0.0f};
    std::vector<float> y(x.size());
    table.exp(x.data(), y.data(), 8);
    CHECK(y == std::vector<float>{0, 0, 0, infinity, infinity, infinity, 1, 1});
    for (const uint32_t bits : {0x7fc00000u, 0xffc00000u, 0xffffffffu, 0x7fc00001u}) {  // whatever the payload
      const float nan = std::bit_cast<float>(bits);
      table.exp(&nan, y.data(), 1);
      INFO(isa << ", payload " << bits);
      CHECK(std::isnan(y[0]));
    }
  }
}

TEST_CASE("log is within 2e-7 for normal numbers") {
  const auto values = floats_between(std::numeric_limits<float>::min(), std::numeric_limits<float>::max(), 1499 * 16);
  const auto near_one = floats_between(0.5f, 2.0f, 149);
  for (const auto& [isa, table] : tables())
    for (const auto& x : {values, near_one})
      check_function(isa + " log", table.log, x, [](double v) { return std::log(v); },
                     [](double, double y) { return 2e-7 * std::max(std::abs(y), 0.5); });
}

// The Gumbel noise −log(−log u) of the smallest and the largest draw is finite.
TEST_CASE("log of a logarithm at both ends of uniform_open") {
  for (const auto& [isa, table] : tables())
    for (const float u : {uniform_open(0), uniform_open(~0u)}) {
      float once = 0, twice = 0;
      table.log(&u, &once, 1);
      once = -once;
      table.log(&once, &twice, 1);
      INFO(isa << ", u = " << u);
      CHECK(std::abs(twice - std::log(-std::log(static_cast<double>(u)))) < 1e-5);
    }
}

TEST_CASE("the normal distribution function is right in both tails") {
  const auto values = floats_between(-12.5f, 12.5f, 1499);
  for (const auto& [isa, table] : tables()) {
    check_function(isa + " normal_cdf", table.normal_cdf, values, cdf,
                   [](double x, double y) { return (5e-7 + 3e-8 * x * x) * y; });
    const std::vector<float> x{-1e30f, -40, 0, 40, 1e30f};
    std::vector<float> y(x.size());
    table.normal_cdf(x.data(), y.data(), 5);
    CHECK(y[0] < 1e-36f);
    CHECK(y[1] < 1e-36f);
    CHECK(y[2] == Approx(0.5).epsilon(2e-7));
    CHECK(y[3] == 1);
    CHECK(y[4] == 1);
  }
}

TEST_CASE("sixteen draws at once are the draws one by one") {
  test::Random random(3);
  for (const auto& [isa, table] : tables())
    for (int i = 0; i < 200; ++i) {
      const uint64_t key = random.bits();
      const auto step = static_cast<uint32_t>(random.bits()), sequence = static_cast<uint32_t>(random.bits());
      // The group counter wraps.
      const uint32_t position = static_cast<uint32_t>(random.bits()), group = i < 16 ? ~0u - static_cast<uint32_t>(i) : static_cast<uint32_t>(random.bits());
      uint32_t words[64];
      table.philox(key, step, sequence, position, group, words);
      bool equal = true;
      for (uint32_t call = 0; call < 16; ++call) {
        const Bits128 bits = philox(key, {step, sequence, position, group + call});
        equal = equal && std::memcmp(bits.word, words + 4 * call, sizeof bits.word) == 0;
      }
      INFO(isa << ", draw " << i);
      CHECK(equal);
    }
}

TEST_CASE("column sums, biases and their tails") {
  for (const auto& [isa, table] : tables())
    for (const int64_t cols : {1, 15, 16, 17, 40}) {
      INFO(isa << ", " << cols << " columns");
      constexpr int64_t kRows = 3;
      const std::vector<double> random = test::Random(1).normals(kRows * cols), bias_values = test::Random(2).normals(cols);
      const std::vector<float> x(random.begin(), random.end()), bias(bias_values.begin(), bias_values.end());
      std::vector<float> sums(static_cast<size_t>(cols), 1.0f), y = x;
      table.add_column_sums(x.data(), sums.data(), kRows, cols);
      table.add_bias(y.data(), bias.data(), kRows, cols);
      for (size_t c = 0; c < bias.size(); ++c) {
        CHECK(sums[c] == ((1.0f + x[c]) + x[c + bias.size()]) + x[c + 2 * bias.size()]);
        for (size_t r = 0; r < kRows; ++r) CHECK(y[r * bias.size() + c] == x[r * bias.size() + c] + bias[c]);
      }
    }
}
