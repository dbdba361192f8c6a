// Small kernels with one mistake each, and correct ones. Each mistake must be found by at least one of the three builds of the
// kernel tests, as the table below says; the correct kernels by none. A case runs in a child process under every schedule.
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <functional>
#include <string>
#include <vector>

#include "kernels/device.cuh"
#include "tests/simt/gemm_sm90.cuh"

using namespace electra;

namespace {

constexpr int kThreads = 128;
struct Io {
  const float* x;
  float* y;
  int n;
};

struct Floats {
  alignas(16) float v[kThreads];
};
struct Pair {
  float first[32], second[32];
};

__device__ int at() { return thread_index().x; }

// ---- correct kernels

__global__ void reverse(const Io p) {
  auto& sm = block_shared<Floats>();
  sm.v[at()] = p.x[at()];
  sync_block();
  p.y[at()] = sm.v[kThreads - 1 - at()];
}
__global__ void rotate_in_warp(const Io p) {
  auto& sm = block_shared<Floats>();
  const int next = at() / 32 * 32 + (at() + 1) % 32;
  sm.v[at()] = p.x[at()];
  sync_warp();
  const float v = sm.v[next];
  sync_warp();
  sm.v[at()] = v;
  sync_warp();
  p.y[at()] = sm.v[next];
}
__global__ void copy_async(const Io p) {
  auto& sm = block_shared<Floats>();
  if (at() < 32) copy_async_16(&sm.v[at() * 4], p.x + at() * 4);
  copy_async_commit();
  copy_async_wait<0>();
  sync_block();
  p.y[at()] = sm.v[at()];
}
// A ring of two buffers, p.n tiles of 128 numbers; y = sum over the tiles, reversed.
struct Ring {
  alignas(16) float tile[2][kThreads];
};
template <bool kTrailingBarrier, int kInFlight>
__global__ void ring(const Io p) {
  auto& sm = block_shared<Ring>();
  const auto start = [&](int tile) {
    if (tile < p.n && at() < 32) copy_async_16(&sm.tile[tile % 2][at() * 4], p.x + at() * 4);
    copy_async_commit();
  };
  start(0);
  float sum = 0;
  for (int tile = 0; tile < p.n; ++tile) {
    start(tile + 1);
    copy_async_wait<kInFlight>();
    sync_block();
    sum += sm.tile[tile % 2][kThreads - 1 - at()];
    if (kTrailingBarrier) sync_block();
  }
  copy_async_wait<0>();
  p.y[at()] = sum;
}
__global__ void add_blocks(const Io p) {  // every block the same: integers, by atomics
  if (at() == 0) atomic_add(reinterpret_cast<int*>(p.y), 1);
}
struct Halves {
  float half[2][64];
};
template <int kExpected>
__global__ void halves(const Io p) {
  auto& sm = block_shared<Halves>();
  const int half = at() / 64, i = at() % 64;
  sm.half[half][i] = p.x[at()];
  sync_group(1 + half, kExpected);
  p.y[at()] = sm.half[half][63 - i];
}
template <bool kBarrierBetween>
__global__ void two_sums(const Io p) {
  struct Scratch { float warp[4]; };
  auto& sm = block_shared<Scratch>();
  float total = 0;
  for (int round = 0; round < 3; ++round) {
    const float sum = warp_sum(p.x[at()] * static_cast<float>(round + 1));
    if (lane_index() == 0) sm.warp[warp_index()] = sum;
    sync_block();
    total += sm.warp[0] + sm.warp[1] + sm.warp[2] + sm.warp[3];
    if (kBarrierBetween) sync_block();
  }
  p.y[at()] = total;
}

// ---- mistakes: barriers and races

__global__ void no_barrier(const Io p) {
  auto& sm = block_shared<Floats>();
  sm.v[at()] = p.x[at()];
  p.y[at()] = sm.v[kThreads - 1 - at()];
}
__global__ void overwrites_too_early(const Io p) {
  auto& sm = block_shared<Floats>();
  sm.v[at()] = p.x[at()];
  sync_block();
  const float v = sm.v[kThreads - 1 - at()];
  sm.v[at()] = 2 * p.x[at()];
  sync_block();
  p.y[at()] = v + sm.v[at()] - 2 * p.x[at()];
}
__global__ void no_sync_warp(const Io p) {
  auto& sm = block_shared<Floats>();
  const int next = at() / 32 * 32 + (at() + 1) % 32;
  sm.v[at()] = p.x[at()];
  sync_warp();
  const float v = sm.v[next];
  sm.v[at()] = v;
  p.y[at()] = sm.v[next];
}
// A shuffle orders no memory, although the lanes wait for each other.
__global__ void shuffle_for_sync_warp(const Io p) {
  auto& sm = block_shared<Floats>();
  sm.v[at()] = p.x[at()];
  const float v = shfl_xor(p.x[at()], 1);
  p.y[at()] = sm.v[at() ^ 1] + 0 * v;
}
__global__ void same_value_race(const Io p) {
  auto& sm = block_shared<Floats>();
  sm.v[0] = 3;
  sync_block();
  p.y[at()] = p.x[at()] + sm.v[0] - 3;
}
__global__ void race_between_blocks(const Io p) {
  if (at() == 0) p.y[0] += p.x[block_index().x];
}
__global__ void plain_beside_atomic(const Io p) {
  auto* count = reinterpret_cast<int*>(p.y);
  if (at() == 0 && block_index().x > 0) atomic_add(count, 1);
  if (at() == 0 && block_index().x == 0) *count += 1;
}
__global__ void barrier_in_branch(const Io p) {
  auto& sm = block_shared<Floats>();
  sm.v[at()] = p.x[at()];
  if (at() < 96) sync_block();
  p.y[at()] = sm.v[kThreads - 1 - at()];
}
__global__ void two_barriers(const Io p) {
  auto& sm = block_shared<Floats>();
  sm.v[at()] = p.x[at()];
  if (at() & 32) {
    sync_block();
  } else {
    sync_block();
  }
  p.y[at()] = sm.v[kThreads - 1 - at()];
}
__global__ void leaves_before_barrier(const Io p) {
  auto& sm = block_shared<Floats>();
  if (at() >= p.n) return;
  sm.v[at()] = p.x[at()];
  sync_block();
  p.y[at()] = sm.v[at()];
}

// ---- mistakes: warps

__global__ void shuffle_in_branch(const Io p) {
  float v = p.x[at()];
  if (lane_index() < 16) v += shfl_xor(v, 1);
  p.y[at()] = v;
}
__global__ void mixed_shuffles(const Io p) {
  float v = p.x[at()];
  if (at() & 1) {
    v += shfl_xor(v, 1);
  } else {
    v += shfl_up(v, 1);
  }
  p.y[at()] = v;
}
__global__ void leaves_before_shuffle(const Io p) {
  if (at() >= p.n) return;
  p.y[at()] = warp_sum(p.x[at()]);
}

// ---- mistakes: bounds

__global__ void off_by_one(const Io p) {
  if (at() <= p.n) p.y[at()] = p.x[at() < p.n ? at() : 0];
}
__global__ void writes_far_outside(const Io p) {
  p.y[at()] = p.x[at()];
  if (at() == 5) p.y[p.n + 4096] = 1;
}
__global__ void reads_before_start(const Io p) { p.y[at()] = p.x[at() - 1] * 0 + p.x[at()]; }
__global__ void vector_past_end(const Io p) {
  if (at() * 4 < p.n) store_vec(p.y + at() * 4, load_vec<4>(p.x + at() * 4));
}
__global__ void past_member(const Io p) {  // of shared memory: into the next member
  auto& sm = block_shared<Pair>();
  if (at() < 32) sm.second[at()] = 1;
  if (at() <= p.n) sm.first[at()] = p.x[at()];
  sync_block();
  p.y[at()] = at() < 32 ? sm.first[at()] * sm.second[at()] : p.x[at()];
}
__global__ void past_shared(const Io p) {
  auto& sm = block_shared<Floats>();
  float* v = sm.v;
  v[at()] = p.x[at()];
  if (at() == 0) v[p.n] = 1;
  sync_block();
  p.y[at()] = v[at()];
}
__global__ void local_overrun(const Io p) {
  float r[4] = {0, 0, 0, 0};
  r[at() % (p.n + 1)] = p.x[at()];
  float sum = 0;
  for (const float v : r) sum += v * 0;
  p.y[at()] = p.x[at()] + sum;
}
__global__ void local_too_large(const Io p) {
  volatile float r[1 << 17];
  for (int i = (1 << 17) - 1; i >= 0; i -= 256) r[i] = p.x[at()];
  p.y[at()] = r[p.n * 256 - 1];
}
__global__ void ldmatrix_outside(const Io p) {
  auto& sm = block_shared<Floats>();
  sm.v[at()] = p.x[at()];
  sync_block();
  uint32_t r[4];
  ldmatrix_x4(r, &sm.v[0] + lane_index() * 8);
  p.y[at()] = p.x[at()] + 0 * static_cast<float>(r[0] & 1);
}
__global__ void copy_async_outside(const Io p) {
  auto& sm = block_shared<Floats>();
  if (at() < 32) copy_async_16(&sm.v[at() * 4], p.x + at() * 4 + (at() == 31 ? 4 : 0));
  copy_async_commit();
  copy_async_wait<0>();
  sync_block();
  p.y[at()] = at() < 124 ? sm.v[at()] : p.x[at()];
}

// ---- mistakes: alignment

__global__ void misaligned_vector(const Io p) {
  if (at() < 16) p.y[at()] = load_vec<4>(p.x + 1 + at() * 4)[0];
}
__global__ void misaligned_ldmatrix(const Io p) {
  auto& sm = block_shared<Floats>();
  sm.v[at()] = p.x[at()];
  sync_block();
  uint32_t r[2];
  ldmatrix_x2(r, &sm.v[2] + lane_index() % 8 * 4);
  p.y[at()] = p.x[at()] + 0 * static_cast<float>(r[0] & 1);
}

// ---- mistakes: what is read was never written, or is not there yet

__global__ void uninitialised_shared(const Io p) {
  auto& sm = block_shared<Floats>();
  if (at() < 100) sm.v[at()] = p.x[at()];
  sync_block();
  p.y[at()] = sm.v[at()];
}
__global__ void uninitialised_but_masked(const Io p) {  // 1 whatever was there
  struct Flags { uint32_t flag[4]; };
  auto& sm = block_shared<Flags>();
  if (lane_index() == 0) sm.flag[warp_index()] |= 1;
  sync_block();
  p.y[at()] = p.x[at()] * static_cast<float>(sm.flag[warp_index()] & 1);
}
__global__ void copy(const Io p) { p.y[at()] = p.x[at()]; }
__global__ void no_wait(const Io p) {
  auto& sm = block_shared<Floats>();
  if (at() < 32) copy_async_16(&sm.v[at() * 4], p.x + at() * 4);
  copy_async_commit();
  sync_block();
  p.y[at()] = sm.v[at()];
  copy_async_wait<0>();
}
__global__ void wait_without_barrier(const Io p) {
  auto& sm = block_shared<Floats>();
  if (at() < 32) {
    copy_async_16(&sm.v[at() * 4], p.x + at() * 4);
    copy_async_commit();
    copy_async_wait<0>();
  }
  p.y[at()] = sm.v[at()];
}
__global__ void never_waits(const Io p) {
  auto& sm = block_shared<Floats>();
  if (at() < 32) copy_async_16(&sm.v[at() * 4], p.x + at() * 4);
  p.y[at()] = p.x[at()];
}
__global__ void no_commit(const Io p) {
  auto& sm = block_shared<Floats>();
  if (at() < 32) copy_async_16(&sm.v[at() * 4], p.x + at() * 4);
  copy_async_wait<0>();
  sync_block();
  p.y[at()] = sm.v[at()];
}

// ---- mistakes: never ends

__global__ void spins_in_turns(const Io p) {
  auto* flag = reinterpret_cast<int*>(p.y);
  if (at() < 32) {
    while (atomic_max(flag, 0) < 1) sync_warp();  // nobody ever raises it
  }
}
__global__ void spins_on_memory(const Io p) {
  const volatile float* flag = p.y;
  if (at() == 0) {
    while (*flag != 1) {
    }
  }
}

// ---- the table

struct Scene {
  std::vector<float> host, want;
  float* x = static_cast<float*>(simt::allocate(kThreads * sizeof(float)));
  float* y = static_cast<float*>(simt::allocate(kThreads * sizeof(float)));
  Scene() {
    for (int i = 0; i < kThreads; ++i) host.push_back(static_cast<float>(i + 1));
    want = host;
    simt::upload(x, host.data(), sizeof(float) * kThreads);
  }
  ~Scene() {
    simt::release(x);
    simt::release(y);
  }
  void want_each(const std::function<float(int)>& f) {
    for (int i = 0; i < kThreads; ++i) want[static_cast<size_t>(i)] = f(i);
  }
  float at(int i) const { return host[static_cast<size_t>(i)]; }
};

void go(void (*kernel)(Io), Scene& s, size_t shared_bytes = sizeof(Floats), int n = kThreads, int blocks = 1) {
  launch(kernel, {blocks}, {kThreads}, shared_bytes, nullptr, Io{s.x, s.y, n});
}

// The product of a 64 x 448 matrix with itself transposed; its numbers are 1 to 7, by tiles of 64 columns.
template <test::GemmBug kBug>
void gemm(Scene& s) {
  constexpr int kDepth = 448;
  std::vector<bf16> numbers;
  for (int i = 0; i < 64 * kDepth; ++i) numbers.push_back(to_bf16(static_cast<float>(1 + i % kDepth / 64)));
  const size_t bytes = numbers.size() * sizeof(bf16);
  auto* a = static_cast<bf16*>(simt::allocate(bytes));
  auto* c = static_cast<float*>(simt::allocate(64 * 64 * sizeof(float)));
  simt::upload(a, numbers.data(), bytes);
  test::gemm_sm90<64, kBug>(c, a, a, 64, 64, kDepth);
  simt::copy(s.y, c, sizeof(float) * kThreads);  // two of the rows
  s.want_each([](int) { return 64.0f * 140; });
  simt::release(a);
  simt::release(c);
}

struct Case {
  const char* name;
  std::function<void(Scene&)> run;
  // What the build's report says; null: this build need not find it; all three null: the kernel is correct.
  // "wrong": a wrong result in some schedule. "asan": a report of ASan or UBSan.
  const char *fast, *asan, *check;
};
constexpr const char* kWrong = "wrong";
constexpr const char* kAsan = "asan";

std::vector<Case> cases() {
  const auto reversed = [](Scene& s) { s.want_each([&](int i) { return s.at(kThreads - 1 - i); }); };
  const auto plain = [](void (*kernel)(Io)) { return [kernel](Scene& s) { go(kernel, s); }; };
  const auto reversing = [=](void (*kernel)(Io)) {
    return [=](Scene& s) {
      reversed(s);
      go(kernel, s);
    };
  };
  const auto rotating = [](void (*kernel)(Io)) {
    return [kernel](Scene& s) {
      s.want_each([&](int i) { return s.at(i / 32 * 32 + (i + 2) % 32); });
      go(kernel, s);
    };
  };
  const auto ring_of = [](void (*kernel)(Io), int tiles) {
    return [=](Scene& s) {
      s.want_each([&](int i) { return s.at(kThreads - 1 - i) * static_cast<float>(tiles); });
      go(kernel, s, sizeof(Ring), tiles);
    };
  };
  const auto zeroed = [](void (*kernel)(Io), int blocks) {
    return [=](Scene& s) {
      simt::fill(s.y, 0, sizeof(float) * kThreads);
      s.want.clear();
      go(kernel, s, 0, kThreads, blocks);
      std::vector<int> got(1);
      simt::download(got.data(), s.y, sizeof(int));
      if (got[0] != blocks) throw std::string("wrong");
    };
  };
  const auto sums = [](void (*kernel)(Io)) {
    return [kernel](Scene& s) {
      float total = 0;
      for (const float v : s.host) total += v;
      s.want_each([&](int) { return total * 6; });
      go(kernel, s, 16);
    };
  };
  const auto first = [](void (*kernel)(Io), int n, size_t shared_bytes = sizeof(Floats)) {
    return [=](Scene& s) {
      s.want.resize(static_cast<size_t>(n));
      go(kernel, s, shared_bytes, n);
    };
  };
  return {
      {"a block's exchange", reversing(reverse), nullptr, nullptr, nullptr},
      {"a warp's exchange", rotating(rotate_in_warp), nullptr, nullptr, nullptr},
      {"an asynchronous copy", plain(copy_async), nullptr, nullptr, nullptr},
      {"a ring of copies", ring_of(ring<true, 1>, 7), nullptr, nullptr, nullptr},
      {"atomics of all blocks", zeroed(add_blocks, 9), nullptr, nullptr, nullptr},
      {"named barriers", [](Scene& s) {
         s.want_each([&](int i) { return s.at(i / 64 * 64 + 63 - i % 64); });
         go(halves<64>, s);
       }, nullptr, nullptr, nullptr},
      {"scratch memory used again", sums(two_sums<true>), nullptr, nullptr, nullptr},

      {"bulk copies and wgmma", gemm<test::GemmBug::none>, nullptr, nullptr, nullptr},

      {"no barrier", reversing(no_barrier), kWrong, kWrong, "uninitialised"},
      {"overwritten before all have read", reversing(overwrites_too_early), kWrong, kWrong, "race"},
      {"no sync_warp", rotating(no_sync_warp), kWrong, kWrong, "race"},
      {"a shuffle where sync_warp is needed", [](Scene& s) {
         s.want_each([&](int i) { return s.at(i ^ 1); });
         go(shuffle_for_sync_warp, s);
       }, nullptr, nullptr, "race (read after write)"},
      {"a race of equal values", plain(same_value_race), nullptr, nullptr, "race (write after write)"},
      {"a race between blocks", [](Scene& s) {
         simt::fill(s.y, 0, sizeof(float) * kThreads);
         s.want.resize(1);
         s.want[0] = 0;
         for (int i = 0; i < 64; ++i) s.want[0] += s.at(i);
         go(race_between_blocks, s, 0, kThreads, 64);
       }, nullptr, nullptr, "race (read after write) on global"},
      {"an addition beside atomic ones", zeroed(plain_beside_atomic, 9), nullptr, nullptr, "race"},
      {"a barrier in a branch", reversing(barrier_in_branch), "deadlock", "deadlock", "race"},
      {"one of two barriers", reversing(two_barriers), "divergent barrier", "divergent barrier", "divergent barrier"},
      {"threads leave before a barrier", first(leaves_before_barrier, 100), "have exited", "have exited", "have exited"},
      {"a named barrier waits for too many", plain(halves<96>), "deadlock", "deadlock", "deadlock"},
      {"no barrier before scratch memory is used again", sums(two_sums<false>), kWrong, kWrong, "race (write after read)"},
      {"no barrier at the end of a ring's step", ring_of(ring<false, 1>, 7), kWrong, kWrong, "race"},
      {"a ring waits for one copy too few", ring_of(ring<true, 2>, 7), kWrong, kWrong, "uninitialised"},

      {"a shuffle in a branch", plain(shuffle_in_branch), "deadlock", "deadlock", "deadlock"},
      {"different shuffles", plain(mixed_shuffles), "divergent warp", "divergent warp", "divergent warp"},
      {"lanes leave before a reduction", first(leaves_before_shuffle, 100), "have exited", "have exited", "have exited"},

      {"one element too many", [](Scene& s) {
         auto* short_y = static_cast<float*>(simt::allocate(100 * sizeof(float)));
         s.want.clear();
         launch(off_by_one, {1}, {kThreads}, 0, nullptr, Io{s.x, short_y, 100});
         simt::release(short_y);
       }, "invalid access", kAsan, "out of bounds"},
      {"a write far outside", plain(writes_far_outside), "invalid access", kAsan, "out of bounds"},
      {"a read before the start", plain(reads_before_start), kWrong, kAsan, "out of bounds"},
      {"a vector's tail outside", [](Scene& s) {
         auto* short_x = static_cast<float*>(simt::allocate(101 * sizeof(float)));
         simt::upload(short_x, s.host.data(), 101 * sizeof(float));
         s.want.resize(101);
         launch(vector_past_end, {1}, {kThreads}, 0, nullptr, Io{short_x, s.y, 101});
         simt::release(short_x);
       }, nullptr, "outside its allocation", "out of bounds"},
      {"past a member of shared memory", first(past_member, 32), kWrong, kAsan, "race"},
      {"past the end of shared memory", plain(past_shared), "outside its", kAsan, "out of bounds"},
      {"shared memory too small at the launch", [=](Scene& s) {
         reversed(s);
         go(reverse, s, 256);
       }, "the launch gives 256", "the launch gives 256", "the launch gives 256"},
      {"past the end of a register array", first(local_overrun, 7), nullptr, kAsan, nullptr},
      {"too much local memory", first(local_too_large, 7), "stack overflow", nullptr, nullptr},
      {"ldmatrix outside shared memory", plain(ldmatrix_outside), "ldmatrix_x4", "ldmatrix_x4", "ldmatrix_x4"},
      {"an asynchronous copy from outside", plain(copy_async_outside), "invalid access", "outside its allocation", "out of bounds"},
      {"memory of the host", [](Scene& s) {
         launch(copy, {1}, {kThreads}, 0, nullptr, Io{s.host.data(), s.y, kThreads});
       }, nullptr, nullptr, "host memory"},
      {"memory that was released", [](Scene& s) {
         simt::release(s.x);
         const Io args{s.x, s.y, kThreads};
         s.x = nullptr;
         launch(copy, {1}, {kThreads}, 0, nullptr, args);
       }, "invalid access", kAsan, "out of bounds"},

      {"a vector off its alignment", [](Scene& s) {
         s.want.clear();
         go(misaligned_vector, s);
       }, "misaligned load_vec", "misaligned load_vec", "misaligned load_vec"},
      {"an ldmatrix row off its alignment", plain(misaligned_ldmatrix), "multiple of 16", "multiple of 16", "multiple of 16"},

      {"shared memory nobody has written", plain(uninitialised_shared), kWrong, kWrong, "uninitialised"},
      {"shared memory nobody has written, masked away", [](Scene& s) { go(uninitialised_but_masked, s); }, nullptr, nullptr, "uninitialised"},
      {"global memory nobody has written", [](Scene& s) {
         auto* fresh = static_cast<float*>(simt::allocate(kThreads * sizeof(float)));
         launch(copy, {1}, {kThreads}, 0, nullptr, Io{fresh, s.y, kThreads});
         simt::release(fresh);
       }, kWrong, kWrong, "uninitialised"},
      {"a copy not waited for", plain(no_wait), kWrong, kWrong, "uninitialised"},
      {"a copy waited for by one thread only", plain(wait_without_barrier), kWrong, kWrong, "race (read after write)"},
      {"a copy never waited for", plain(never_waits), "not waited for", "not waited for", "not waited for"},
      {"a copy not committed", plain(no_commit), "not waited for", "not waited for", "uninitialised"},

      {"a spin on what nobody writes, in turns", [](Scene& s) {
         simt::fill(s.y, 0, sizeof(float) * kThreads);
         simt::options.max_steps = 100000;
         s.want.clear();
         go(spins_in_turns, s);
       }, "a spin that nobody ends", "a spin that nobody ends", "a spin that nobody ends"},
      {"a spin on memory alone", [](Scene& s) {
         if (!simt::is_check_build()) throw std::string("only the check build notices");
         simt::fill(s.y, 0, sizeof(float) * kThreads);
         go(spins_on_memory, s);
       }, nullptr, nullptr, "a spin that nobody ends"},
      {"wgmma before its tiles have come", gemm<test::GemmBug::no_full_wait>, "deadlock", "deadlock", "uninitialised"},
      {"wgmma waits for the phase before", gemm<test::GemmBug::wrong_phase>, "deadlock", "deadlock", "uninitialised"},
      {"bulk copies into a buffer in use", gemm<test::GemmBug::no_empty_wait>, "more arrivals", "more arrivals", "more arrivals"},
      {"a barrier expects half of the bytes", gemm<test::GemmBug::too_few_bytes>, "bulk copies in flight", "bulk copies in flight", "uninitialised"},
      {"a barrier expects more bytes than come", gemm<test::GemmBug::too_many_bytes>, "deadlock", "deadlock", "deadlock"},
      {"a buffer released before wgmma has read it", gemm<test::GemmBug::no_wgmma_wait>, kWrong, kWrong, kWrong},
      {"wgmma without its fence", gemm<test::GemmBug::no_fence>, "no wgmma_fence", "no wgmma_fence", "no wgmma_fence"},
      {"too many threads", [](Scene& s) {
         launch(copy, {1}, {1056}, 0, nullptr, Io{s.x, s.y, kThreads});
       }, "expected a block of 32 to 1024 threads", "expected a block of 32 to 1024 threads", "expected a block of 32 to 1024 threads"},
  };
}

// Runs the case under every schedule in a child; returns what it says: "" when all is well, "wrong: …" for a wrong result, the
// text of a KernelError, or what a sanitizer prints.
std::string outcome(const Case& c) {
  int pipe_ends[2];
  REQUIRE(pipe(pipe_ends) == 0);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    dup2(pipe_ends[1], 2);
    close(pipe_ends[0]);
    std::string text;
    for (size_t number = 0; number < std::size(simt::kSchedules) && text.empty(); ++number) {
      simt::options = simt::kSchedules[number];
      Scene scene;
      try {
        c.run(scene);
        std::vector<float> got(kThreads);
        simt::download(got.data(), scene.y, sizeof(float) * kThreads);
        for (size_t i = 0; i < scene.want.size() && text.empty(); ++i) {
          if (!(got[i] == scene.want[i])) {
            text = "wrong: y[" + std::to_string(i) + "] is " + std::to_string(got[i]) + " under schedule " + std::to_string(number);
          }
        }
      } catch (const simt::KernelError& e) {
        text = e.what();
      } catch (const std::string& e) {
        text = e;
      }
    }
    const bool written = write(2, text.data(), text.size()) == static_cast<ssize_t>(text.size());
    _exit(written ? 0 : 1);
  }
  close(pipe_ends[1]);
  std::string text;
  char buffer[4096];
  for (ssize_t n; (n = read(pipe_ends[0], buffer, sizeof buffer)) > 0;) text.append(buffer, static_cast<size_t>(n));
  close(pipe_ends[0]);
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  if (status != 0 && text.empty()) text = "ended with status " + std::to_string(status);
  return text;
}

const char* expected_here(const Case& c) {
  return simt::is_check_build() ? c.check : simt::is_asan_build() ? c.asan : c.fast;
}
bool correct(const Case& c) { return !c.fast && !c.asan && !c.check; }

}  // namespace

TEST_CASE("planted bugs are found, each by the detector that is meant for it") {
  int bugs = 0;
  for (const Case& c : cases()) {
    if (correct(c)) continue;
    ++bugs;
    const char* expected = expected_here(c);
    if (!expected) continue;
    const std::string text = outcome(c);
    INFO(c.name << ": expected \"" << expected << "\", got \"" << text << "\"");
    if (expected == kAsan) {
      CHECK((text.find("AddressSanitizer") != std::string::npos || text.find("runtime error") != std::string::npos));
    } else {
      CHECK(text.find(expected) != std::string::npos);
    }
  }
  CHECK(bugs >= 28);
}

TEST_CASE("correct kernels are not flagged") {
  for (const Case& c : cases()) {
    if (!correct(c)) continue;
    INFO(c.name);
    CHECK(outcome(c) == "");
  }
}
