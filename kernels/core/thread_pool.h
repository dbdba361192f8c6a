// ThreadPool: our own workers. Work items have sizes that do not depend on the number of threads and are handed out in
// order of an atomic counter, so results are the same bits for any number of threads as long as items write disjoint
// memory; a reduction adds the partial results of a fixed number of items in order.
#pragma once
#include <csignal>
#include <cstdint>
#include <memory>
#include <type_traits>

namespace electra {

// Who runs an item. free: whoever asks first; on a busy machine one thread may run them all. striped: item i is worker
// i % threads's, so that every worker has its share whatever the machine does: for tests.
enum class Assignment : uint8_t { free, striped };

class ThreadPool {
 public:
  explicit ThreadPool(int threads, Assignment assignment = Assignment::free);  // the calling thread is one of them; at least 1
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const;

  // Calls body(item, worker) for item in [0, items); worker is in [0, threads()) and names scratch memory. Returns when
  // all are done. Allocates nothing. Not reentrant: a body must not call parallel_for. Bodies must not throw.
  template <class Body> void parallel_for(int64_t items, const Body& body) {
    run(items, [](const void* b, int64_t item, int worker) { (*static_cast<const Body*>(b))(item, worker); }, &body);
  }

 private:
  using Call = void (*)(const void* body, int64_t item, int worker);
  void run(int64_t items, Call call, const void* body);
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Blocks the signals that another process may send while it lives. A thread started meanwhile inherits that for good, so that
// these signals reach the thread which handles them and no other.
class SignalsBlocked {
 public:
  SignalsBlocked();
  ~SignalsBlocked();
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

// Cores this process may run on (affinity mask respected); at least 1.
int available_cores();

}  // namespace electra
