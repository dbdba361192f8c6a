// Conformance: every primitive of kernels/device.cuh against a reference of its own, written from the PTX manual's tables and
// not from the executor. On a GPU this is the first test to run: kernels and executor share one reading of the manual.
#include <algorithm>
#include <bit>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>

#include "tests/simt/device_array.h"
#include "tests/simt/primitives.h"
#include "tests/simt/schedules.h"

using namespace electra;
using electra::test::DeviceArray;

namespace {

std::mt19937_64 rng(20260101);

std::vector<float> normal(size_t n) {
  std::normal_distribution<float> draw;
  std::vector<float> v(n);
  for (float& x : v) x = draw(rng);
  return v;
}
std::vector<bf16> as_bf16(const std::vector<float>& x) {
  std::vector<bf16> v(x.size());
  for (size_t i = 0; i < x.size(); ++i) v[i] = to_bf16(x[i]);
  return v;
}
std::vector<bf16> small_integers(size_t n) {
  std::vector<bf16> v(n);
  for (bf16& x : v) x = to_bf16(static_cast<float>(static_cast<int>(rng() % 17) - 8));
  return v;
}
// The product in double, rounded to fp32 by the caller's bound.
std::vector<double> product(const std::vector<bf16>& a, const std::vector<bf16>& b, const std::vector<float>& c) {
  std::vector<double> d(16 * 8);
  for (size_t i = 0; i < 16; ++i) {
    for (size_t j = 0; j < 8; ++j) {
      d[i * 8 + j] = c[i * 8 + j];
      for (size_t k = 0; k < 16; ++k) d[i * 8 + j] += double{to_float(a[i * 16 + k])} * to_float(b[k * 8 + j]);
    }
  }
  return d;
}
uint32_t bits_of(float x) { return std::bit_cast<uint32_t>(x); }

}  // namespace

TEST_CASE("mma multiplies 16x16 by 16x8 exactly where the numbers are exact") {
  test::for_each_schedule([] {
    const auto a = small_integers(256), b = small_integers(128);
    std::vector<float> c(128);
    for (float& x : c) x = static_cast<float>(rng() % 1000);
    const DeviceArray<bf16> da(a), db(b);
    const DeviceArray<float> dc(c), d(128);
    test::run_mma(d.data(), da.data(), db.data(), dc.data());
    const auto expected = product(a, b, c);
    const auto got = d.get();
    for (size_t i = 0; i < 128; ++i) {
      INFO("element " << i);
      CHECK(got[i] == expected[i]);
    }
  });
}

TEST_CASE("mma rounds no more than a sum of sixteen fp32 products") {
  test::for_each_schedule([] {
    const auto a = as_bf16(normal(256)), b = as_bf16(normal(128));
    const auto c = normal(128);
    const DeviceArray<bf16> da(a), db(b);
    const DeviceArray<float> dc(c), d(128);
    test::run_mma(d.data(), da.data(), db.data(), dc.data());
    const auto expected = product(a, b, c);
    const auto got = d.get();
    for (size_t i = 0; i < 128; ++i) {
      INFO("element " << i);
      CHECK(std::abs(got[i] - expected[i]) < 1e-5);  // a tensor core truncates: up to 2^-20 of the largest product
    }
  });
}

TEST_CASE("mma takes its operands from ldmatrix, plain and transposed") {
  test::for_each_schedule([] {
    const auto a = small_integers(256), b = small_integers(128);
    std::vector<bf16> transposed(128);
    for (size_t k = 0; k < 16; ++k) {
      for (size_t n = 0; n < 8; ++n) transposed[n * 16 + k] = b[k * 8 + n];
    }
    const auto expected = product(a, b, std::vector<float>(128));
    const DeviceArray<bf16> da(a), db(b), dt(transposed);
    for (const bool is_transposed : {false, true}) {
      const DeviceArray<float> d(128);
      test::run_mma_from_shared(d.data(), da.data(), is_transposed ? dt.data() : db.data(), is_transposed);
      const auto got = d.get();
      for (size_t i = 0; i < 128; ++i) {
        INFO("element " << i << " transposed " << is_transposed);
        CHECK(got[i] == expected[i]);
      }
    }
  });
}

TEST_CASE("ldmatrix gives each lane the elements that the PTX manual says") {
  test::for_each_schedule([] {
    std::vector<uint16_t> rows(64 * 8);
    for (uint16_t& x : rows) x = static_cast<uint16_t>(rng());
    std::vector<int> row_of(32);
    for (int& r : row_of) r = static_cast<int>(rng() % 64);
    const DeviceArray<uint16_t> drows(rows);
    const DeviceArray<int> drow_of(row_of);
    for (const int matrices : {2, 4}) {
      for (const bool transposed : {false, true}) {
        const DeviceArray<uint32_t> out(static_cast<size_t>(32 * matrices));
        test::run_ldmatrix(out.data(), drows.data(), drow_of.data(), matrices, transposed);
        const auto got = out.get();
        for (int lane = 0; lane < 32; ++lane) {
          for (int m = 0; m < matrices; ++m) {
            const auto element = [&](int row, int column) {
              return uint32_t{rows[static_cast<size_t>(row_of[static_cast<size_t>(m * 8 + row)] * 8 + column)]};
            };
            const int major = lane / 4, minor = lane % 4 * 2;
            const uint32_t expected = transposed ? element(minor, major) | element(minor + 1, major) << 16
                                                 : element(major, minor) | element(major, minor + 1) << 16;
            INFO("lane " << lane << " matrix " << m << " of " << matrices << " transposed " << transposed);
            CHECK(got[static_cast<size_t>(lane * matrices + m)] == expected);
          }
        }
      }
    }
  });
}

TEST_CASE("asynchronous copies arrive group by group and fill with zeros") {
  test::for_each_schedule([] {
    std::vector<uint32_t> in(4 * 128 * 4);
    std::vector<uint8_t> valid(4 * 128);
    for (uint32_t& x : in) x = static_cast<uint32_t>(rng());
    for (uint8_t& x : valid) x = rng() % 3 != 0;
    const DeviceArray<uint32_t> din(in), out(in.size());
    const DeviceArray<uint8_t> dvalid(valid);
    test::run_copy_async(out.data(), din.data(), dvalid.data());
    const auto got = out.get();
    size_t zeros = 0;
    for (size_t i = 0; i < in.size(); ++i) {
      INFO("word " << i);
      CHECK(got[i] == (valid[i / 4] ? in[i] : 0));
      zeros += !valid[i / 4];
    }
    CHECK(zeros > 0);
  });
}

TEST_CASE("shuffles, votes and reductions of a warp") {
  test::for_each_schedule([] {
    auto value = normal(32);
    value[7] = value[19] = 5.5f;  // the largest, twice
    std::vector<int> source(32), index(32);
    for (int& s : source) s = static_cast<int>(rng() % 32);
    for (int& i : index) i = static_cast<int>(rng() % 1000) - 500;
    const DeviceArray<float> dvalue(value), shuffled(32), up(32), arg_value(32);
    const DeviceArray<double> exchanged(32);
    const DeviceArray<int> dsource(source), dindex(index), int_sum(32), int_max(32), arg_index(32);
    const DeviceArray<uint32_t> ballot(32);
    const DeviceArray<float> sums(6 * 32), maxima(6 * 32);
    test::WarpResults out{shuffled.data(), exchanged.data(), up.data(), {}, {}, int_sum.data(), int_max.data(),
                          arg_value.data(), arg_index.data(), ballot.data()};
    for (int i = 0; i < 6; ++i) {
      out.sum[i] = sums.data() + i * 32;
      out.max[i] = maxima.data() + i * 32;
    }
    test::run_warp(out, dvalue.data(), dsource.data(), dindex.data());

    uint32_t positive = 0;
    int total = 0, largest = index[0];
    for (size_t l = 0; l < 32; ++l) {
      positive |= uint32_t{value[l] > 0} << l;
      total += index[l];
      largest = std::max(largest, index[l]);
    }
    const auto got_sum = sums.get(), got_max = maxima.get();
    for (size_t l = 0; l < 32; ++l) {
      INFO("lane " << l);
      CHECK(shuffled.get()[l] == value[static_cast<size_t>(source[l])]);
      CHECK(exchanged.get()[l] == static_cast<double>(value[l ^ 5]) * 1.0000000001);
      CHECK(up.get()[l] == value[l < 3 ? l : l - 3]);
      CHECK(int_sum.get()[l] == total);
      CHECK(int_max.get()[l] == largest);
      CHECK(arg_value.get()[l] == 5.5f);
      CHECK(arg_index.get()[l] == std::min(index[7], index[19]));
      CHECK(ballot.get()[l] == positive);
      for (size_t i = 0; i < 6; ++i) {
        // The butterfly's order of additions, from the widest exchange to the narrowest, by recursion.
        const auto width = size_t{1} << i;
        const std::function<float(size_t, size_t)> sum = [&](size_t lane, size_t w) {
          return w == width ? value[lane] : sum(lane, w * 2) + sum(lane ^ w, w * 2);
        };
        float max = value[l / width * width];
        for (size_t k = 0; k < width; ++k) max = std::max(max, value[l / width * width + k]);
        INFO("width " << width);
        CHECK(bits_of(got_sum[i * 32 + l]) == bits_of(sum(l, 1)));
        CHECK(got_max[i * 32 + l] == max);
      }
    }
  });
}

TEST_CASE("a block's sum and maximum reach every thread") {
  test::for_each_schedule([] {
    const auto value = normal(128);
    const DeviceArray<float> dvalue(value), sum(128), max(128), second(128);
    test::run_block_reduce(sum.data(), max.data(), second.data(), dvalue.data());
    double total = 0, squares = 0;
    for (const float v : value) total += v, squares += double{v} * v;
    for (size_t i = 0; i < 128; ++i) {
      CHECK(std::abs(sum.get()[i] - total) < 1e-4);
      CHECK(std::abs(second.get()[i] - squares) < 1e-3);
      CHECK(sum.get()[i] == sum.get()[0]);
      CHECK(max.get()[i] == *std::max_element(value.begin(), value.end()));
    }
  });
}

TEST_CASE("named barriers order groups of a block by themselves") {
  test::for_each_schedule([] {
    const auto in = normal(128);
    const DeviceArray<float> din(in), out(128);
    test::run_groups(out.data(), din.data(), 3);
    const auto got = out.get();
    for (size_t i = 0; i < 64; ++i) {
      CHECK(got[i] == in[63 - i]);       // an odd number of reversals
      CHECK(got[64 + i] == in[64 + i]);  // an even one
    }
  });
}

TEST_CASE("Philox gives the same bits on the device as on the host") {
  const int count = 1000;
  std::vector<RandomCoordinates> at(count);
  for (auto& c : at) {
    c = {static_cast<uint32_t>(rng()), static_cast<uint32_t>(rng()), static_cast<uint32_t>(rng()), static_cast<uint32_t>(rng())};
  }
  at[0] = {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344};  // Random123's known answer
  const uint64_t key = 0x299f31d0a4093822;
  const DeviceArray<RandomCoordinates> dat(at);
  const DeviceArray<Bits128> bits(count);
  const DeviceArray<float> uniform(count);
  const DeviceArray<uint32_t> draws(count * 8);
  test::run_philox(bits.data(), uniform.data(), draws.data(), key, dat.data(), count);
  const auto got = bits.get();
  CHECK(got[0].word[0] == 0xd16cfe09);
  CHECK(got[0].word[1] == 0x94fdcceb);
  CHECK(got[0].word[2] == 0x5001e420);
  CHECK(got[0].word[3] == 0x24126ea1);
  for (size_t i = 0; i < count; ++i) {
    const Bits128 expected = philox(key, at[i]);
    INFO("call " << i);
    CHECK(std::memcmp(&got[i], &expected, sizeof expected) == 0);
    CHECK(bits_of(uniform.get()[i]) == bits_of(uniform_open(expected.word[i % 4])));
    for (int slot = 0; slot < 8; ++slot) CHECK(draws.get()[i * 8 + static_cast<size_t>(slot)] == draw16(expected, slot));
  }
}

TEST_CASE("every bf16 number becomes the fp32 number of the same upper half") {
  std::vector<bf16> in(1 << 16);
  for (size_t i = 0; i < in.size(); ++i) in[i] = {static_cast<uint16_t>(i)};
  const DeviceArray<bf16> din(in);
  const DeviceArray<float> out(in.size());
  test::run_to_float(out.data(), din.data(), static_cast<int>(in.size()));
  const auto got = out.get();
  size_t wrong = 0;
  for (size_t i = 0; i < in.size(); ++i) wrong += bits_of(got[i]) != static_cast<uint32_t>(i) << 16;
  CHECK(wrong == 0);
}

TEST_CASE("fp32 is rounded to the nearest bf16, ties to even") {
  std::vector<float> in = {0.0f, -0.0f, 1.0f, -1.0f, std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                           std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::max(),
                           std::numeric_limits<float>::denorm_min(), std::numeric_limits<float>::min()};
  const auto push_bits = [&](uint32_t bits) { in.push_back(std::bit_cast<float>(bits)); };
  for (const uint32_t upper : {0x3f80u, 0x3f81u, 0x7f7fu, 0x0000u, 0x0001u, 0x007fu, 0xbf80u, 0xbf81u}) {
    for (const uint32_t lower : {0x0000u, 0x0001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) push_bits(upper << 16 | lower);
  }
  push_bits(0xffc00001u);  // a negative NaN
  push_bits(0x7f800001u);  // a signalling one
  for (int i = 0; i < 20000; ++i) push_bits(static_cast<uint32_t>(rng()));
  const int count = static_cast<int>(in.size());
  const DeviceArray<float> din(in);
  const DeviceArray<bf16> out(in.size());
  const DeviceArray<uint32_t> packed(in.size());
  test::run_to_bf16(out.data(), packed.data(), din.data(), count);
  const auto got = out.get();
  const auto got_packed = packed.get();
  // The nearest of the two neighbours, by comparing distances in double.
  const auto nearest = [](float x) -> uint32_t {
    if (std::isnan(x)) return 0x7fff;
    const uint32_t below = bits_of(x) >> 16;  // towards zero
    const float low = std::bit_cast<float>(below << 16);
    if (low == x) return below;
    const double high = (below & 0x7fff) == 0x7f7f ? std::copysign(0x1p128, x) : double{std::bit_cast<float>((below + 1) << 16)};
    const double to_low = std::abs(double{x} - low), to_high = std::abs(high - x);
    return to_low < to_high || (to_low == to_high && below % 2 == 0) ? below : below + 1;
  };
  for (size_t i = 0; i < in.size(); ++i) {
    INFO("fp32 bits " << std::hex << bits_of(in[i]));
    CHECK(uint32_t{got[i].bits} == nearest(in[i]));
    CHECK(got_packed[i] == (nearest(in[i]) | nearest(in[in.size() - 1 - i]) << 16));
  }
}

TEST_CASE("vectors of 2 to 16 bytes move whole, by every way to use the caches") {
  std::vector<uint8_t> in(16 * 200);
  for (uint8_t& x : in) x = static_cast<uint8_t>(rng());
  const DeviceArray<uint8_t> din(in);
  for (const int vec_bytes : {2, 4, 8, 16}) {
    for (const int cache : {0, 1, 2}) {
      const DeviceArray<uint8_t> out(in.size());
      test::run_copy_vectors(out.data(), din.data(), static_cast<int>(in.size()), vec_bytes, cache);
      INFO("vectors of " << vec_bytes << " bytes, cache " << cache);
      CHECK(out.get() == in);
    }
  }
  const auto numbers = as_bf16(normal(512));
  const DeviceArray<bf16> dnumbers(numbers), same(512);
  const DeviceArray<float> widened(512);
  test::run_load_store_floats(same.data(), widened.data(), dnumbers.data(), 512);
  for (size_t i = 0; i < 512; ++i) {
    CHECK(same.get()[i].bits == numbers[i].bits);
    CHECK(widened.get()[i] == to_float(numbers[i]));
  }
}

TEST_CASE("atomics count what all threads of all blocks add") {
  test::for_each_schedule([] {
    const int blocks = 5, threads = blocks * 128;
    const DeviceArray<test::Counts> counts(std::vector<test::Counts>{{0, 0, 0, 0, std::numeric_limits<int32_t>::min(), 0, 0}});
    test::run_atomics(counts.data(), blocks);
    test::Counts expected{0, 0, 0, 0, -5, (1u << 31) - 1, static_cast<uint32_t>(threads) * 3};
    for (int i = 0; i < threads; ++i) {
      expected.add_u32 += static_cast<uint32_t>(i);
      expected.add_i32 += i % 2 ? -i : 1;
      expected.add_u64 += uint64_t{1} << 33;
      expected.max_u32 = std::max(expected.max_u32, static_cast<uint32_t>(i) * 7919u % 1000u);
    }
    const auto got = counts.get()[0];
    CHECK(got.add_u32 == expected.add_u32);
    CHECK(got.add_i32 == expected.add_i32);
    CHECK(got.add_u64 == expected.add_u64);
    CHECK(got.max_u32 == expected.max_u32);
    CHECK(got.max_i32 == expected.max_i32);
    CHECK(got.bits == expected.bits);
    CHECK(got.shared_add == expected.shared_add);
  });
}

TEST_CASE("approximate functions keep their bounds") {
  const int count = 4096;
  std::vector<float> in(count);
  std::uniform_real_distribution<float> exponent(-12, 5);
  for (float& x : in) x = std::exp2(exponent(rng));
  const DeviceArray<float> din(in), out(7 * count);
  float* o = out.data();
  test::run_math({o, o + count, o + 2 * count, o + 3 * count, o + 4 * count, o + 5 * count, o + 6 * count}, din.data(), count);
  const auto got = out.get();
  for (size_t i = 0; i < count; ++i) {
    const double x = in[i];
    const auto relative = [&](size_t which, double expected) { return std::abs(got[which * count + i] / expected - 1); };
    INFO("x = " << x);
    CHECK(relative(0, std::exp2(-x)) < 3e-7);
    CHECK(relative(1, std::exp(-x)) < 4e-6);  // the product x log2(e) is rounded: error up to |x| 2^-24
    CHECK(std::abs(got[2 * count + i] - std::log2(x)) < 1e-6);
    CHECK(std::abs(got[3 * count + i] - std::log(x)) < 1e-6);
    CHECK(relative(4, 1 / std::sqrt(x)) < 3e-7);
    CHECK(relative(5, std::erf(x)) < 5e-7);
    CHECK(got[6 * count + i] == static_cast<float>(std::fma(x, x, -1.0)));
  }
}

TEST_CASE("threads know where they are") {
  test::for_each_schedule([] {
    const DeviceArray<int> out(12 * 64 * 12);
    test::run_indices(out.data());
    const auto got = out.get();
    for (int i = 0; i < 12 * 64; ++i) {
      const int t = i % 64, b = i / 64;
      const std::vector<int> expected = {t % 8, t / 8 % 4, t / 32, b % 2, b / 2 % 3, b / 6, 8, 4, 2, 2, 3, 2};
      CHECK(std::vector<int>(got.begin() + i * 12, got.begin() + i * 12 + 12) == expected);
    }
  });
}
