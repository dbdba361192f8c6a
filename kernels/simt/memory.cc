// Device memory, and what happens when a kernel leaves it.
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstring>

#include "kernels/simt/internal.h"

namespace electra::simt {

namespace {

constexpr size_t kPage = 4096;
// cudaMalloc's alignment, which sector counts depend on. The fast build has no other means to see the end of an allocation than
// the page after it, so there the end lies nearer.
size_t alignment() { return kAsan || checker ? 256 : 16; }

std::mutex mutex;
std::map<const char*, size_t>& allocations() {
  static auto& map = *new std::map<const char*, size_t>;  // never destroyed: buffers of static storage may be released late
  return map;
}
size_t used = 0;

size_t round_up(size_t n, size_t multiple) { return (n + multiple - 1) / multiple * multiple; }

}  // namespace

char* device_range() {
  static char* const base = [] {
    void* p = mmap(nullptr, kDeviceRange, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw DeviceError("simt", "the system refuses the address range of device memory");
    return static_cast<char*>(p);
  }();
  return base;
}

bool is_device_pointer(const void* p) {
  const auto* c = static_cast<const char*>(p);
  return c >= device_range() && c < device_range() + kDeviceRange;
}

void* allocate(size_t bytes) {
  const std::lock_guard lock(mutex);
  const size_t rounded = round_up(std::max<size_t>(bytes, 1), alignment()), pages = round_up(rounded, kPage);
  if (used + pages + 2 * kPage > kDeviceRange) {
    throw DeviceError("simt", "expected " + std::to_string(bytes) + " bytes of device memory, its address range is used up");
  }
  char* first = device_range() + used + kPage;
  used += pages + kPage;
  if (mprotect(first, pages, PROT_READ | PROT_WRITE) != 0) {
    throw DeviceError("simt", "expected " + std::to_string(bytes) + " bytes of device memory, the system has not that much");
  }
  char* p = first + (pages - rounded);
  std::memset(first, kNaN, pages);
  forbid(first - kPage, kPage + static_cast<size_t>(p - first));
  forbid(p + bytes, rounded - bytes + kPage);
  allocations()[p] = bytes;
  return p;
}

void release(void* p) {
  if (!p) return;
  const std::lock_guard lock(mutex);
  const auto it = allocations().find(static_cast<char*>(p));
  if (it == allocations().end()) throw DeviceError("simt", "release: expected a pointer from allocate()");
  char* first = reinterpret_cast<char*>(reinterpret_cast<uintptr_t>(p) & ~(kPage - 1));
  const size_t pages = round_up(static_cast<size_t>(static_cast<char*>(p) - first) + std::max<size_t>(it->second, 1), kPage);
  if (checker) checker->written(p, it->second, false);
  forbid(first, pages);
  madvise(first, pages, MADV_DONTNEED);
  mprotect(first, pages, PROT_NONE);  // for ever: a use after this faults
  allocations().erase(it);
}

Allocation find_allocation(const void* p) {
  const std::lock_guard lock(mutex);
  auto it = allocations().upper_bound(static_cast<const char*>(p));
  if (it == allocations().begin()) return {};
  --it;
  return {const_cast<char*>(it->first), it->second};
}

void mark_written(void* device, size_t bytes) {
  if (checker) checker->written(device, bytes, true);
}
void upload(void* device, const void* host, size_t bytes) {
  if (bytes) std::memcpy(device, host, bytes);
  mark_written(device, bytes);
}
void download(void* host, const void* device, size_t bytes) {
  if (bytes) std::memcpy(host, device, bytes);
}
void poison(void* device, size_t bytes) {
  if (bytes) std::memset(device, 0xFF, bytes);
  if (checker && bytes) checker->written(device, bytes, false);
}
void copy(void* to, const void* from, size_t bytes) { upload(to, from, bytes); }
void fill(void* device, int byte, size_t bytes) {
  if (bytes) std::memset(device, byte, bytes);
  mark_written(device, bytes);
}

// ---- an invalid access becomes an error of the launch. (Under ASan, ASan reports it.)

namespace {

struct sigaction previous_segv, previous_bus;
__thread const char* fault_address;

__attribute__((noreturn)) void report_fault() {
  if (checker) checker->paused = true;
  const char* at = fault_address;
  const Lane* lane = self();
  if (at < lane->stack->low && at >= lane->stack->low - kPage) fail("stack overflow: the thread's local memory is too large");
  const Allocation a = is_device_pointer(at) ? find_allocation(at) : Allocation{};
  if (a.begin) {
    fail("invalid access at %p, %td bytes after the end of an allocation of %zu bytes, or to released memory",
         static_cast<const void*>(at), at - (a.begin + a.bytes), a.bytes);
  }
  if (at >= worker->shared_end && at < worker->shared_end + kPage) {
    fail("invalid access %td bytes after the end of shared memory", at - (worker->shared + worker->launch->shared_bytes));
  }
  fail("invalid access at %p, outside device memory", static_cast<const void*>(at));
}

void on_fault(int signal_number, siginfo_t* info, void* context) {
  if (!current) {
    sigaction(signal_number, signal_number == SIGSEGV ? &previous_segv : &previous_bus, nullptr);
    return;  // and fault again
  }
  // Nothing of the fiber is needed any more: report from a stack of its own, which has room.
  auto* registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  fault_address = static_cast<const char*>(info->si_addr);
  registers[REG_RSP] = static_cast<greg_t>((reinterpret_cast<uintptr_t>(worker->fault_stack) & ~uintptr_t{15}) - 8);
  registers[REG_RIP] = reinterpret_cast<greg_t>(report_fault);
}

}  // namespace

void give_fault_stack() {
  if (kAsan) return;
  thread_local bool has_stack = false;
  if (has_stack) return;
  has_stack = true;
  stack_t present{};
  sigaltstack(nullptr, &present);
  if (!(present.ss_flags & SS_DISABLE)) return;
  constexpr size_t kBytes = 64 << 10;
  stack_t mine{};
  mine.ss_sp = new char[kBytes];  // for the thread's life, which is the program's
  mine.ss_size = kBytes;
  sigaltstack(&mine, nullptr);
}

FaultHandler::FaultHandler() {
  if (kAsan) return;
  give_fault_stack();
  struct sigaction action{};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  sigemptyset(&action.sa_mask);
  sigaction(SIGSEGV, &action, &previous_segv);
  sigaction(SIGBUS, &action, &previous_bus);
}
FaultHandler::~FaultHandler() {
  if (kAsan) return;
  sigaction(SIGSEGV, &previous_segv, nullptr);
  sigaction(SIGBUS, &previous_bus, nullptr);
}

}  // namespace electra::simt
