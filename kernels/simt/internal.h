// What the files of the executor share: workers, warps, lanes, and the interface of the check build.
#pragma once
#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "kernels/simt/simt.h"

#if defined(ELECTRA_SIMT_ASAN)  // the executor is not instrumented itself: frames that it abandons never return
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// A function compiled for several instruction sets.
#if defined(__GNUC__) && !defined(__clang__) && !defined(ELECTRA_SIMT_ASAN)
#define ELECTRA_CLONES __attribute__((target_clones("default", "arch=haswell", "arch=skylake-avx512")))
#else
#define ELECTRA_CLONES
#endif

namespace electra::simt {

#if defined(ELECTRA_SIMT_ASAN)
inline constexpr bool kAsan = true;
inline void forbid(const void* p, size_t bytes) { __asan_poison_memory_region(p, bytes); }
inline void allow(const void* p, size_t bytes) { __asan_unpoison_memory_region(p, bytes); }
#else
inline constexpr bool kAsan = false;
inline void forbid(const void*, size_t) {}
inline void allow(const void*, size_t) {}
#endif

inline constexpr int kLanes = 32;
inline constexpr int kMaxThreads = 1024;
inline constexpr int kMaxWarps = kMaxThreads / kLanes;
inline constexpr size_t kMaxShared = 227 * 1024;  // bytes a block may have on an H100
inline constexpr int kNaN = 0xFF;                 // as every byte: a NaN in fp32 and bf16

struct Stack {
  char* low;
  char* top;  // where a fiber starts; lower for some stacks than for others, see Worker::take_stack
};

// cp.async: performed at the wait, or at once under Async::eager.
struct PendingCopy {
  void* to;
  const void* from;  // null: zeros
  uint32_t group;
  bool landed;
};

enum class LaneState : uint8_t { unstarted, running, waiting, done };

// What a switch touches lies in the first 64 bytes: a block of 256 threads has to fit the first-level cache.
struct alignas(64) Lane : LaneIndices {
  void* sp = nullptr;  // stack pointer while another fiber runs
  Warp* warp = nullptr;
  const char* waits_for = nullptr;
  Site site;
  uint32_t epoch = 0;  // collectives it has passed; aligns the accesses of a warp's lanes for the traffic counts
  uint8_t lane = 0;    // in the warp
  LaneState state = LaneState::unstarted;

  int rank = 0;  // in the block
  Stack* stack = nullptr;
  std::vector<PendingCopy> copies;
  uint32_t copy_group = 0;
};
inline Lane* self() { return static_cast<Lane*>(current); }

struct alignas(64) Warp {
  Worker* worker = nullptr;
  Lane* lanes = nullptr;
  uint32_t index = 0, ready = 0;  // ready: lanes that could run
  // The warp operation that lanes are meeting for. Operands are double-buffered: a lane that has left an operation may reach
  // the next one before the others have picked up their results.
  uint32_t arrived = 0, parity = 0;
  const char* what = nullptr;
  Site site;
  alignas(64) char in[2][kLanes * 64];
  alignas(64) char out[2][kLanes * 64];
};

struct Barrier {
  int arrived = 0, expected = 0;
  Site site;
  std::vector<Lane*> lanes;
};

// A point in time of every thread of a block, for the check build.
using Clocks = std::vector<uint32_t>;

struct HopperState;  // hopper.cc
struct HopperStateDelete { void operator()(HopperState*) const; };

struct Launch {
  Extent3 grid, block;
  int threads;
  size_t shared_bytes;
  void (*run)(void*);
  void* closure;
  size_t closure_bytes;
  std::vector<uint32_t> block_order;  // empty: as numbered
  uint64_t blocks;
  std::atomic<uint64_t> next{0};
  std::atomic<bool> failed{false};
  std::mutex mutex;
  std::string error;
};

// One operating-system thread and the block it runs. A block stays on one thread for life: compilers keep addresses of
// thread-local variables in registers across calls.
struct Worker {
  Worker();
  Stack* take_stack();
  uint64_t random();

  void* main_sp = nullptr;
  const void* main_low = nullptr;
  size_t main_size = 0;
  char* fault_stack = nullptr;  // top of the stack on which an invalid access is reported

  Launch* launch = nullptr;
  BlockShape shape;
  int threads = 0, done = 0, unstarted = 0;  // unstarted: index into start_order
  std::vector<uint32_t> start_order;
  std::unique_ptr<Lane[]> lanes;
  std::unique_ptr<Warp[]> warps;
  int ready_count = 0;
  uint16_t ready_warps[kMaxWarps];  // a stack: the last one runs next
  Options options;
  bool plain = true;  // Order::forward and Pace::greedy
  uint64_t steps = 0;
  uint64_t random_state = 1;

  std::vector<Stack*> free_stacks;
  std::vector<std::unique_ptr<Stack>> all_stacks;
  Barrier barriers[16];
  // Shared memory: `shared` is 1024-byte aligned, its end as near to an inaccessible page as that allows.
  char* shared_end = nullptr;
  char* shared = nullptr;
  std::deque<std::function<void()>> bulk_copies;  // in flight
  std::unique_ptr<HopperState, HopperStateDelete> hopper;

  bool aborted = false;
  std::string error, report;
  Counters counters;
};
extern __thread Worker* worker __attribute__((tls_model("initial-exec")));

// Ends the launch: abandons the block's fibers. Callable where a kernel runs only.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// The last one to arrive at a meeting of `warp`'s lanes has done its work: all of them go on.
void release_warp(Worker& w, Warp& warp, Lane* last);
std::string describe(const Lane& lane);

// The address in shared memory of `bytes` bytes; fails where they do not all lie in the block's.
char* shared_range(const void* p, size_t bytes, size_t alignment, const char* what, Site at);
// memory.cc
struct Allocation { char* begin = nullptr; size_t bytes = 0; };
Allocation find_allocation(const void* p);  // the one that begins at or before p
// While it lives, an invalid access of a kernel is an error of its launch. The signals' handlers are put back afterwards.
class FaultHandler {
 public:
  FaultHandler();
  ~FaultHandler();
  FaultHandler(const FaultHandler&) = delete;
  FaultHandler& operator=(const FaultHandler&) = delete;
};
void give_fault_stack();  // to the calling thread: the handler cannot run on a fiber's stack that has overflowed
inline constexpr size_t kDeviceRange = size_t{256} << 30;
char* device_range();
// hopper.cc
void check_hopper_finished(Worker& w);
void reset_hopper(Worker& w);
void new_hopper_block(Worker& w);

// ---- the check build. `checker` is null in the others.

enum Access : int { kRead = 0, kWrite = 1, kAtomic = 2, kInFlight = 4, kUncounted = 8 };

struct Place {  // of an access: one of the two
  const void* pc = nullptr;
  Site site{};
};

class Checker {
 public:
  virtual void start_launch(const Launch&) = 0;
  virtual void start_block(Worker&) = 0;
  virtual void end_block(Worker&) = 0;
  // kInFlight: the bytes are written by an asynchronous copy and may not be used yet.
  virtual void access(Lane&, const void* p, size_t bytes, int kind, const Place&) = 0;
  virtual void join(Lane* const* lanes, int count) = 0;  // these have waited for each other
  virtual void join_block() = 0;
  virtual void release(Lane&, Clocks&) = 0;              // the lane's past is now part of the clocks'
  virtual void acquire(Lane&, const Clocks&) = 0;        // and the other way round
  virtual void written(const void* device, size_t bytes, bool yes) = 0;  // by the host
  virtual void count_conflicts(int extra_cycles, bool write) = 0;
  virtual Traffic& traffic() = 0;

  // While set, what the compiler reports is not a kernel's: the linker may have taken the instrumented copy of an inline function
  // of the standard library for the executor's own calls, too.
  bool paused = false;

 protected:
  ~Checker() = default;
};
extern Checker* checker;

inline void note_access(const void* p, size_t bytes, int kind, Site at) {
  if (checker) checker->access(*self(), p, bytes, kind, {nullptr, at});
}

}  // namespace electra::simt
