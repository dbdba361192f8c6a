// Conformance of kernels/device_sm90.cuh; on a GPU it needs one of compute capability 9.0.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <random>
#include <vector>

#include "tests/simt/device_array.h"
#include "tests/simt/primitives_sm90.h"
#include "tests/simt/schedules.h"

using namespace electra;
using electra::test::DeviceArray;

namespace {

std::mt19937_64 rng(90);

std::vector<bf16> small_integers(size_t n) {
  std::vector<bf16> v(n);
  for (bf16& x : v) x = to_bf16(static_cast<float>(static_cast<int>(rng() % 9) - 4));
  return v;
}

}  // namespace

TEST_CASE("bulk tensor copies, mbarriers and wgmma multiply exactly where the numbers are exact") {
  // The ring of three is passed through more than twice; rows and columns end within a tile.
  const int rows = 100, columns = 136, depth = 64 * 7;
  const auto a = small_integers(static_cast<size_t>(rows * depth)), b = small_integers(static_cast<size_t>(columns * depth));
  const DeviceArray<bf16> da(a), db(b);
  std::vector<float> expected;
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < columns; ++j) {
      float sum = 0;
      for (int k = 0; k < depth; ++k) sum += to_float(a[static_cast<size_t>(i * depth + k)]) * to_float(b[static_cast<size_t>(j * depth + k)]);
      expected.push_back(sum);
    }
  }
  test::for_each_schedule([&] {
    for (const int n : {64, 128}) {
      const DeviceArray<float> c(expected.size());
      test::run_gemm_sm90(c.data(), da.data(), db.data(), rows, columns, depth, n);
      INFO("blocks of 64 x " << n);
      CHECK(c.get() == expected);
    }
  });
}

TEST_CASE("wgmma takes A from registers and a transposed B from a swizzled tile") {
  test::for_each_schedule([] {
    for (const int n : {64, 128}) {
      for (const int depth : {16, 64}) {
        const auto p = small_integers(static_cast<size_t>(64 * depth)), v = small_integers(static_cast<size_t>(depth * n));
        std::vector<float> d0(static_cast<size_t>(64 * n));
        for (float& x : d0) x = static_cast<float>(rng() % 100);
        std::vector<float> expected = d0;
        for (int i = 0; i < 64; ++i) {
          for (int j = 0; j < n; ++j) {
            for (int k = 0; k < depth; ++k) {
              expected[static_cast<size_t>(i * n + j)] +=
                  to_float(p[static_cast<size_t>(i * depth + k)]) * to_float(v[static_cast<size_t>(k * n + j)]);
            }
          }
        }
        const DeviceArray<bf16> dp(p), dv(v);
        const DeviceArray<float> dd0(d0), d(d0.size());
        test::run_wgmma_from_registers(d.data(), dd0.data(), dp.data(), dv.data(), depth, n);
        INFO("64 x " << n << ", depth " << depth);
        CHECK(d.get() == expected);
      }
    }
  });
}

TEST_CASE("bulk copies bring their bytes") {
  std::vector<uint8_t> in(512 * 7);
  for (uint8_t& x : in) x = static_cast<uint8_t>(rng());
  const DeviceArray<uint8_t> din(in);
  test::for_each_schedule([&] {
    const DeviceArray<uint8_t> out(in.size());
    test::run_bulk_load(out.data(), din.data(), static_cast<int>(in.size()));
    CHECK(out.get() == in);
  });
}
