#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <csignal>
#include <functional>
#include <thread>
#include <vector>

#include "kernels/core/device.h"
#include "kernels/gemm.h"
#include "trainer/signals.h"

using namespace electra;

namespace {

// Exit status of a child process that runs body; body's result is its status.
int in_child(const std::function<int()>& body) {
  const pid_t child = fork();
  if (child == 0) _exit(body());
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

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

// oneDNN's products keep data where a signal handler would push its frame.
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
