// The host executor itself: schedules, reports, device memory, traffic counts.
#include <catch2/catch.hpp>
#include <cmath>
#include <string>
#include <vector>

#include "kernels/device.cuh"
#include "tests/simt/device_array.h"
#include "tests/simt/schedules.h"

using namespace electra;
using Catch::Contains;
using electra::test::DeviceArray;

namespace {

struct Io {
  const float* x;
  float* y;
  int n;
};
__device__ int at() { return thread_index().x; }

template <class F>
std::string error_of(F f) {
  try {
    f();
  } catch (const simt::KernelError& e) {
    return e.what();
  }
  return "";
}

struct KeepOptions {
  simt::Options before = simt::options;
  ~KeepOptions() { simt::options = before; }
};

std::vector<float> counting(size_t n) {
  std::vector<float> v(n);
  for (size_t i = 0; i < n; ++i) v[i] = static_cast<float>(i + 1);
  return v;
}

// Each thread writes down when it ran: the number of threads before it.
__global__ void take_turn(const Io p) {
  const int turn = atomic_add(reinterpret_cast<int*>(p.y), 1);
  p.y[1 + block_index().x * block_size().x + at()] = static_cast<float>(turn);
}
__global__ void take_turns_by_warp(const Io p) {
  for (int round = 0; round < 2; ++round) {
    const int turn = atomic_add(reinterpret_cast<int*>(p.y), 1);
    p.y[1 + round * 64 + at()] = static_cast<float>(turn);
    sync_warp();
  }
}
__global__ void sum_of_all(const Io p) {
  struct Scratch { float warp[8]; };
  auto& sm = block_shared<Scratch>();
  float v = 0;
  for (int i = at(); i < p.n; i += 256) v += p.x[i] * p.x[i];
  const float sum = block_sum(v, sm.warp);
  if (at() == 0) p.y[block_index().x] = sum * static_cast<float>(block_index().x + 1);
}
__global__ void half_waits(const Io p) {
  if (at() < 40) {
    sync_block();  // the barrier
  } else if (at() < 64) {
    p.y[at()] = warp_sum(1.0f);  // the reduction
  }
}
__global__ void touch(const Io p) { p.y[at()] = 1; }
__global__ void write_at(const Io p) {
  if (at() == 0) p.y[p.n] = 1;
}
__global__ void nothing(const Io) {}

}  // namespace

TEST_CASE("schedules run threads and blocks in the orders they name") {
  const KeepOptions keep;
  const auto turns = [](simt::Options schedule) {
    simt::options = schedule;
    DeviceArray<float> y(1 + 256);
    y.set(std::vector<float>(257, 0));
    launch(take_turn, {4}, {64}, 0, nullptr, Io{nullptr, y.data(), 0});
    auto v = y.get();
    v.erase(v.begin());
    return v;
  };
  std::vector<float> forward(256), reverse(256);
  for (size_t i = 0; i < 256; ++i) forward[i] = static_cast<float>(i), reverse[i] = static_cast<float>(255 - i);
  CHECK(turns({.order = simt::Order::forward}) == forward);
  CHECK(turns({.order = simt::Order::reverse}) == reverse);
  const auto shuffled = turns({.order = simt::Order::shuffled, .seed = 5});
  CHECK(shuffled != forward);
  CHECK(shuffled != reverse);
  CHECK(turns({.order = simt::Order::shuffled, .seed = 5}) == shuffled);
  CHECK(turns({.order = simt::Order::shuffled, .seed = 6}) != shuffled);
}

TEST_CASE("greedy warps run ahead, warps in lock-step take turns") {
  const KeepOptions keep;
  const auto second_round_of_first_warp = [](simt::Pace pace) {
    simt::options = {.pace = pace};
    DeviceArray<float> y(1 + 128);
    y.set(std::vector<float>(129, 0));
    launch(take_turns_by_warp, {1}, {64}, 0, nullptr, Io{nullptr, y.data(), 0});
    const auto v = y.get();
    return std::vector<float>(v.begin() + 1 + 64, v.begin() + 1 + 96);
  };
  for (const float turn : second_round_of_first_warp(simt::Pace::greedy)) CHECK(turn < 64);
  for (const float turn : second_round_of_first_warp(simt::Pace::lockstep)) CHECK(turn >= 64);
}

TEST_CASE("a correct kernel gives the same bits under all schedules and any number of workers") {
  std::vector<float> x(5000);
  for (size_t i = 0; i < x.size(); ++i) x[i] = std::sin(static_cast<float>(i));
  const DeviceArray<float> dx(x), y(7);
  std::vector<float> first;
  for (const int workers : {1, 2, 4}) {
    test::for_each_schedule([&] {
      simt::options.workers = workers;
      launch(sum_of_all, {7}, {256}, 32, nullptr, Io{dx.data(), y.data(), 5000});
      const auto got = y.get();
      if (first.empty()) first = got;
      CHECK(got == first);
      CHECK(got[0] > 0);
    });
  }
}

TEST_CASE("a deadlock report names the wait sites and who waits there") {
  const KeepOptions keep;
  const DeviceArray<float> y(128);
  for (const auto& schedule : simt::kSchedules) {
    simt::options = schedule;
    const std::string text = error_of([&] { launch(half_waits, {1}, {128}, 0, nullptr, Io{nullptr, y.data(), 0}); });
    CHECK_THAT(text, Contains("deadlock"));
    CHECK_THAT(text, Contains("40 threads {0-39} wait at sync_block") && Contains("test_simt_executor.cc:"));
    CHECK_THAT(text, Contains("24 threads {40-63} wait at warp_sum"));
    CHECK_THAT(text, Contains("64 threads {64-127} have exited"));
  }
}

TEST_CASE("an error abandons the launch and leaves the executor as it was") {
  const DeviceArray<float> x(counting(256)), y(256);
  std::string text;
  for (int i = 0; i < 3; ++i) {
    text = error_of([&] { launch(half_waits, {5}, {128}, 0, nullptr, Io{nullptr, y.data(), 0}); });
    CHECK_THAT(text, Contains("block (0,0,0)"));
    launch(sum_of_all, {1}, {256}, 32, nullptr, Io{x.data(), y.data(), 256});
    CHECK(y.get()[0] > 0);
  }
}

TEST_CASE("launches are refused that a GPU refuses") {
  const DeviceArray<float> y(128);
  const Io args{nullptr, y.data(), 0};
  CHECK_THAT(error_of([&] { launch(nothing, {1}, {0}, 0, nullptr, args); }), Contains("32 to 1024 threads"));
  CHECK_THAT(error_of([&] { launch(nothing, {1}, {2048}, 0, nullptr, args); }), Contains("32 to 1024 threads"));
  CHECK_THAT(error_of([&] { launch(nothing, {1}, {33}, 0, nullptr, args); }), Contains("a multiple of 32, got (33,1,1)"));
  CHECK_THAT(error_of([&] { launch(nothing, {0}, {32}, 0, nullptr, args); }), Contains("expected a grid"));
  CHECK_THAT(error_of([&] { launch(nothing, {1, 65536}, {32}, 0, nullptr, args); }), Contains("expected a grid"));
  CHECK_THAT(error_of([&] { launch(nothing, {1}, {32}, 232449, nullptr, args); }), Contains("232448 bytes of shared memory"));
  launch(nothing, {1}, {1024}, 232448, nullptr, args);
}

TEST_CASE("device memory is filled with NaN and its addresses are used once") {
  std::vector<void*> seen;
  for (int i = 0; i < 50; ++i) {
    void* p = simt::allocate(1000);
    for (const void* other : seen) CHECK(other != p);
    seen.push_back(p);
    float first, last;
    simt::download(&first, p, 4);
    simt::download(&last, static_cast<char*>(p) + 996, 4);
    CHECK(std::isnan(first));
    CHECK(std::isnan(last));
    CHECK(simt::is_device_pointer(p));
    CHECK(reinterpret_cast<uintptr_t>(p) % 16 == 0);
    simt::release(p);
  }
  CHECK_FALSE(simt::is_device_pointer(&seen));
  CHECK_THROWS_WITH(simt::release(&seen), Contains("expected a pointer from allocate()"));
  simt::release(nullptr);
}

// ASan ends the process instead: test_simt_planted_bugs sees to it.
TEST_CASE("a write outside an allocation, or after its release, is an error of the launch") {
  if (simt::is_asan_build()) {
    SUCCEED();
    return;
  }
  float* y = static_cast<float*>(simt::allocate(100 * sizeof(float)));
  CHECK_THAT(error_of([&] { launch(write_at, {1}, {32}, 0, nullptr, Io{nullptr, y, 100}); }),
             Contains(simt::is_check_build() ? "400 bytes after the start of an allocation of 400 bytes"
                                             : "0 bytes after the end of an allocation of 400 bytes"));
  launch(write_at, {1}, {32}, 0, nullptr, Io{nullptr, y, 99});
  simt::release(y);
  CHECK_THAT(error_of([&] { launch(touch, {1}, {32}, 0, nullptr, Io{nullptr, y, 0}); }),
             Contains(simt::is_check_build() ? "out of bounds" : "invalid access"));
}

TEST_CASE("counters tell what launches did") {
  const DeviceArray<float> x(counting(256)), y(3);
  simt::reset_counters();
  launch(sum_of_all, {3}, {256}, 32, nullptr, Io{x.data(), y.data(), 256});
  const simt::Counters c = simt::counters();
  CHECK(c.blocks == 3);
  CHECK(c.threads == 3 * 256);
  CHECK(c.barriers == 3 * 2);
  CHECK(c.warp_ops == 3 * 8);
  CHECK(c.mma == 0);
}

// ---- traffic: counted by the check build

namespace {

template <int kStride>
__global__ void copy_strided(const Io p) {
  if (at() * kStride < p.n) p.y[at() * kStride] = p.x[at() * kStride];
}
__global__ void copy_vectors(const Io p) {
  for (int i = at() * 4; i < p.n; i += block_size().x * 4) store_vec(p.y + i, load_vec<4>(p.x + i));
}
__global__ void broadcast(const Io p) { p.y[at()] = p.x[0]; }
template <int kStride>
__global__ void through_shared(const Io p) {
  struct Tile { float v[32 * 33]; };
  auto& sm = block_shared<Tile>();
  for (int i = at(); i < 32 * 33; i += 32) sm.v[i] = p.x[0];
  sync_warp();
  p.y[at()] = sm.v[at() * kStride];
}
template <int kStride>
__global__ void ldmatrix_rows(const Io p) {
  struct Tile { alignas(16) uint32_t row[8][kStride]; };
  auto& sm = block_shared<Tile>();
  for (int i = at(); i < 8 * kStride; i += 32) sm.row[i / kStride][i % kStride] = 0;
  sync_warp();
  uint32_t r[2];
  ldmatrix_x2(r, &sm.row[at() % 8][0]);
  p.y[at()] = static_cast<float>(r[0]);
}
__global__ void copy_by_async(const Io p) {
  struct Tile { alignas(16) float v[128]; };
  auto& sm = block_shared<Tile>();
  copy_async_16(&sm.v[at() * 4], p.x + at() * 4, at() < 16);
  copy_async_commit();
  copy_async_wait<0>();
  p.y[at()] = sm.v[at() * 4];
}
__global__ void count_atomically(const Io p) { atomic_add(reinterpret_cast<int*>(p.y), 1); }
// Lanes make different numbers of accesses, at the same place.
__global__ void ragged(const Io p) {
  float sum = 0;
  for (int i = at(); i < p.n; i += 32) sum += p.x[i];
  p.y[at()] = sum;
}

// An odd lane makes one access more before the barrier: after it, the lanes' accesses belong together again.
__global__ void parts_and_meets(const Io p) {
  for (int round = 0; round < 2; ++round) {
    for (int i = 0; i <= at() % 2 * (1 - round); ++i) p.y[at()] = p.x[at() + 32 * (i + 2 * round)];
    sync_warp();
  }
}
template <int kWords>
__global__ void vectors_in_shared(const Io p) {
  struct Tile { alignas(16) float v[128]; };
  auto& sm = block_shared<Tile>();
  for (int i = at(); i < 128; i += 32) sm.v[i] = p.x[i];
  sync_warp();
  p.y[at()] = load_vec<kWords>(sm.v + at() * kWords)[0];
}

simt::Traffic traffic_of(void (*kernel)(Io), int n, int threads = 32, size_t shared_bytes = 0) {
  DeviceArray<float> x(counting(4096)), y(4096);
  y.set(std::vector<float>(4096, 0));
  simt::reset_traffic();
  launch(kernel, {1}, {threads}, shared_bytes, nullptr, Io{x.data(), y.data(), n});
  return simt::traffic();
}

}  // namespace

// Asked where tags of test cases are made: before main, when other files' variables may not have been constructed yet.
const bool was_check_build_at_start = simt::is_check_build();

TEST_CASE("the check build is known from the start: what it alone tests is not hidden") {
  const bool counts = traffic_of(copy_strided<1>, 32).read_bytes > 0;
  CHECK(was_check_build_at_start == counts);
  CHECK(simt::is_check_build() == counts);
}

TEST_CASE("traffic is what each warp's requests move") {
  if (!simt::is_check_build()) {
    CHECK(traffic_of(copy_strided<1>, 32).read_bytes == 0);
    return;
  }
  test::for_each_schedule([] {
    auto t = traffic_of(copy_strided<1>, 32);  // 128 neighbouring bytes
    CHECK(t.read_bytes == 128);
    CHECK(t.read_sectors == 4);
    CHECK(t.write_bytes == 128);
    CHECK(t.write_sectors == 4);
    t = traffic_of(copy_strided<8>, 256);  // a sector each
    CHECK(t.read_bytes == 128);
    CHECK(t.read_sectors == 32);
    CHECK(t.write_sectors == 32);
    t = traffic_of(copy_strided<1>, 5);
    CHECK(t.read_bytes == 20);
    CHECK(t.read_sectors == 1);
    t = traffic_of(copy_vectors, 4096, 128);
    CHECK(t.read_bytes == 4096 * 4);
    CHECK(t.read_sectors == 4096 / 8);
    CHECK(t.write_bytes == 4096 * 4);
    CHECK(t.write_sectors == 4096 / 8);
    t = traffic_of(broadcast, 0, 64);  // one word for each of two warps
    CHECK(t.read_bytes == 8);
    CHECK(t.read_sectors == 2);
    t = traffic_of(ragged, 80);  // two full requests and one of 16 lanes
    CHECK(t.read_bytes == 80 * 4);
    CHECK(t.read_sectors == 10);
    t = traffic_of(copy_by_async, 0, 32, 512);  // half of the pieces are zeros, which nobody reads
    CHECK(t.read_bytes == 256);
    CHECK(t.read_sectors == 8);
    t = traffic_of(count_atomically, 0);
    CHECK(t.atomic_bytes == 128);
    CHECK(t.read_bytes == 0);
  });
}

TEST_CASE("traffic of lanes that part is counted together again after they have met") {
  if (!simt::is_check_build()) {
    CHECK(traffic_of(parts_and_meets, 0).read_bytes == 0);
    return;
  }
  test::for_each_schedule([] {
    const auto t = traffic_of(parts_and_meets, 0);
    CHECK(t.read_bytes == 128 + 64 + 128);
    CHECK(t.read_sectors == 4 + 4 + 4);  // every second number of four sectors
  });
}

TEST_CASE("bank conflicts are the cycles beyond the fewest") {
  if (!simt::is_check_build()) {
    CHECK(traffic_of(through_shared<32>, 0, 32, 4224).shared_read_conflicts == 0);
    return;
  }
  test::for_each_schedule([] {
    CHECK(traffic_of(through_shared<1>, 0, 32, 4224).shared_read_conflicts == 0);
    CHECK(traffic_of(through_shared<33>, 0, 32, 4224).shared_read_conflicts == 0);
    CHECK(traffic_of(through_shared<2>, 0, 32, 4224).shared_read_conflicts == 1);
    CHECK(traffic_of(through_shared<32>, 0, 32, 4224).shared_read_conflicts == 31);
    CHECK(traffic_of(through_shared<0>, 0, 32, 4224).shared_read_conflicts == 0);  // one word for all
    CHECK(traffic_of(through_shared<32>, 0, 32, 4224).shared_write_conflicts == 0);
    CHECK(traffic_of(vectors_in_shared<2>, 0, 32, 512).shared_read_conflicts == 0);
    CHECK(traffic_of(vectors_in_shared<4>, 0, 32, 512).shared_read_conflicts == 0);
    CHECK(traffic_of(ldmatrix_rows<4>, 0, 32, 128).shared_read_conflicts == 0);    // 128 bytes side by side
    CHECK(traffic_of(ldmatrix_rows<36>, 0, 32, 1152).shared_read_conflicts == 0);  // rows of 144 bytes
    CHECK(traffic_of(ldmatrix_rows<32>, 0, 32, 1024).shared_read_conflicts == 14);  // rows of 128: eight in one group, twice
  });
}
