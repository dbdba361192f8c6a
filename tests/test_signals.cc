#include <catch2/catch.hpp>
#include <chrono>
#include <csignal>
#include <thread>
#include <vector>

#include "kernels/core/device.h"
#include "kernels/gemm.h"
#include "tests/child_process.h"
#include "tests/temporary_directory.h"
#include "trainer/signals.h"

using namespace electra;
using test::in_child;

TEST_CASE("SIGINT and SIGTERM only set a flag") {
  CHECK(in_child([] {
          const SignalGuard guard;
          if (guard.received() != 0) return 1;
          raise(SIGINT);
          return guard.received() == SIGINT ? guard.exit_status() : 2;
        }) == 130);
  CHECK(in_child([] {
          const SignalGuard guard;
          raise(SIGTERM);
          return guard.received() == SIGTERM ? guard.exit_status() : 2;
        }) == 143);
}

TEST_CASE("a second SIGINT ends the process at once") {
  CHECK(in_child([] {
          const SignalGuard guard;
          raise(SIGINT);
          raise(SIGINT);
          return 0;
        }) == 130);
  CHECK(in_child([] {
          const SignalGuard guard;
          raise(SIGTERM);
          raise(SIGINT);
          return 0;
        }) == 130);
}

TEST_CASE("the first signal decides the exit status, and a SIGTERM does not interrupt a stop") {
  CHECK(in_child([] {
          const SignalGuard guard;
          raise(SIGINT);
          raise(SIGTERM);
          raise(SIGTERM);
          return guard.exit_status();
        }) == 130);
}

TEST_CASE("the old handlers come back") {
  CHECK(in_child([] {
          std::signal(SIGTERM, SIG_DFL);  // in place of the test framework's
          { const SignalGuard guard; }
          raise(SIGTERM);
          return 0;
        }) == 128 + SIGTERM);
}

TEST_CASE("a new guard starts without a signal") {
  CHECK(in_child([] {
          {
            const SignalGuard guard;
            raise(SIGINT);
          }
          const SignalGuard guard;
          return guard.received();
        }) == 0);
}

TEST_CASE("the first Ctrl-C is answered before the program comes to it, and only a Ctrl-C is") {
  const test::TemporaryDirectory directory;
  const std::string path = directory / "err";
  const auto answer = [&](std::string_view notice, std::initializer_list<int> signals) {
    const int status = in_child([&] {
      dup2(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644), STDERR_FILENO);
      const SignalGuard guard(notice);
      for (const int signal : signals) {
        errno = 77;
        raise(signal);
        if (errno != 77) return 2;
      }
      return 0;
    });
    return std::pair(status, test::read_file(path));
  };
  CHECK(answer("stopping soon", {SIGINT}) == std::pair(0, std::string("stopping soon\n")));
  CHECK(answer("stopping soon", {SIGINT, SIGINT}) == std::pair(130, std::string("stopping soon\n")));
  CHECK(answer("stopping soon", {SIGTERM}) == std::pair(0, std::string()));
  CHECK(answer("", {SIGINT}) == std::pair(0, std::string()));
  CHECK(in_child([] {
          close(STDERR_FILENO);  // nowhere to write to
          const SignalGuard guard("stopping soon");
          errno = 77;
          raise(SIGINT);
          return errno == 77 ? 0 : 2;
        }) == 0);
}

TEST_CASE("handlers run on a stack of their own, and interrupted calls go on") {
  CHECK(in_child([] {
          const SignalGuard guard;
          stack_t stack{};
          if (sigaltstack(nullptr, &stack) != 0 || (stack.ss_flags & SS_DISABLE) != 0) return 2;
          for (const int signal : {SIGINT, SIGTERM}) {
            struct sigaction action {};
            if (sigaction(signal, nullptr, &action) != 0 || (action.sa_flags & SA_ONSTACK) == 0 || (action.sa_flags & SA_RESTART) == 0) return 3;
          }
          return 0;
        }) == 0);
}

// Why: oneDNN's products keep data where a signal handler would push its frame.
TEST_CASE("a signal in the middle of a matrix product harms nothing") {
  CHECK(in_child([] {
          const SignalGuard guard;
          ThreadPool pool(1);
          Stream stream(pool);
          std::vector<float> ones(128 * 128, 1), c(64 * 128);
          std::jthread sender;
          {
            const SignalsBlocked blocked;
            sender = std::jthread([](const std::stop_token& stop) {
              while (!stop.stop_requested()) {
                kill(getpid(), SIGTERM);
                std::this_thread::sleep_for(std::chrono::microseconds(50));
              }
            });
          }
          struct Product { int64_t m, n, k; };
          for (int round = 0; round < 10000; ++round)
            for (const auto [m, n, k] : {Product{64, 128, 128}, Product{10, 87, 128}, Product{1, 128, 128}, Product{64, 128, 64}})
              for (const bool ta : {false, true})
                for (const bool tb : {false, true}) {
                  gemm<Backend::cpu>({.a = {ones.data(), ta ? Shape{k, m} : Shape{m, k}, DType::f32},
                                      .b = {ones.data(), tb ? Shape{n, k} : Shape{k, n}, DType::f32},
                                      .c = {c.data(), {m, n}, DType::f32}, .transpose_a = ta, .transpose_b = tb},
                                     stream);
                  for (int64_t i = 0; i < m * n; ++i)
                    if (c[static_cast<size_t>(i)] != static_cast<float>(k)) return 2;
                }
          return guard.received() == SIGTERM ? 0 : 3;  // 143 could also be a death by SIGTERM
        }) == 0);
}
