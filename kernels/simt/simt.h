// The host executor: runs the CUDA kernels of kernels/cuda on a CPU, for tests. docs/simt.md tells how it works.
// One fiber for each CUDA thread; a fiber runs until it reaches a collective operation, and the last one to arrive performs it.
// This header is what tests use (launch, schedules, device memory, counters) and, below, what kernels/device.cuh calls.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels/core/error.h"

// The words of the CUDA language that a kernel needs.
#define __global__
#if !defined(__host__)
#define __host__
#define __device__
#endif
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define ELECTRA_UNCHECKED __attribute__((no_sanitize("thread")))
#endif
#elif defined(__SANITIZE_THREAD__)
#define ELECTRA_UNCHECKED __attribute__((no_sanitize("thread")))
#endif
#if !defined(ELECTRA_UNCHECKED)
#define ELECTRA_UNCHECKED  // in the check build: a function whose memory accesses are not a kernel's
#endif

namespace electra {

struct Index3 {
  int x = 0, y = 0, z = 0;
};
struct Extent3 {
  int x = 1, y = 1, z = 1;
};

// Where a primitive was called. (clang 16 has no usable std::source_location.)
struct Site {
  const char* file = "";
  int line = 0;
  static constexpr Site current(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

namespace simt {

// ---- for tests and the device layer

// A kernel did something that is undefined on a GPU, or can never end. Thrown by launch(), with thread and place.
class KernelError : public DeviceError { public: using DeviceError::DeviceError; };

enum class Order { forward, reverse, shuffled };  // in which blocks, and threads of a block, take their turns
enum class Pace { greedy, lockstep };             // a warp runs as far ahead as barriers allow; or warps take turns
enum class Async { lazy, eager };                 // asynchronous copies land at the wait; or at once

struct Options {
  Order order = Order::forward;
  Pace pace = Pace::greedy;
  Async async = Async::lazy;
  uint64_t seed = 1;              // of Order::shuffled
  int workers = 1;                // operating-system threads that run blocks; the check build always uses one
  uint64_t max_steps = 1u << 28;  // switches of one block after which it counts as spinning for ever
};
extern Options options;

// The six schedules under which a kernel must give the same bits.
inline constexpr Options kSchedules[] = {
    {.order = Order::forward, .pace = Pace::greedy, .async = Async::lazy},
    {.order = Order::reverse, .pace = Pace::greedy, .async = Async::lazy},
    {.order = Order::shuffled, .pace = Pace::greedy, .async = Async::lazy, .seed = 3},
    {.order = Order::forward, .pace = Pace::lockstep, .async = Async::lazy},
    {.order = Order::reverse, .pace = Pace::greedy, .async = Async::eager},
    {.order = Order::shuffled, .pace = Pace::lockstep, .async = Async::eager, .seed = 4},
};

// Which of the three builds this is.
bool is_check_build();
bool is_asan_build();

// What all launches did since reset_counters().
struct Counters {
  uint64_t blocks = 0, threads = 0, switches = 0, barriers = 0, warp_ops = 0, mma = 0;
};
Counters counters();
void reset_counters();

// Memory traffic of all launches since reset_traffic(); counted by the check build, zero in the others. A request is one
// access by the lanes of one warp together. Shared memory: what a request takes beyond its fewest possible cycles.
struct Traffic {
  uint64_t read_bytes = 0, write_bytes = 0;      // global: distinct bytes of each request
  uint64_t read_sectors = 0, write_sectors = 0;  // global: distinct 32-byte sectors of each request
  uint64_t atomic_bytes = 0;                     // global
  uint64_t shared_read_conflicts = 0, shared_write_conflicts = 0;
};
Traffic traffic();
void reset_traffic();

// Device memory: an address range of its own; the end of each allocation lies against an inaccessible page; filled with NaN;
// addresses are never given out twice. Throws DeviceError when the range (64 GiB) or the machine's memory is used up.
void* allocate(size_t bytes);
void release(void* p);                                        // of allocate(), or null
void upload(void* device, const void* host, size_t bytes);    // and the like: also tell the check build that `device` is written
void download(void* host, const void* device, size_t bytes);
void copy(void* to, const void* from, size_t bytes);          // device to device
void fill(void* device, int byte, size_t bytes);
void mark_written(void* device, size_t bytes);                // by code of the host that takes part in a step, such as its GEMM
void poison(void* device, size_t bytes);                      // NaN, which the check build takes for never written
bool is_device_pointer(const void* p);

// While it lives launches are kept instead of run, and so are the copies handed to add(). For one thread at a time.
class Recorder {
 public:
  Recorder();
  ~Recorder();
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;
  static Recorder* active();
  void add(std::function<void()> command) { commands_.push_back(std::move(command)); }
  std::vector<std::function<void()>> take() { return std::move(commands_); }

 private:
  std::vector<std::function<void()>> commands_;
};

// Called before work that is done at once, no Recorder being active: the device layer does what it has held back.
extern void (*before_launch)();

void launch_erased(Extent3 grid, Extent3 block, size_t shared_bytes, void (*run)(void*), void* closure, size_t closure_bytes);

template <class... P, class... A>
void launch(void (*kernel)(P...), Extent3 grid, Extent3 block, size_t shared_bytes, A&&... args) {
  struct Closure {
    void (*kernel)(P...);
    std::tuple<P...> args;
  } closure{kernel, {std::forward<A>(args)...}};
  launch_erased(grid, block, shared_bytes, [](void* p) {
    auto* c = static_cast<Closure*>(p);
    std::apply(c->kernel, c->args);
  }, &closure, sizeof closure);
}

// ---- for kernels/device.cuh

struct Worker;
struct Warp;
struct BlockShape {
  Index3 block_index;
  Extent3 block_size, grid_size;
};
struct LaneIndices {  // of a CUDA thread
  const BlockShape* block = nullptr;
  uint16_t x = 0, y = 0, z = 0;
};
extern __thread LaneIndices* current __attribute__((tls_model("initial-exec")));

ELECTRA_UNCHECKED inline Index3 thread_index() { return {current->x, current->y, current->z}; }
ELECTRA_UNCHECKED inline Index3 block_index() { return current->block->block_index; }
ELECTRA_UNCHECKED inline Extent3 block_size() { return current->block->block_size; }
ELECTRA_UNCHECKED inline Extent3 grid_size() { return current->block->grid_size; }

void* block_shared(size_t bytes);
void sync_block(Site at);
void sync_group(int id, int threads, Site at);
void sync_warp(Site at);

void shuffle(void* value, int bytes, int source_lane, const char* what, Site at);
uint32_t ballot(bool predicate, Site at);
float warp_sum(float v, int width, Site at);
int warp_sum(int v, int width, Site at);
float warp_max(float v, int width, Site at);
int warp_max(int v, int width, Site at);
void warp_arg_max(float& value, int& index, int width, Site at);

void copy_vector(void* to, const void* from, int bytes, bool is_store, Site at);
uint32_t atomic_add(uint32_t* p, uint32_t v, Site at);
uint64_t atomic_add(uint64_t* p, uint64_t v, Site at);
uint32_t atomic_max(uint32_t* p, uint32_t v, Site at);
int32_t atomic_max(int32_t* p, int32_t v, Site at);
uint32_t atomic_or(uint32_t* p, uint32_t v, Site at);

void mma_m16n8k16(float* c, const uint32_t* a, const uint32_t* b, Site at);
void ldmatrix(uint32_t* r, int matrices, bool transposed, const void* row, Site at);
void copy_async_16(void* to, const void* from, bool valid, Site at);
void copy_async_commit();
void copy_async_wait(int groups);

}  // namespace simt
}  // namespace electra
