#include "kernels/core/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

namespace electra {
namespace {

// Workers poll for about 50 µs between calls, then sleep: a training step issues a call every few hundred µs, and a
// pool that only sleeps would pay a wake-up each time, while one that only polls would starve other processes.
constexpr int kPolls = 2000;

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

struct ThreadPool::Impl {
  int64_t stride = 0;  // striped: the number of threads; free: 0
  std::vector<std::jthread> workers;
  std::atomic<uint32_t> generation{0};  // changes when a call starts; workers wait on it
  std::atomic<int> running{0};          // workers still inside the current call
  std::atomic<int64_t> next{0};
  std::atomic<bool> stop{false};
  int64_t items = 0;
  Call call = nullptr;
  const void* body = nullptr;

  void drain(int worker) {
    if (stride > 0) {
      for (int64_t i = worker; i < items; i += stride) call(body, i, worker);
      return;
    }
    for (int64_t i = next.fetch_add(1, std::memory_order_relaxed); i < items; i = next.fetch_add(1, std::memory_order_relaxed))
      call(body, i, worker);
  }

  void work(int worker) {
    uint32_t seen = 0;
    for (;;) {
      for (int poll = 0; poll < kPolls && generation.load(std::memory_order_acquire) == seen; ++poll) pause();
      generation.wait(seen, std::memory_order_acquire);
      seen = generation.load(std::memory_order_acquire);
      if (stop.load(std::memory_order_relaxed)) return;
      drain(worker);
      if (running.fetch_sub(1, std::memory_order_acq_rel) == 1) running.notify_one();
    }
  }
};

SignalsBlocked::SignalsBlocked() {
  sigset_t all;
  sigfillset(&all);
  for (const int fault : {SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGTRAP}) sigdelset(&all, fault);
  pthread_sigmask(SIG_BLOCK, &all, &before_);
}
SignalsBlocked::~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

ThreadPool::ThreadPool(int threads, Assignment assignment) : impl_(std::make_unique<Impl>()) {
  const SignalsBlocked blocked;
  if (assignment == Assignment::striped) impl_->stride = std::max(1, threads);
  for (int worker = 1; worker < std::max(1, threads); ++worker)
    impl_->workers.emplace_back([impl = impl_.get(), worker] { impl->work(worker); });
}

ThreadPool::~ThreadPool() {
  impl_->stop.store(true, std::memory_order_relaxed);
  impl_->generation.fetch_add(1, std::memory_order_release);
  impl_->generation.notify_all();
  impl_->workers.clear();  // joins
}

int ThreadPool::threads() const { return static_cast<int>(impl_->workers.size()) + 1; }

void ThreadPool::run(int64_t items, Call call, const void* body) {
  Impl& p = *impl_;
  const int helpers = static_cast<int>(p.workers.size());
  if (helpers == 0 || items <= 1) {
    for (int64_t i = 0; i < items; ++i) call(body, i, 0);
    return;
  }
  p.items = items;
  p.call = call;
  p.body = body;
  p.next.store(0, std::memory_order_relaxed);
  p.running.store(helpers, std::memory_order_relaxed);
  p.generation.fetch_add(1, std::memory_order_release);
  p.generation.notify_all();
  p.drain(0);
  int left = p.running.load(std::memory_order_acquire);
  for (int poll = 0; poll < kPolls && left != 0; ++poll, left = p.running.load(std::memory_order_acquire)) pause();
  for (; left != 0; left = p.running.load(std::memory_order_acquire)) p.running.wait(left, std::memory_order_acquire);
}

int available_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

}  // namespace electra
