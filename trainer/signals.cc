#include "trainer/signals.h"

#include <unistd.h>
#include <csignal>

#include <atomic>
#include <cassert>
#include <cerrno>
#include <memory>
#include <string>

#include "trainer/terminal.h"

namespace electra {
namespace {

std::atomic<int> received_signal{0};
static_assert(std::atomic<int>::is_always_lock_free);  // so that a handler may touch it
std::atomic<bool> installed{false};
std::string interrupt_notice;  // set before the handlers are

// Only async-signal-safe calls.
void handle(int signal) {
  int none = 0;
  const bool first = received_signal.compare_exchange_strong(none, signal);
  if (signal != SIGINT) return;
  if (!first) _exit(128 + SIGINT);
  const int before = errno;  // of what was interrupted
  if (write(STDERR_FILENO, interrupt_notice.data(), interrupt_notice.size()) < 0) errno = before;
}

// The handler must not run on the interrupted stack: oneDNN's generated GEMM code (2.6) uses the stack pointer as a data
// register, so a frame pushed there lands in the heap.
constexpr size_t kStackBytes = 64 << 10;
alignas(64) char handler_stack[kStackBytes];

}  // namespace

struct SignalGuard::Handlers {
  struct sigaction interrupt {};
  struct sigaction terminate {};
  stack_t stack{};
};

SignalGuard::SignalGuard(std::string_view notice) : before_(std::make_unique<Handlers>()) {
  [[maybe_unused]] const bool already = installed.exchange(true);
  assert(!already);
  received_signal = 0;
  interrupt_notice.clear();
  if (!notice.empty()) {
    if (is_terminal(STDERR_FILENO)) interrupt_notice = ansi::kClearLine;  // over the progress bar and the "^C"
    interrupt_notice.append(notice).push_back('\n');
  }
  const stack_t stack{.ss_sp = handler_stack, .ss_flags = 0, .ss_size = kStackBytes};
  sigaltstack(&stack, &before_->stack);
  struct sigaction action {};
  action.sa_handler = handle;
  action.sa_flags = SA_ONSTACK | SA_RESTART;  // a read or write of the loader goes on
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, &before_->interrupt);
  sigaction(SIGTERM, &action, &before_->terminate);
}

SignalGuard::~SignalGuard() {
  sigaction(SIGINT, &before_->interrupt, nullptr);
  sigaction(SIGTERM, &before_->terminate, nullptr);
  sigaltstack(&before_->stack, nullptr);
  installed = false;
}

int SignalGuard::received() const { return received_signal; }

int SignalGuard::exit_status() const { return 128 + received(); }

}  // namespace electra
