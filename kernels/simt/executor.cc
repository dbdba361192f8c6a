// Fibers, scheduling, barriers and launches.
#include <sys/mman.h>

#include <algorithm>
#include <condition_variable>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <thread>

#include "kernels/simt/schedule.h"

extern "C" void electra_simt_entry();
extern "C" void electra_simt_fiber(void* stack);
#if defined(__x86_64__)
asm(R"(
.text
.p2align 4
.globl electra_simt_switch
.hidden electra_simt_switch
.type electra_simt_switch,@function
electra_simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size electra_simt_switch,.-electra_simt_switch
.globl electra_simt_entry
.hidden electra_simt_entry
.type electra_simt_entry,@function
electra_simt_entry:
  movq %r12,%rdi
  jmp electra_simt_fiber
.size electra_simt_entry,.-electra_simt_entry
)");
#else
#error "the executor knows x86-64 only: add electra_simt_switch for this processor"
#endif

namespace electra::simt {

__thread LaneIndices* current __attribute__((tls_model("initial-exec"))) = nullptr;
__thread Worker* worker __attribute__((tls_model("initial-exec"))) = nullptr;
Options options;
Checker* checker = nullptr;

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kStackBytes = kAsan ? 256 << 10 : 64 << 10;
constexpr size_t kSharedAlignment = 1024;  // what the 128-byte swizzle of Hopper's bulk copies needs
constexpr size_t kSharedMargin = 64;       // bytes on either side that must stay as they are

std::mutex counters_mutex;
Counters total;

char* map_pages(size_t bytes, int protection) {
  void* p = mmap(nullptr, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw DeviceError("simt", "expected " + std::to_string(bytes) + " bytes, the system has not that much");
  return static_cast<char*>(p);
}

// ---- switching

void* fresh_frame(Stack* stack) {
  auto** p = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(stack->top) & ~uintptr_t{63});
  *--p = nullptr;  // the return address of electra_simt_fiber
  *--p = reinterpret_cast<void*>(electra_simt_entry);
  *--p = nullptr;  // rbp
  *--p = nullptr;  // rbx
  *--p = stack;    // r12
  *--p = nullptr;  // r13
  *--p = nullptr;  // r14
  *--p = nullptr;  // r15
  return p;
}

[[noreturn]] void leave_block() {
  void* nobody;
  switch_to(&nobody, worker->main_sp, worker->main_low, worker->main_size, true);
  __builtin_unreachable();
}

std::string ranges(const std::vector<int>& numbers) {
  std::string text;
  for (size_t i = 0; i < numbers.size();) {
    size_t j = i;
    while (j + 1 < numbers.size() && numbers[j + 1] == numbers[j] + 1) ++j;
    if (!text.empty()) text += ",";
    text += std::to_string(numbers[i]);
    if (j > i) text += "-" + std::to_string(numbers[j]);
    i = j + 1;
  }
  return text;
}

// For a report that ends the launch. The text belongs to the worker: nothing that stands on a fiber is ever destroyed.
const char* wait_sites(Worker& w) {
  if (checker) checker->paused = true;
  std::map<std::string, std::vector<int>> groups;
  for (int i = 0; i < w.threads; ++i) {
    const Lane& lane = w.lanes[i];
    std::string key = "have exited";
    if (lane.state != LaneState::done) {
      key = std::string("wait at ") + (lane.waits_for ? lane.waits_for : "?") + ", " + lane.site.file + ":" +
            std::to_string(lane.site.line);
    }
    groups[key].push_back(i);
  }
  std::string& text = w.report;
  text.clear();
  for (const auto& [key, lanes] : groups) {
    text += "\n  " + std::to_string(lanes.size()) + " threads {" + ranges(lanes) + "} " + key;
  }
  return text.c_str();
}

// ---- scheduling

}  // namespace

Lane* pop_otherwise(Worker& w) {
  int at = w.ready_count - 1;
  if (w.options.order == Order::shuffled) {
    at = static_cast<int>(w.random() % static_cast<uint64_t>(w.ready_count));
  } else if (w.options.pace == Pace::lockstep) {
    at = 0;
  }
  // Bring the choice to the top, keeping the order of the others.
  std::rotate(w.ready_warps + at, w.ready_warps + at + 1, w.ready_warps + w.ready_count);
  Warp& warp = w.warps[w.ready_warps[w.ready_count - 1]];
  int lane = __builtin_ctz(warp.ready);
  if (w.options.order == Order::reverse) {
    lane = 31 - __builtin_clz(warp.ready);
  } else if (w.options.order == Order::shuffled) {
    const int by = static_cast<int>(w.random() & 31);
    lane = (by + __builtin_ctz(warp.ready >> by | (by ? warp.ready << (32 - by) : 0))) & 31;
  }
  warp.ready &= ~(1u << lane);
  if (!warp.ready) {
    --w.ready_count;
  } else if (w.options.pace == Pace::lockstep && w.ready_count > 1) {
    // The warp's other lanes come next, then the other warps: back to where lockstep looks.
    std::rotate(w.ready_warps, w.ready_warps + w.ready_count - 1, w.ready_warps + w.ready_count);
  }
  return warp.lanes + lane;
}

bool starts_first(Worker& w) {
  if (w.ready_count == 0 || w.options.pace == Pace::lockstep) return true;
  return w.options.order == Order::shuffled && (w.random() & 3) == 0;
}

void spinning(Worker& w) {
  fail("the block has not ended after %llu switches between its threads: a spin that nobody ends?%s",
       static_cast<unsigned long long>(w.options.max_steps), wait_sites(w));
}

void run_next_cold(Worker& w, void** save, Lane* me) {
  while (w.ready_count == 0 && w.unstarted >= w.threads && !w.bulk_copies.empty()) {
    size_t i = 0;
    if (w.options.order == Order::reverse) i = w.bulk_copies.size() - 1;
    if (w.options.order == Order::shuffled) i = w.random() % w.bulk_copies.size();
    const std::function<void()> land = std::move(w.bulk_copies[i]);
    w.bulk_copies.erase(w.bulk_copies.begin() + static_cast<std::ptrdiff_t>(i));
    land();
  }
  if (w.unstarted < w.threads) {
    Stack* stack = w.take_stack();
    switch_to(save, fresh_frame(stack), stack->low, static_cast<size_t>(stack->top - stack->low), me == nullptr);
  } else if (w.ready_count > 0) {
    Lane* next = pop_ready(w);
    current = next;
    if (next != me) switch_to_lane(save, next, me == nullptr);
  } else if (w.done == w.threads) {
    leave_block();
  } else {
    fail("deadlock: no thread of the block can run%s", wait_sites(w));
  }
}

std::string describe(const Lane& lane) {
  char text[160];
  const Index3 b = lane.block->block_index;
  std::snprintf(text, sizeof text, "block (%d,%d,%d) thread (%d,%d,%d), warp %d lane %d", b.x, b.y, b.z, lane.x, lane.y, lane.z,
                lane.rank / kLanes, lane.lane);
  return text;
}

void fail(const char* format, ...) {
  if (checker) checker->paused = true;
  char text[4096];
  va_list args;
  va_start(args, format);
  std::vsnprintf(text, sizeof text, format, args);
  va_end(args);
  worker->error = std::string(text) + "\n  in " + (current ? describe(*self()) : std::string("the executor"));
  worker->aborted = true;
  leave_block();
}

// ---- barriers

namespace {

void meet_at_barrier(int id, int expected, const char* what, Site at) {
  Lane* me = self();
  Worker& w = *worker;
  Barrier& b = w.barriers[id];
  const bool whole_block = id == 0;
  if (b.arrived == 0) {
    b.expected = expected;
    b.site = at;
    b.lanes.clear();
  } else if (b.expected != expected || (whole_block && (b.site.line != at.line || (b.site.file != at.file && std::strcmp(b.site.file, at.file) != 0)))) {
    fail("divergent barrier: this thread is at %s (%d threads), %s:%d, while others wait for %d threads at %s:%d", what,
         expected, at.file, at.line, b.expected, b.site.file, b.site.line);
  }
  ++b.arrived;
  ++me->epoch;
  if (!whole_block) b.lanes.push_back(me);
  if (b.arrived < expected) return park(what, at);

  ++w.counters.barriers;
  b.arrived = 0;
  // In the plain schedule the last to arrive goes on; in the others it must not always be the first.
  const bool keep = w.plain;
  if (whole_block) {
    if (checker) checker->join_block();
    for (int i = w.threads / kLanes; i-- > 0;) {
      Warp& warp = w.warps[i];
      make_ready(w, warp, keep && &warp == me->warp ? ~(1u << me->lane) : ~0u);
    }
  } else {
    if (checker) checker->join(b.lanes.data(), static_cast<int>(b.lanes.size()));
    for (Lane* lane : b.lanes) {
      if (lane != me || !keep) make_ready(w, *lane->warp, 1u << lane->lane);
    }
  }
  if (!keep) run_next(w, me);
}

}  // namespace

void sync_block(Site at) { meet_at_barrier(0, worker->threads, "sync_block", at); }

void sync_group(int id, int threads, Site at) {
  if (id < 1 || id > 15 || threads < kLanes || threads % kLanes || threads > worker->threads) {
    fail("sync_group at %s:%d: expected an id of 1 to 15 and a multiple of 32 up to the block's %d threads, got id %d and %d",
         at.file, at.line, worker->threads, id, threads);
  }
  meet_at_barrier(id, threads, "sync_group", at);
}

void release_warp(Worker& w, Warp& warp, Lane* last) {
  ++w.counters.warp_ops;
  warp.arrived = 0;
  warp.parity ^= 1;
  if (w.plain) {
    make_ready(w, warp, ~(1u << last->lane));
  } else {
    make_ready(w, warp, ~0u);
    run_next(w, last);
  }
}

// ---- shared memory

void* block_shared(size_t bytes) {
  Worker& w = *worker;
  if (bytes > w.launch->shared_bytes) {
    fail("the kernel's shared memory is %zu bytes, the launch gives %zu", bytes, w.launch->shared_bytes);
  }
  return w.shared;
}

char* shared_range(const void* p, size_t bytes, size_t alignment, const char* what, Site at) {
  Worker& w = *worker;
  const ptrdiff_t offset = static_cast<const char*>(p) - w.shared;
  const auto size = static_cast<ptrdiff_t>(w.launch->shared_bytes);
  if (offset < 0 || offset + static_cast<ptrdiff_t>(bytes) > size) {
    fail("%s at %s:%d: expected %zu bytes in the block's shared memory of %td, got offset %td", what, at.file, at.line, bytes,
         size, offset);
  }
  if (static_cast<size_t>(offset) % alignment) {
    fail("%s at %s:%d: expected an offset in shared memory that is a multiple of %zu, got %td", what, at.file, at.line,
         alignment, offset);
  }
  return w.shared + offset;
}

// ---- workers

Worker::Worker() : lanes(new Lane[kMaxThreads]), warps(new Warp[kMaxWarps]) {
  for (int i = 0; i < kMaxThreads; ++i) {
    lanes[i].rank = i;
    lanes[i].lane = static_cast<uint8_t>(i % kLanes);
    lanes[i].warp = &warps[i / kLanes];
    lanes[i].block = &shape;
  }
  for (int i = 0; i < kMaxWarps; ++i) {
    warps[i].worker = this;
    warps[i].lanes = &lanes[i * kLanes];
    warps[i].index = static_cast<uint32_t>(i);
  }
  const size_t shared_bytes = (kMaxShared + kSharedMargin + kPage - 1) / kPage * kPage;
  char* p = map_pages(shared_bytes + 2 * kPage, PROT_NONE);
  mprotect(p + kPage, shared_bytes, PROT_READ | PROT_WRITE);
  shared_end = p + kPage + shared_bytes;
  fault_stack = map_pages(kStackBytes, PROT_READ | PROT_WRITE) + kStackBytes;
}

Stack* Worker::take_stack() {
  if (free_stacks.empty()) {
    char* p = map_pages(kStackBytes + kPage, PROT_READ | PROT_WRITE);
    mprotect(p, kPage, PROT_NONE);
    // Tops at different offsets: at equal ones all fibers would fight for the same few sets of the cache.
    const size_t colour = all_stacks.size() * 5 % 64 * 64;
    all_stacks.push_back(std::make_unique<Stack>(Stack{p + kPage, p + kPage + kStackBytes - colour}));
    return all_stacks.back().get();
  }
  Stack* stack = free_stacks.back();
  free_stacks.pop_back();
  return stack;
}

uint64_t Worker::random() {  // xorshift64
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state;
}

namespace {

// After an error: fibers are abandoned where they stand.
void reset_worker(Worker& w) {
  w.free_stacks.clear();
  for (const auto& stack : w.all_stacks) {
    w.free_stacks.push_back(stack.get());
    allow(stack->low, static_cast<size_t>(stack->top - stack->low));
  }
  w.ready_count = 0;
  for (int i = 0; i < kMaxWarps; ++i) w.warps[i].ready = w.warps[i].arrived = 0;
  for (Barrier& b : w.barriers) b.arrived = 0;
  for (int i = 0; i < kMaxThreads; ++i) w.lanes[i].copies.clear();
  w.bulk_copies.clear();
  reset_hopper(w);
  w.aborted = false;
}

bool is_nan_filled(const char* p, size_t bytes) {
  return std::all_of(p, p + bytes, [](char c) { return static_cast<unsigned char>(c) == kNaN; });
}

void run_block(Worker& w, const Launch& launch, uint64_t number) {
  const Extent3 g = launch.grid;
  const auto gx = static_cast<uint64_t>(g.x), gy = static_cast<uint64_t>(g.y);
  w.shape.block_index = {static_cast<int>(number % gx), static_cast<int>(number / gx % gy), static_cast<int>(number / (gx * gy))};
  w.done = w.unstarted = 0;
  w.steps = 0;
  if (w.options.order == Order::shuffled) {
    for (size_t i = w.start_order.size(); i-- > 1;) std::swap(w.start_order[i], w.start_order[w.random() % (i + 1)]);
  }
  for (int i = 0; i < w.threads; ++i) {
    w.lanes[i].state = LaneState::unstarted;
    w.lanes[i].waits_for = nullptr;
    w.lanes[i].epoch = 0;
    w.lanes[i].copy_group = 0;
  }
  char* const end = w.shared + launch.shared_bytes;
  // ASan sees the bytes beside it by itself.
  const size_t before = kAsan ? 0 : kSharedMargin;
  const size_t after = kAsan ? 0 : std::min<size_t>(kSharedMargin, static_cast<size_t>(w.shared_end - end));
  std::memset(w.shared - before, kNaN, before + launch.shared_bytes + after);
  new_hopper_block(w);
  if (checker) {
    checker->start_block(w);
    checker->paused = false;
  }
  ++w.counters.blocks;
  w.counters.threads += static_cast<uint64_t>(w.threads);

  Stack* stack = w.take_stack();
  switch_to(&w.main_sp, fresh_frame(stack), stack->low, static_cast<size_t>(stack->top - stack->low), false);
  current = nullptr;
  w.counters.switches += w.steps;
  if (checker && !w.aborted) checker->end_block(w);
  if (!w.aborted && !(is_nan_filled(w.shared - before, before) && is_nan_filled(end, after))) {
    const Index3 b = w.shape.block_index;
    char text[160];
    std::snprintf(text, sizeof text, "block (%d,%d,%d) has written outside its %zu bytes of shared memory", b.x, b.y, b.z,
                  launch.shared_bytes);
    w.error = text;
    w.aborted = true;
  }
}

void run_blocks(Worker& w, Launch& launch) {
  worker = &w;
  w.launch = &launch;
  w.options = options;
  w.plain = options.order == Order::forward && options.pace == Pace::greedy;
  w.main_low = nullptr;
  w.threads = launch.threads;
  w.shape.block_size = launch.block;
  w.shape.grid_size = launch.grid;
  w.random_state = w.options.seed * 0x9E3779B97F4A7C15u + 0x1234567;
  w.shared = w.shared_end - (launch.shared_bytes + kSharedAlignment - 1) / kSharedAlignment * kSharedAlignment;
  if (kAsan) {
    char* low = w.shared_end - kMaxShared;
    forbid(low, kMaxShared);
    allow(w.shared, launch.shared_bytes);
  }
  w.start_order.resize(static_cast<size_t>(w.threads));
  const Extent3 b = launch.block;
  for (int i = 0; i < w.threads; ++i) {
    w.start_order[static_cast<size_t>(i)] = static_cast<uint32_t>(w.options.order == Order::reverse ? w.threads - 1 - i : i);
    w.lanes[i].x = static_cast<uint16_t>(i % b.x);
    w.lanes[i].y = static_cast<uint16_t>(i / b.x % b.y);
    w.lanes[i].z = static_cast<uint16_t>(i / (b.x * b.y));
  }
  while (!launch.failed) {
    const uint64_t i = launch.next++;
    if (i >= launch.blocks) break;
    run_block(w, launch, launch.block_order.empty() ? i : launch.block_order[i]);
    if (w.aborted) {
      const std::lock_guard lock(launch.mutex);
      if (!launch.failed) launch.error = w.error;
      launch.failed = true;
      reset_worker(w);
    }
  }
  const std::lock_guard lock(counters_mutex);
  total.blocks += w.counters.blocks;
  total.threads += w.counters.threads;
  total.switches += w.counters.switches;
  total.barriers += w.counters.barriers;
  total.warp_ops += w.counters.warp_ops;
  total.mma += w.counters.mma;
  w.counters = {};
}

// Threads for workers 1, 2, ...; the launching thread is worker 0.
class Pool {
 public:
  ~Pool() {
    {
      const std::lock_guard lock(mutex_);
      quit_ = true;
    }
    start_.notify_all();
    for (std::thread& t : threads_) t.join();
  }
  void run(Launch& launch, int workers) {
    while (static_cast<int>(workers_.size()) < workers) workers_.push_back(std::make_unique<Worker>());
    while (static_cast<int>(threads_.size()) < workers - 1) {
      threads_.emplace_back([this, id = static_cast<int>(threads_.size()) + 1] { serve(id); });
    }
    {
      const std::lock_guard lock(mutex_);
      launch_ = &launch;
      used_ = workers;
      active_ = workers - 1;
      ++generation_;
    }
    if (workers > 1) start_.notify_all();
    run_blocks(*workers_[0], launch);
    std::unique_lock lock(mutex_);
    finished_.wait(lock, [&] { return active_ == 0; });
  }

 private:
  void serve(int id) {
    give_fault_stack();
    uint64_t seen = 0;
    for (;;) {
      Worker* mine;
      Launch* launch;
      {
        std::unique_lock lock(mutex_);
        start_.wait(lock, [&] { return quit_ || (generation_ != seen && id < used_ && active_ > 0); });
        if (quit_) return;
        seen = generation_;
        mine = workers_[static_cast<size_t>(id)].get();
        launch = launch_;
      }
      run_blocks(*mine, *launch);
      const std::lock_guard lock(mutex_);
      if (--active_ == 0) finished_.notify_one();
    }
  }

  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable start_, finished_;
  uint64_t generation_ = 0;
  int active_ = 0, used_ = 0;
  bool quit_ = false;
  Launch* launch_ = nullptr;
};

}  // namespace

namespace {
Recorder* recorder = nullptr;
}  // namespace
Recorder::Recorder() {
  if (recorder) throw KernelError("recorder", "expected one at a time");
  recorder = this;
}
Recorder::~Recorder() { recorder = nullptr; }
Recorder* Recorder::active() { return recorder; }

void (*before_launch)() = [] {};

void launch_erased(Extent3 grid, Extent3 block, size_t shared_bytes, void (*run)(void*), void* closure, size_t closure_bytes) {
  if (recorder) {
    // Closures are plain data of at most a few hundred bytes.
    std::vector<std::max_align_t> kept((closure_bytes + sizeof(std::max_align_t) - 1) / sizeof(std::max_align_t));
    std::memcpy(kept.data(), closure, closure_bytes);
    return recorder->add([=]() mutable { launch_erased(grid, block, shared_bytes, run, kept.data(), closure_bytes); });
  }
  before_launch();
  static std::mutex one_at_a_time;
  const std::lock_guard lock(one_at_a_time);
  static Pool pool;
  const auto product = [](Extent3 e) { return int64_t{e.x} * e.y * e.z; };
  const auto text = [](Extent3 e) {
    return "(" + std::to_string(e.x) + "," + std::to_string(e.y) + "," + std::to_string(e.z) + ")";
  };
  if (block.x < 1 || block.y < 1 || block.z < 1 || product(block) > kMaxThreads || product(block) % kLanes) {
    throw KernelError("launch", "expected a block of 32 to 1024 threads, a multiple of 32, got " + text(block));
  }
  if (grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.y > 65535 || grid.z > 65535) {
    throw KernelError("launch", "expected a grid of 1 to 2^31-1, 65535 and 65535 blocks, got " + text(grid));
  }
  if (shared_bytes > kMaxShared) {
    throw KernelError("launch", "expected at most " + std::to_string(kMaxShared) + " bytes of shared memory, got " +
                                    std::to_string(shared_bytes));
  }
  Launch launch{.grid = grid, .block = block, .threads = static_cast<int>(product(block)), .shared_bytes = shared_bytes,
                .run = run, .closure = closure, .closure_bytes = closure_bytes, .block_order = {},
                .blocks = static_cast<uint64_t>(product(grid)), .mutex = {}, .error = {}};
  if (options.order != Order::forward) {
    for (uint64_t i = launch.blocks; i-- > 0;) launch.block_order.push_back(static_cast<uint32_t>(i));
  }
  if (options.order == Order::shuffled) {
    uint64_t state = options.seed * 0x9E3779B97F4A7C15u + 1;
    for (size_t i = launch.block_order.size(); i-- > 1;) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      std::swap(launch.block_order[i], launch.block_order[(state >> 33) % (i + 1)]);
    }
  }
  const FaultHandler handler;
  if (checker) checker->start_launch(launch);
  const int workers = checker ? 1 : std::max(1, options.workers);
  pool.run(launch, static_cast<int>(std::min<uint64_t>(static_cast<uint64_t>(workers), launch.blocks)));
  if (launch.failed) throw KernelError("simt", launch.error);
}

// Does not ask for `checker`, which is constructed at start: tags of test cases are made then, too.
bool is_check_build() {
#if defined(ELECTRA_SIMT_CHECK)
  return true;
#else
  return false;
#endif
}
bool is_asan_build() { return kAsan; }

Counters counters() {
  const std::lock_guard lock(counters_mutex);
  return total;
}
void reset_counters() {
  const std::lock_guard lock(counters_mutex);
  total = {};
}
Traffic traffic() { return checker ? checker->traffic() : Traffic{}; }
void reset_traffic() {
  if (checker) checker->traffic() = {};
}

}  // namespace electra::simt

// A fiber: runs threads of the block, one after another for as long as they end without having to wait.
extern "C" __attribute__((used)) void electra_simt_fiber(void* stack) {
  using namespace electra::simt;
  Worker& w = *worker;
#if defined(ELECTRA_SIMT_ASAN)
  const void* low;
  size_t size;
  __sanitizer_finish_switch_fiber(nullptr, &low, &size);
  if (!w.main_low) {
    w.main_low = low;
    w.main_size = size;
  }
#endif
  auto* mine = static_cast<Stack*>(stack);
  while (w.unstarted < w.threads) {
    Lane* lane = &w.lanes[w.start_order[static_cast<size_t>(w.unstarted++)]];
    lane->stack = mine;
    lane->state = LaneState::running;
    current = lane;
    w.launch->run(w.launch->closure);
    lane = self();
    if (!lane->copies.empty()) fail("the thread ends with %zu asynchronous copies that it has not waited for", lane->copies.size());
    lane->state = LaneState::done;
    ++w.done;
    if (w.done == w.threads) check_hopper_finished(w);
    if (w.ready_count > 0 && !(w.options.pace == Pace::lockstep)) break;  // somebody waits for his turn
  }
  w.free_stacks.push_back(mine);
  run_next(w, nullptr);
  __builtin_unreachable();
}
