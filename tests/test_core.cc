#include <atomic>
#include <catch2/catch.hpp>
#include <cstring>
#include <numeric>
#include <set>
#include <thread>
#include <vector>

#include "kernels/core/device.h"
#include "kernels/core/error.h"
#include "kernels/core/philox.h"
#include "kernels/core/tensor.h"
#include "kernels/core/thread_pool.h"
#include "tests/golden/philox_draws.h"

using namespace electra;

namespace {

std::vector<uint32_t> words(const Bits128& bits) { return {bits.word, bits.word + 4}; }

}  // namespace

// Random123's kat_vectors, lines "philox4x32 10".
TEST_CASE("an error knows its place and what it says") {
  const Error error("a [b] c", "expected d] e, got f");
  CHECK(std::string(error.what()) == "[a [b] c] expected d] e, got f");
  CHECK(error.where() == "a [b] c");
  CHECK(error.detail() == "expected d] e, got f");
  const Error copy = error;  // the views are of its own text
  CHECK(copy.where() == "a [b] c");
}

TEST_CASE("philox gives the published known answers") {
  CHECK(words(philox(0, {0, 0, 0, 0})) == std::vector<uint32_t>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(words(philox(~uint64_t{0}, {~0u, ~0u, ~0u, ~0u})) ==
        std::vector<uint32_t>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(words(philox(0x299f31d0a4093822, {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344})) ==
        std::vector<uint32_t>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("draws by seed, site and coordinates are the golden ones") {
  const uint64_t key = 20200323u ^ fnv1a64("discriminator/layer_3/attention/dropout");
  for (uint32_t i = 0; i < 16; ++i) {
    INFO("call " << i);
    const Bits128 bits = philox(key, {1000 + i / 8, i % 8, 3 * i, i * 65536 + i});
    for (int w = 0; w < 4; ++w) CHECK(bits.word[w] == kPhiloxDraws[i][w]);
  }
}

TEST_CASE("fnv1a64 gives the published values") {
  CHECK(fnv1a64("") == 0xcbf29ce484222325u);
  CHECK(fnv1a64("a") == 0xaf63dc4c8601ec8cu);
  CHECK(fnv1a64("foobar") == 0x85944171f73967e8u);
}

TEST_CASE("a call has eight 16-bit draws, low half first") {
  const Bits128 bits{{0x22221111u, 0x44443333u, 0x66665555u, 0x88887777u}};
  for (int slot = 0; slot < 8; ++slot) CHECK(draw16(bits, slot) == 0x1111u * static_cast<uint32_t>(slot + 1));
}

TEST_CASE("uniform_open is inside (0, 1) and symmetric") {
  CHECK(uniform_open(0) == 0x1p-24f);
  CHECK(uniform_open(0xffffffffu) == 1 - 0x1p-24f);
  CHECK(uniform_open(0x80000000u) == 0.5f + 0x1p-24f);
  CHECK(uniform_open(511) == uniform_open(0));
  CHECK(uniform_open(512) == 3 * 0x1p-24f);
}

TEST_CASE("dropout keeps an exact share and its expectation is exactly 1") {
  for (const double p : {0.1, 0.5, 0.25, 0.01, 1e-4, 0.9}) {
    INFO("drop_p " << p);
    const Dropout dropout{.drop_p = p};
    int64_t kept = 0;
    for (uint32_t draw = 0; draw < 65536; ++draw) kept += draw < dropout.keep_threshold();
    CHECK(kept == std::lround(65536 * (1 - p)));
    CHECK(static_cast<double>(kept) * dropout.keep_scale() / 65536 == 1);
    CHECK(dropout.active());
  }
  CHECK_FALSE(Dropout{}.active());
  CHECK(Dropout{}.keep_threshold() == 65536);
  CHECK(Dropout{}.keep_scale() == 1);
}

TEST_CASE("a pool runs every item once on a valid worker") {
  for (const int threads : {1, 2, 3, 4, 8}) {
    ThreadPool pool(threads);
    CHECK(pool.threads() == threads);
    for (const int64_t items : {0, 1, 2, 3, 7, 64, 1000}) {
      INFO(threads << " threads, " << items << " items");
      std::vector<std::atomic<int>> runs(static_cast<size_t>(items));
      std::atomic<int> bad_workers{0};
      pool.parallel_for(items, [&](int64_t item, int worker) {
        ++runs[static_cast<size_t>(item)];
        if (worker < 0 || worker >= threads) ++bad_workers;
      });
      CHECK(bad_workers == 0);
      CHECK(std::all_of(runs.begin(), runs.end(), [](const std::atomic<int>& n) { return n == 1; }));
    }
  }
}

TEST_CASE("a striped pool gives every worker its share, on a thread of its own") {
  for (const int threads : {1, 2, 3, 4}) {
    ThreadPool pool(threads, Assignment::striped);
    for (const int64_t items : {0, 2, 3, 4, 7, 1000}) {
      INFO(threads << " threads, " << items << " items");
      std::vector<int> worker(static_cast<size_t>(items), -1);
      std::vector<std::thread::id> thread(static_cast<size_t>(items));
      pool.parallel_for(items, [&](int64_t item, int w) {
        worker[static_cast<size_t>(item)] = w;
        thread[static_cast<size_t>(item)] = std::this_thread::get_id();
      });
      for (int64_t i = 0; i < items; ++i) CHECK(worker[static_cast<size_t>(i)] == i % threads);
      CHECK(std::set(thread.begin(), thread.end()).size() == static_cast<size_t>(std::min<int64_t>(items, threads)));
    }
  }
}

TEST_CASE("a pool of no threads still has the calling one") {
  CHECK(ThreadPool(0).threads() == 1);
  CHECK(ThreadPool(-3).threads() == 1);
}

TEST_CASE("calls follow one another without losing or sharing items") {
  ThreadPool pool(4);
  std::vector<int64_t> value(257, 0);
  for (int call = 0; call < 5000; ++call)
    pool.parallel_for(1 + call % 257, [&](int64_t item, int) { ++value[static_cast<size_t>(item)]; });
  // Item i takes part in the calls with at least i + 1 items.
  for (int64_t i = 0; i < 257; ++i) {
    int64_t expected = 0;
    for (int call = 0; call < 5000; ++call) expected += 1 + call % 257 > i;
    INFO("item " << i);
    CHECK(value[static_cast<size_t>(i)] == expected);
  }
}

TEST_CASE("what a call wrote is seen by the next one") {
  ThreadPool pool(4);
  std::vector<double> a(1000), b(1000);
  for (int call = 0; call < 500; ++call) {
    pool.parallel_for(1000, [&](int64_t i, int) { a[static_cast<size_t>(i)] = static_cast<double>(call + i); });
    pool.parallel_for(1000, [&](int64_t i, int) { b[static_cast<size_t>(i)] = a[static_cast<size_t>(999 - i)]; });
    double sum = std::accumulate(b.begin(), b.end(), 0.0);
    REQUIRE(sum == 1000.0 * call + 499500);
  }
}

TEST_CASE("pools live beside one another and come and go") {
  int64_t total = 0;
  for (int round = 0; round < 50; ++round) {
    ThreadPool one(2), two(3);
    std::atomic<int64_t> sum{0};
    one.parallel_for(10, [&](int64_t i, int) { sum += i; });
    two.parallel_for(10, [&](int64_t i, int) { sum += i; });
    total += sum;
  }
  CHECK(total == 50 * 90);
  CHECK(available_cores() >= 1);
}

TEST_CASE("a shape knows its extents") {
  const Shape shape{2, 3, 5};
  CHECK(shape.rank() == 3);
  CHECK(shape[0] == 2);
  CHECK(shape[-1] == 5);
  CHECK(shape.size() == 30);
  CHECK(shape.rows() == 6);
  CHECK(shape.str() == "(2, 3, 5)");
  CHECK(shape == Shape{2, 3, 5});
  CHECK_FALSE(shape == Shape{2, 3});
  CHECK_FALSE(Shape{2, 3} == shape);
  CHECK_FALSE(shape == Shape{2, 3, 6});
  CHECK(Shape{}.size() == 1);
  CHECK(Shape{}.str() == "()");
  CHECK(Shape{0, 7}.size() == 0);
}

TEST_CASE("shapes that cannot be are refused") {
  CHECK_THROWS_AS((Shape{1, 2, 3, 4, 5}), ShapeError);
  CHECK_THROWS_WITH((Shape{1, 2, 3, 4, 5}), "[shape] expected at most 4 axes, got 5");
  CHECK_THROWS_WITH((Shape{2, -1}), "[shape] expected extents of at least 0, got -1");
}

TEST_CASE("a wrong shape or type is named with both values") {
  CHECK_THROWS_WITH(check_shape("discriminator/layer_3/layer_norm", "gamma", {255}, {256}),
                    "[discriminator/layer_3/layer_norm] gamma has shape (255), expected (256)");
  CHECK_THROWS_AS(check_shape("op", "x", {1}, {2}), ShapeError);
  CHECK_NOTHROW(check_shape("op", "x", {1, 2}, {1, 2}));
  CHECK_THROWS_WITH(check_dtype("op", "x", DType::f64, DType::f32), "[op] x has type f64, expected f32");
  CHECK_NOTHROW(check_dtype("op", "x", DType::i32, DType::i32));
}

TEST_CASE("tensors count rows, columns and bytes by their type") {
  const Tensor t{nullptr, {4, 6}, DType::f64};
  CHECK(t.rows() == 4);
  CHECK(t.cols() == 6);
  CHECK(t.bytes() == 192);
  CHECK_FALSE(t);
  CHECK(TensorSpec{{3}, DType::bf16}.bytes() == 6);
  CHECK(size_of(DType::i64) == 8);
  CHECK(size_of(DType::u8) == 1);
}

TEST_CASE("buffers are aligned and zeroed") {
  for (const size_t bytes : {1u, 63u, 64u, 65u, 4097u}) {
    const Buffer buffer(bytes);
    CHECK(buffer.bytes() == bytes);
    CHECK(reinterpret_cast<uintptr_t>(buffer.data()) % Buffer::kAlignment == 0);
    CHECK(std::all_of(buffer.data(), buffer.data() + bytes, [](std::byte b) { return b == std::byte{0}; }));
  }
  CHECK(Buffer(0).data() == nullptr);
// Sanitizers end the process instead of refusing.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  CHECK_THROWS_AS(Buffer(size_t{1} << 62), DeviceError);
#endif
}
