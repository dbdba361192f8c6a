// The check build: kernels are compiled with -fsanitize=thread, which turns each load and store into a call, but linked with the
// functions below instead of libtsan. They know every access, and so find
//   - accesses outside shared memory or an allocation, to the byte; to memory of the host; misaligned ones;
//   - reads of what nobody has written;
//   - races: two accesses of which one writes, by threads that no barrier orders, equal values or not. Threads carry vector
//     clocks that sync_block, sync_group, sync_warp and mbarriers join; shuffles and mma do not (PTX ISA, "Memory consistency");
// and count the memory traffic of each warp request.
#include <dlfcn.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <unordered_map>
#include <utility>

#include "kernels/simt/internal.h"

namespace electra::simt {

namespace {

// Who accessed a byte: launch 12 bits, block 20, atomic 1, thread 10, the thread's clock 21. 0: nobody.
using Id = uint64_t;
constexpr uint32_t kLaunchMask = 0xfff, kBlockMask = 0xfffff, kClockMask = 0x1fffff;
uint32_t launch_of(Id id) { return static_cast<uint32_t>(id >> 52); }
uint32_t block_of(Id id) { return static_cast<uint32_t>(id >> 32) & kBlockMask; }
bool is_atomic(Id id) { return id >> 31 & 1; }
uint32_t thread_of(Id id) { return static_cast<uint32_t>(id >> 21) & 1023; }
uint32_t clock_of(Id id) { return static_cast<uint32_t>(id) & kClockMask; }
constexpr Id kHost = 1;  // launch 0, which no launch is

struct Byte {
  Id writer;      // of what it holds; 0: nobody, or an asynchronous copy under way
  Id readers[2];  // since then
};

struct Request {  // an access of a warp's lanes together
  uint32_t lanes = 0;
  int bytes = 0, kind = 0;
  uint64_t address[kLanes];
};
// The requests of one place in the source and one warp. Lanes do not run in step, so the k-th access of a lane after its n-th
// collective belongs to the request (n, k). Two lanes of a warp are at most one collective apart.
struct PlaceRequests {
  uint32_t epoch[2] = {0, 0};
  std::vector<Request> requests[2];
  uint32_t lane_epoch[kLanes] = {}, lane_count[kLanes] = {};
};

struct PlaceKey {
  uintptr_t place;
  uint32_t rest;  // line, warp, kind
  bool operator==(const PlaceKey&) const = default;
};
struct PlaceHash {
  size_t operator()(const PlaceKey& k) const { return (k.place ^ uint64_t{k.rest} << 20) * 0x9E3779B97F4A7C15u >> 13; }
};

std::string source_of(const Place& place) {
  if (!place.pc) return place.site.line ? std::string(place.site.file) + ":" + std::to_string(place.site.line) : "(landing of an asynchronous copy)";
  Dl_info info;
  if (!dladdr(place.pc, &info)) return "?";
  char command[512], line[1024] = "";
  std::snprintf(command, sizeof command, "addr2line -Cpfe '%s' %lx", info.dli_fname,
                static_cast<unsigned long>(static_cast<const char*>(place.pc) - 1 - static_cast<const char*>(info.dli_fbase)));
  if (FILE* pipe = popen(command, "r")) {
    if (!std::fgets(line, sizeof line, pipe)) line[0] = 0;
    pclose(pipe);
  }
  line[std::strcspn(line, "\n")] = 0;
  return line;
}

const char* name_of(int kind) { return kind & kAtomic ? "atomic operation" : kind & kWrite ? "write" : "read"; }

template <class T>
T* map_shadow(size_t bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) {
    std::fprintf(stderr, "the check build cannot reserve %zu bytes of addresses\n", bytes);
    std::abort();
  }
  return static_cast<T*>(p);
}

struct Pause {
  Pause() { checker->paused = true; }
  ~Pause() { checker->paused = false; }
};

class RaceChecker final : public Checker {
 public:
  RaceChecker() : shared_(map_shadow<Byte>(kMaxShared * sizeof(Byte))), global_(map_shadow<Byte>(kDeviceRange * sizeof(Byte))) {
    checker = this;
  }

  void start_launch(const Launch& launch) override {
    launch_number_ = launch_number_ % kLaunchMask + 1;
    block_number_ = 0;
    closure_ = static_cast<const char*>(launch.closure);
    closure_bytes_ = launch.closure_bytes;
  }

  void start_block(Worker& w) override {
    block_number_ = (block_number_ + 1) & kBlockMask;
    threads_ = static_cast<uint32_t>(w.threads);
    seen_.assign(size_t{threads_} * threads_, 0);
    barrier_.assign(threads_, 0);
    own_.assign(threads_, 1);
    repeats_ = 0;
    requests_.clear();
  }

  void end_block(Worker&) override {
    for (auto& [key, place] : requests_) {
      for (auto& list : place.requests) {
        for (const Request& r : list) count(r);
      }
    }
    requests_.clear();
  }

  void join(Lane* const* lanes, int count) override {
    const Pause pause;
    Clocks latest(threads_, 0);
    for (int i = 0; i < count; ++i) {
      const auto rank = static_cast<uint32_t>(lanes[i]->rank);
      const uint32_t* row = &seen_[size_t{rank} * threads_];
      for (uint32_t j = 0; j < threads_; ++j) latest[j] = std::max(latest[j], row[j]);
      latest[rank] = std::max(latest[rank], own_[rank]);
    }
    for (int i = 0; i < count; ++i) {
      const auto rank = static_cast<uint32_t>(lanes[i]->rank);
      std::copy(latest.begin(), latest.end(), seen_.begin() + static_cast<std::ptrdiff_t>(size_t{rank} * threads_));
      ++own_[rank];
    }
  }
  // Everything before is ordered for everybody: one vector for all threads.
  void join_block() override {
    const Pause pause;
    for (uint32_t j = 0; j < threads_; ++j) barrier_[j] = own_[j]++;
  }
  void release(Lane& lane, Clocks& clocks) override {
    const Pause pause;
    const auto rank = static_cast<uint32_t>(lane.rank);
    clocks.resize(threads_, 0);
    for (uint32_t j = 0; j < threads_; ++j) clocks[j] = std::max(clocks[j], seen_[size_t{rank} * threads_ + j]);
    clocks[rank] = std::max(clocks[rank], own_[rank]++);
  }
  void acquire(Lane& lane, const Clocks& clocks) override {
    const Pause pause;
    uint32_t* row = &seen_[static_cast<size_t>(lane.rank) * threads_];
    for (size_t j = 0; j < clocks.size(); ++j) row[j] = std::max(row[j], clocks[j]);
  }

  void written(const void* device, size_t bytes, bool yes) override {
    last_ = {};
    if (!is_device_pointer(device)) return;
    Byte* b = global_ + (static_cast<const char*>(device) - device_range());
    for (size_t i = 0; i < bytes; ++i) b[i] = {yes ? kHost : 0, {0, 0}};
  }

  void access(Lane& lane, const void* p, size_t bytes, int kind, const Place& place) override {
    const Pause pause;
    const auto* c = static_cast<const char*>(p);
    if (c >= lane.stack->low && c < lane.stack->top + kColours) return;  // registers, as far as a GPU is concerned
    const Worker& w = *lane.warp->worker;
    repeats_ = p == last_address_ && place.pc == last_pc_ && steps_ == w.steps ? repeats_ + 1 : 0;
    last_address_ = p;
    last_pc_ = place.pc;
    steps_ = w.steps;
    if (repeats_ > kMaxRepeats) {
      fail("the thread makes the same access for ever, without waiting for anybody: a spin that nobody ends?\n  access: %s",
           source_of(place).c_str());
    }
    Byte* shadow;
    const bool shared = c >= w.shared_end - kMaxShared && c < w.shared_end;
    if (shared) {
      if (c < w.shared || c + bytes > w.shared + w.launch->shared_bytes) {
        fail("out of bounds: %s of %zu bytes at offset %td of shared memory, which has %zu bytes\n  access: %s", name_of(kind),
             bytes, c - w.shared, w.launch->shared_bytes, source_of(place).c_str());
      }
      shadow = shared_ + (c - (w.shared_end - kMaxShared));
    } else if (is_device_pointer(p)) {
      if (c < last_.begin || c + bytes > last_.begin + last_.bytes) {
        last_ = find_allocation(p);
        if (!last_.begin || c + bytes > last_.begin + last_.bytes) {
          const Allocation a = std::exchange(last_, {});
          if (!a.begin) fail("out of bounds: %s of released or never allocated memory\n  access: %s", name_of(kind), source_of(place).c_str());
          fail("out of bounds: %s of %zu bytes, %td bytes after the start of an allocation of %zu bytes\n  access: %s",
               name_of(kind), bytes, c - a.begin, a.bytes, source_of(place).c_str());
        }
      }
      shadow = global_ + (c - device_range());
    } else if (c >= closure_ && c + bytes <= closure_ + closure_bytes_) {
      return;  // the kernel's arguments
    } else {
      return check_host(lane, c, bytes, kind, place);
    }
    if (bytes <= 16 && (bytes & (bytes - 1)) == 0 && reinterpret_cast<uintptr_t>(p) % bytes) {
      fail("misaligned %s of %zu bytes at %p\n  access: %s", name_of(kind), bytes, p, source_of(place).c_str());
    }
    const Id me = Id{launch_number_} << 52 | Id{block_number_} << 32 | Id{(kind & kAtomic) != 0} << 31 |
                  Id{static_cast<uint32_t>(lane.rank)} << 21 | (own_[static_cast<size_t>(lane.rank)] & kClockMask);
    for (size_t i = 0; i < bytes; ++i) check_byte(shadow[i], lane, c, bytes, kind, place, shared, me);
    if (!(kind & kUncounted)) note_request(lane, c, bytes, kind | (shared ? kSharedRequest : 0), place);
  }

  void count_conflicts(int extra, bool write) override {
    (write ? traffic_.shared_write_conflicts : traffic_.shared_read_conflicts) += static_cast<uint64_t>(extra);
  }
  Traffic& traffic() override { return traffic_; }

 private:
  static constexpr int kSharedRequest = 64;
  static constexpr ptrdiff_t kColours = 64 * 64;  // the most by which a stack's top is lowered
  static constexpr uint32_t kMaxRepeats = 1u << 16;
  static constexpr uint32_t kMaxRequests = 1u << 20;  // of one place and warp that are not complete; more are not counted

  bool ordered(Id before, const Lane& lane, bool shared) const {
    if (launch_of(before) != launch_number_ || before == 0) return true;
    if (block_of(before) != block_number_) return shared;  // blocks of one launch are never ordered
    const uint32_t thread = thread_of(before), clock = clock_of(before);
    return thread == static_cast<uint32_t>(lane.rank) || clock <= barrier_[thread] ||
           clock <= seen_[static_cast<size_t>(lane.rank) * threads_ + thread];
  }

  void check_byte(Byte& b, Lane& lane, const char* p, size_t bytes, int kind, const Place& place, bool shared, Id me) {
    const bool atomic = kind & kAtomic, write = (kind & kWrite) || atomic;
    const bool initialised =
        b.writer != 0 && (!shared || (launch_of(b.writer) == launch_number_ && block_of(b.writer) == block_number_));
    if ((!write || atomic) && !initialised) {
      fail("uninitialised: %s of %zu bytes of %s memory at %p that nobody has written, or whose copy is under way\n  access: %s",
           name_of(kind), bytes, shared ? "shared" : "global", static_cast<const void*>(p), source_of(place).c_str());
    }
    const auto conflicts = [&](Id other) { return !ordered(other, lane, shared) && !(atomic && is_atomic(other)); };
    Id other = 0;
    const char* order = "";
    if (conflicts(b.writer)) {
      other = b.writer;
      order = write ? "write after write" : "read after write";
    } else if (write && conflicts(b.readers[0])) {
      other = b.readers[0];
      order = "write after read";
    } else if (write && conflicts(b.readers[1])) {
      other = b.readers[1];
      order = "write after read";
    }
    if (other != 0) {
      fail("race (%s) on %s memory at %p, %zu bytes: nothing orders it after an access by thread %u of block number %u\n"
           "  access: %s", order, shared ? "shared" : "global", static_cast<const void*>(p), bytes, thread_of(other),
           block_of(other) - 1, source_of(place).c_str());
    }
    if (write) {
      b = {me, {0, 0}};
      if (kind & kInFlight) b = {0, {me, 0}};
    } else if (ordered(b.readers[0], lane, shared)) {
      b.readers[0] = me;
    } else if (thread_of(b.readers[0]) != static_cast<uint32_t>(lane.rank) || block_of(b.readers[0]) != block_number_) {
      b.readers[1] = me;
    }
  }

  void check_host(Lane& lane, const char* p, size_t bytes, int kind, const Place& place) {
    const Worker& w = *lane.warp->worker;
    for (int i = 0; i < w.threads; ++i) {
      const Lane& other = w.lanes[i];
      const bool alive = other.state == LaneState::running || other.state == LaneState::waiting;
      if (alive && other.stack && p >= other.stack->low && p < other.stack->top) {
        fail("%s of %zu bytes of another thread's local memory (thread %d)\n  access: %s", name_of(kind), bytes, i,
             source_of(place).c_str());
      }
    }
    Dl_info info;
    if (!(kind & (kWrite | kAtomic)) && dladdr(p, &info)) return;  // constants of the program
    fail("host memory: %s of %zu bytes at %p, which is no device memory\n  access: %s", name_of(kind), bytes,
         static_cast<const void*>(p), source_of(place).c_str());
  }

  // ---- traffic

  void note_request(Lane& lane, const char* p, size_t bytes, int kind, const Place& place) {
    kind &= ~kInFlight;
    const uint32_t rest = static_cast<uint32_t>(place.pc ? 0 : place.site.line) << 12 ^ lane.warp->index << 7 ^
                          static_cast<uint32_t>(kind);
    const uintptr_t where = reinterpret_cast<uintptr_t>(place.pc ? place.pc : place.site.file);
    PlaceRequests& r = requests_[{where, rest}];
    const int l = lane.lane, generation = lane.epoch & 1;
    auto& list = r.requests[generation];
    if (r.epoch[generation] != lane.epoch) {
      for (const Request& old : list) count(old);
      list.clear();
      r.epoch[generation] = lane.epoch;
    }
    if (r.lane_epoch[l] != lane.epoch) {
      r.lane_epoch[l] = lane.epoch;
      r.lane_count[l] = 0;
    }
    const uint32_t k = r.lane_count[l]++;
    if (k >= kMaxRequests) return;
    if (k >= list.size()) list.resize(k + 1);
    Request& request = list[k];
    request.bytes = static_cast<int>(bytes);
    request.kind = kind;
    request.address[l] = reinterpret_cast<uint64_t>(p);
    request.lanes |= 1u << l;
    if (request.lanes == ~0u) {
      count(request);
      request.lanes = 0;
    }
  }

  void count(const Request& r) {
    if (!r.lanes) return;
    if (r.kind & kSharedRequest) {
      count_conflicts(conflicts(r), (r.kind & kWrite) != 0);
      return;
    }
    if (r.kind & kAtomic) {
      traffic_.atomic_bytes += static_cast<uint64_t>(r.bytes * __builtin_popcount(r.lanes));
      return;
    }
    uint64_t sorted[kLanes];
    int n = 0;
    for (uint32_t rest = r.lanes; rest; rest &= rest - 1) sorted[n++] = r.address[__builtin_ctz(rest)];
    std::sort(sorted, sorted + n);
    uint64_t distinct = 0, sectors = 0, end = 0, next_sector = 0;
    const auto size = static_cast<uint64_t>(r.bytes);
    for (int i = 0; i < n; ++i) {
      const uint64_t from = std::max(sorted[i], end), to = std::max(sorted[i] + size, end);
      distinct += to - from;
      end = to;
      const uint64_t first = std::max(sorted[i] / 32, next_sector), last = (sorted[i] + size - 1) / 32;
      if (last + 1 > first) {
        sectors += last + 1 - first;
        next_sector = last + 1;
      }
    }
    const bool write = r.kind & kWrite;
    (write ? traffic_.write_bytes : traffic_.read_bytes) += distinct;
    (write ? traffic_.write_sectors : traffic_.read_sectors) += sectors;
  }

  // 32 banks of 4 bytes. Accesses of 8 bytes go in two halves of the warp, of 16 bytes in four quarters; within a part each bank
  // serves one word a cycle, to however many lanes.
  static int conflicts(const Request& r) {
    const int lanes_at_once = r.bytes <= 4 ? 32 : r.bytes == 8 ? 16 : 8;
    int extra = 0;
    for (int first = 0; first < kLanes; first += lanes_at_once) {
      std::vector<uint64_t> words[32];
      size_t cycles = 0;
      for (int l = first; l < first + lanes_at_once; ++l) {
        if (!(r.lanes >> l & 1)) continue;
        for (uint64_t word = r.address[l] / 4; word <= (r.address[l] + static_cast<uint64_t>(r.bytes) - 1) / 4; ++word) {
          auto& bank = words[word % 32];
          if (std::find(bank.begin(), bank.end(), word) == bank.end()) bank.push_back(word);
          cycles = std::max(cycles, bank.size());
        }
      }
      if (cycles > 1) extra += static_cast<int>(cycles) - 1;
    }
    return extra;
  }

  Byte* shared_;
  Byte* global_;
  uint32_t launch_number_ = 0, block_number_ = 0, threads_ = 0;
  Clocks own_;      // each thread's own clock
  Clocks barrier_;  // of each thread: the clock that the last sync_block has made everybody see
  Clocks seen_;     // [thread][other]: the other's clock that the thread has seen by narrower barriers
  const char* closure_ = nullptr;
  size_t closure_bytes_ = 0;
  Allocation last_;
  const void *last_address_ = nullptr, *last_pc_ = nullptr;
  uint64_t steps_ = 0;
  uint32_t repeats_ = 0;
  std::unordered_map<PlaceKey, PlaceRequests, PlaceHash> requests_;
  Traffic traffic_;
};

RaceChecker race_checker;

void instrumented(const void* p, size_t bytes, int kind, const void* pc) {
  if (current && !race_checker.paused) race_checker.access(*self(), p, bytes, kind, {pc, {}});
}

}  // namespace

}  // namespace electra::simt

// What the compiler calls.
using electra::simt::instrumented;
using electra::simt::kRead;
using electra::simt::kWrite;
#define ELECTRA_PC __builtin_return_address(0)
#define ELECTRA_ACCESS(n)                                                                       \
  void __tsan_read##n(void* p) { instrumented(p, n, kRead, ELECTRA_PC); }                       \
  void __tsan_write##n(void* p) { instrumented(p, n, kWrite, ELECTRA_PC); }                     \
  void __tsan_unaligned_read##n(void* p) { instrumented(p, n, kRead, ELECTRA_PC); }             \
  void __tsan_unaligned_write##n(void* p) { instrumented(p, n, kWrite, ELECTRA_PC); }           \
  void __tsan_volatile_read##n(void* p) { instrumented(p, n, kRead, ELECTRA_PC); }              \
  void __tsan_volatile_write##n(void* p) { instrumented(p, n, kWrite, ELECTRA_PC); }
extern "C" {
ELECTRA_ACCESS(1)
ELECTRA_ACCESS(2)
ELECTRA_ACCESS(4)
ELECTRA_ACCESS(8)
ELECTRA_ACCESS(16)
void __tsan_read_range(void* p, size_t n) { instrumented(p, n, kRead, ELECTRA_PC); }
void __tsan_write_range(void* p, size_t n) { instrumented(p, n, kWrite, ELECTRA_PC); }
void __tsan_vptr_update(void*, void*) {}
void __tsan_vptr_read(void*) {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
void* __tsan_memcpy(void* to, const void* from, size_t n) {  // clang
  instrumented(from, n, kRead, ELECTRA_PC);
  instrumented(to, n, kWrite, ELECTRA_PC);
  return memcpy(to, from, n);
}
void* __tsan_memset(void* to, int byte, size_t n) {
  instrumented(to, n, kWrite, ELECTRA_PC);
  return memset(to, byte, n);
}
}
