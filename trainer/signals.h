// Stopping cleanly: SIGINT and SIGTERM set a flag that the training loop reads between steps; a
// second SIGINT ends the process at once.
#pragma once
#include <memory>
#include <string_view>

namespace electra {

// Installs the handlers while it lives and restores the old ones; one at a time. They run on a stack of their own, in the
// thread that made the guard: every other thread of the program is started under a SignalsBlocked (kernels/core/thread_pool.h).
class SignalGuard {
 public:
  // notice: a line for standard error as soon as the first signal is a SIGINT, for a user who waits; empty: none.
  explicit SignalGuard(std::string_view notice = {});
  ~SignalGuard();
  SignalGuard(const SignalGuard&) = delete;
  SignalGuard& operator=(const SignalGuard&) = delete;

  // The signal that asked to stop, or 0.
  int received() const;
  // 128 + received().
  int exit_status() const;

 private:
  struct Handlers;
  std::unique_ptr<Handlers> before_;
};

}  // namespace electra
