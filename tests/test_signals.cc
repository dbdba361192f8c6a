#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <functional>

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
