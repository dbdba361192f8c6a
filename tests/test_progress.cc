#include <pty.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <functional>
#include <sstream>

#include "kernels/core/error.h"
#include "tests/temporary_directory.h"
#include "trainer/log.h"
#include "trainer/progress.h"

using namespace electra;

namespace {

const ProgressState kState{.step = 1234,
                           .train_steps = 12000,
                           .loss = 41.2345,
                           .masked_lm_loss = 7.1234,
                           .disc_loss = 0.68212,
                           .tokens_per_second = 25123,
                           .mfu = 0.456,
                           .data_wait = 0.0123,
                           .memory_bytes = 312 << 20,
                           .eta_seconds = 725};

// What a child process writes to a terminal of that many columns as its standard error.
std::string on_terminal(unsigned short columns, const std::function<void()>& body) {
  const winsize size{.ws_row = 24, .ws_col = columns, .ws_xpixel = 0, .ws_ypixel = 0};
  int terminal = -1;
  const pid_t child = forkpty(&terminal, nullptr, nullptr, &size);
  REQUIRE(child >= 0);
  if (child == 0) {
    setenv("TERM", "xterm", 1);
    body();
    fflush(stderr);
    _exit(0);
  }
  std::string output;
  char buffer[4096];
  for (ssize_t n; (n = read(terminal, buffer, sizeof buffer)) > 0;)
    output.append(buffer, static_cast<size_t>(n));
  close(terminal);
  int status = 0;
  waitpid(child, &status, 0);
  REQUIRE(WIFEXITED(status));
  REQUIRE(WEXITSTATUS(status) == 0);
  return output;
}

}  // namespace

TEST_CASE("the bar shows everything where there is room") {
  CHECK(format_bar(kState, 140, false) ==
        "1,234/12,000  [=>                    ]  10 %  loss 41.234  mlm 7.123  disc 0.6821  25.1 k "
        "tok/s  mfu 46 %  wait 1.2 %  "
        "312 MiB  eta 12:05");
}

TEST_CASE("a narrow bar leaves out what matters least and never exceeds its width") {
  CHECK(format_bar(kState, 115, false) ==
        "1,234/12,000  10 %  loss 41.234  mlm 7.123  disc 0.6821  25.1 k tok/s  mfu 46 %  wait 1.2 %  "
        "312 MiB  eta 12:05");
  CHECK(format_bar(kState, 79, false) ==
        "1234/12000 loss 41.2 mlm 7.12 disc 0.682 25.1k/s mfu 46% wait 1% 312M 12:05");
  CHECK(format_bar(kState, 60, false) ==
        "1234/12000  loss 41.2  mlm 7.12  disc 0.682  25.1k/s  12:05");
  CHECK(format_bar(kState, 40, false) == "1234/12000 loss 41.2 mlm 7.12 disc 0.682");
  CHECK(format_bar(kState, 25, false) == "1234/12000  loss 41.2");
  CHECK(format_bar(kState, 20, false) == "1234/12000 loss 41.2");
  CHECK(format_bar(kState, 12, false) == "1234/12000 l");
  CHECK(format_bar(kState, 5, false) == "1234/");
  for (int columns = 0; columns < 200; ++columns)
    CHECK(static_cast<int>(format_bar(kState, columns, false).size()) <= columns);
}

TEST_CASE("80 columns carry every fact of a million steps") {
  ProgressState state = kState;
  state.step = 123456;
  state.train_steps = 1000000;
  state.memory_bytes = int64_t{12} << 30;
  state.eta_seconds = 23 * 3600 + 12 * 60;
  CHECK(format_bar(state, 79, false) ==
        "123456/1000000 loss 41.2 mlm 7.12 disc 0.682 25.1k/s mfu 46% wait 1% 12G 23h12");
  state.memory_bytes = 312 << 20;
  CHECK(format_bar(state, 79, false) ==
        "123456/1000000 loss 41.2 mlm 7.12 disc 0.682 25.1k/s mfu 46% wait 1% 312M 23h12");
  state.eta_seconds = 4 * 86400 + 3 * 3600;
  state.tokens_per_second = 1.25e6;
  CHECK(format_bar(state, 80, false).ends_with(" 1.25M/s mfu 46% wait 1% 312M 4d3h"));
}

TEST_CASE("a model without a discriminator shows none of its loss, one whose loss is not finite does") {
  ProgressState state = kState;
  state.disc_loss = std::nan("");
  CHECK(format_bar(state, 140, false).find("disc nan") != std::string::npos);
  CHECK(format_line(state).find("disc_loss nan") != std::string::npos);
  state.disc_loss = -1;
  CHECK(format_bar(state, 140, false).find("disc") == std::string::npos);
  CHECK(format_bar(state, 79, false).find("disc") == std::string::npos);
  CHECK(format_line(state).find("masked_lm_loss 7.1234  25.1 k tok/s") != std::string::npos);
}

TEST_CASE("colour adds escape sequences and no columns") {
  const std::string plain = format_bar(kState, 120, false),
                    coloured = format_bar(kState, 120, true);
  CHECK(plain.find('\x1b') == std::string::npos);
  CHECK(coloured.find('\x1b') != std::string::npos);
  std::string stripped;
  for (size_t i = 0; i < coloured.size(); ++i) {
    if (coloured[i] == '\x1b')
      i = coloured.find('m', i);
    else
      stripped += coloured[i];
  }
  CHECK(stripped == plain);
}

TEST_CASE("the bar copes with what is not known yet and with the end") {
  ProgressState state{.step = 0, .train_steps = 5};
  CHECK(format_bar(state, 120, false) ==
        "0/5  [                      ]  0 %  loss 0.000  mlm 0.000  disc 0.0000  0 tok/s  wait 0.0 "
        "%  0 MiB");
  state.step = 5;
  CHECK(format_bar(state, 120, false).find("[======================]  100 %") != std::string::npos);
  state.step = 7;  // train_steps lowered on resume
  CHECK(format_bar(state, 120, false).find("100 %") != std::string::npos);
}

TEST_CASE("the line for logs carries the metrics' own names") {
  CHECK(format_line(kState) ==
        "step 1234/12000  loss 41.2345  masked_lm_loss 7.1234  disc_loss 0.6821  25.1 k tok/s  mfu "
        "45.6 %  data wait 1.2 %  memory "
        "312 MiB  eta 12:05");
}

TEST_CASE("durations and rates read well at every size") {
  CHECK(format_duration(0) == "0 s");
  CHECK(format_duration(59.4) == "59 s");
  CHECK(format_duration(59.6) == "1:00");
  CHECK(format_duration(3599) == "59:59");
  CHECK(format_duration(11100) == "3:05:00");
  CHECK(format_duration(4 * 86400 + 3 * 3600 + 59) == "4 d 3 h");
  CHECK(format_rate(999) == "999 tok/s");
  CHECK(format_rate(25123) == "25.1 k tok/s");
  CHECK(format_rate(1.25e6) == "1.25 M tok/s");
}

TEST_CASE("throughput is a mean weighted towards the present") {
  Throughput throughput;
  CHECK(throughput.tokens_per_second() == 0);
  throughput.add_step(100, 1000, 0.5, 0.1);
  CHECK(throughput.tokens_per_second() == Approx(200));
  CHECK(throughput.flops_per_second() == Approx(2000));
  CHECK(throughput.data_wait() == Approx(0.2));
  CHECK(throughput.seconds_per_step() == Approx(0.5));
  for (int i = 0; i < 300; ++i) throughput.add_step(100, 1000, 1, 0);
  CHECK(throughput.tokens_per_second() == Approx(100).epsilon(1e-3));
  CHECK(throughput.data_wait() < 1e-4);
}

TEST_CASE("resident memory is that of this process") {
  const int64_t before = resident_bytes();
  CHECK(before > 1 << 20);
  const std::vector<char> touched(64 << 20, 1);
  CHECK(resident_bytes() - before > 48 << 20);
  CHECK(peak_resident_bytes() >= resident_bytes() - (1 << 20));
}

TEST_CASE("a terminal gets one live line that steps aside for messages") {
  unsetenv("NO_COLOR");
  const std::string output = on_terminal(80, [] {
    Progress progress(Progress::Mode::automatic);
    progress.update(kState, true);
    log::info("a message");
  });
  // The bar, cleared, the message on a line of its own, the bar again, cleared at the end.
  const size_t bar = output.find("25.1k/s"), message = output.find("\r\x1b[Ka message\r\n");
  REQUIRE(bar != std::string::npos);
  REQUIRE(message != std::string::npos);
  CHECK(bar < message);
  CHECK(output.find("25.1k/s", message) != std::string::npos);
  CHECK(output.ends_with("\r\x1b[K"));
  CHECK(output.find("\x1b[1m") != std::string::npos);
  CHECK(output.find("masked_lm_loss") == std::string::npos);
}

TEST_CASE("NO_COLOR keeps the bar and drops the colour") {
  const std::string output = on_terminal(80, [] {
    setenv("NO_COLOR", "1", 1);
    Progress progress(Progress::Mode::automatic);
    progress.update(kState, true);
  });
  CHECK(output.find("25.1k/s") != std::string::npos);
  CHECK(output.find("\x1b[1m") == std::string::npos);
}

TEST_CASE("quiet shows nothing on a terminal") {
  CHECK(on_terminal(80, [] {
          Progress progress(Progress::Mode::quiet);
          progress.update(kState, true);
        }).empty());
}

TEST_CASE(
    "the log file has every log step, also under a bar or when quiet, and the messages with their "
    "levels") {
  const test::TemporaryDirectory directory;
  const std::string path = directory / "log.txt";
  on_terminal(80, [&] {
    log::set_file(path);
    Progress progress(Progress::Mode::automatic);
    progress.update(kState, true);
    ProgressState next = kState;
    next.step = 1235;
    progress.update(next, false);
    log::warning("look out");
    log::debug("not in the file");
  });
  const std::string text = test::read_file(path);
  CHECK(text.find("Z [info] step 1234/12000  loss 41.2345") != std::string::npos);
  CHECK(text.find("step 1235") == std::string::npos);
  CHECK(text.find("Z [warning] look out\n") != std::string::npos);
  CHECK(text.find("not in the file") == std::string::npos);
}

TEST_CASE("warnings have the form of errors, and the level hides messages but not warnings") {
  const std::string output = on_terminal(80, [] {
    setenv("NO_COLOR", "1", 1);
    log::set_level("warning");
    log::info("unseen");
    log::warning("look out");
    if (log::warnings() != 1) _exit(1);
  });
  CHECK(output == "electra: warning: look out\r\n");
}

TEST_CASE("a log file that cannot be written is an error") {
  CHECK_THROWS_AS(log::set_file("/proc/electra/log.txt"), IoError);
}

TEST_CASE("what is left of a stage follows from what this process has done of it") {
  WorkEstimate e;
  e.update("counting", 0.25, 1e6, 100);
  CHECK(e.eta_seconds() < 0);
  CHECK(e.rate() < 0);
  CHECK(format_work(e, true) == "counting 25 %");
  e.update("counting", 0.5, 5e6, 102);
  CHECK(e.rate() == Approx(2e6));
  CHECK(e.eta_seconds() == Approx(4));
  CHECK(format_work(e, true) == "counting 50 %, 2.0 MB/s, eta 4 s");
  CHECK(format_work(e, false) == "counting 50 %, eta 4 s");
  // A stage that is gone on with.
  e.update("tokenizing", 0.8, 8e6, 200);
  CHECK(format_work(e, true) == "tokenizing 80 %");
  e.update("tokenizing", 0.85, 8.5e6, 300);
  CHECK(format_work(e, true) == "tokenizing 85 %, 0.0 MB/s, eta 5:00");
  e.update("tokenizing", 0.999, 9.99e6, 301);
  CHECK(format_work(e, false) == "tokenizing 99 %, eta 1 s");
}

TEST_CASE("a command without training has a line on a terminal, which log lines step over and which goes at the end") {
  const auto body = [] {
    WorkProgress progress("data build", Progress::Mode::automatic, true);
    progress.update("counting", 0.5, 1e6);
    log::info("a line");
    progress.update("tokenizing", 0.25, 0);
  };
  const std::string clear = "\r\x1b[K", counting = "data build: counting 50 %", tokenizing = "data build: tokenizing 25 %";
  CHECK(on_terminal(80, body) == clear + counting + clear + "a line\r\n" + counting + clear + tokenizing + clear);
  CHECK(on_terminal(20, body) == clear + counting.substr(0, 19) + clear + "a line\r\n" + counting.substr(0, 19) + clear + tokenizing.substr(0, 19) + clear);
  CHECK(on_terminal(80, [] { WorkProgress("data build", Progress::Mode::quiet, true).update("counting", 0.5, 1e6); }).empty());
}
