#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <regex>
#include <set>

#include "tests/temporary_directory.h"
#include "trainer/build_info.h"
#include "trainer/config.h"

using namespace electra;

namespace {

struct Result {
  int status = 0;
  std::string out, err;
};

// arguments: as a shell takes them.
Result run(const std::string& arguments) {
  const test::TemporaryDirectory directory;
  const std::string command = std::string(ELECTRA_BINARY) + " " + arguments + " >" +
                              (directory / "out") + " 2>" + (directory / "err") + " </dev/null";
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
          test::read_file(directory / "out"), test::read_file(directory / "err")};
}

// The whole of standard error; nothing may stand on standard output.
void check_error(const std::string& arguments, int status, const std::string& line) {
  INFO("electra " << arguments);
  const Result result = run(arguments);
  CHECK(result.status == status);
  CHECK(result.err == "electra: error: " + line + "\n");
  CHECK(result.out.empty());
}

// Subcommands as other tools find them in a help text.
std::set<std::string> listed(const std::string& path) {
  const std::string help = run(path + " --help").out;
  static const std::regex pattern("(^|\n)[ ]{2,}([a-z][a-z-]+)\\b");
  std::set<std::string> names;
  for (auto it = std::sregex_iterator(help.begin(), help.end(), pattern);
       it != std::sregex_iterator(); ++it)
    names.insert((*it)[2]);
  return names;
}

}  // namespace

TEST_CASE("version and help are results") {
  const BuildInfo build = build_info();
  CHECK(run("--version").out == "electra " + build.version + " (" + build.commit + ")\n");
  const Result help = run("--help");
  CHECK(help.status == 0);
  CHECK(help.err.empty());
  CHECK(help.out.find("Example:\n  $ electra ") != std::string::npos);
  CHECK(help.out.ends_with("\n"));
}

TEST_CASE("every command has help with an example and refuses an unknown option") {
  const std::set<std::string> top = listed("");
  CHECK(top.count("info") == 1);
  CHECK(top.count("config") == 1);
  std::vector<std::string> commands;
  for (const std::string& command : top) {
    if (run(command + " --help").out.find(" SUBCOMMAND\n") == std::string::npos)
      commands.push_back(command);
    else
      for (const std::string& sub : listed(command)) commands.push_back(command + " " + sub);
  }
  CHECK(commands.size() >= 4);
  for (const std::string& command : commands) {
    INFO(command);
    const Result help = run(command + " --help");
    CHECK(help.status == 0);
    CHECK(help.err.empty());
    CHECK(help.out.find("Usage: electra " + command) != std::string::npos);
    CHECK(help.out.find("Example:\n  $ electra " + command) != std::string::npos);
    for (const char* option : {"--device", "--threads", "--quiet", "--log-level"})
      CHECK(help.out.find(option) != std::string::npos);
    check_error(command + " --no-such-option-xyz", 2,
                "[command line] expected an option of 'electra " + command + "' (see 'electra " +
                    command + " --help'), got '--no-such-option-xyz'");
  }
}

TEST_CASE("help lists subcommands and nothing that looks like one") {
  CHECK(listed("config") == std::set<std::string>{"check", "list", "show"});
  CHECK(listed("info").empty());
  CHECK(listed("config list").empty());
}

TEST_CASE("wrong usage is one line and status 2") {
  const Result none = run("");
  CHECK(none.status == 2);
  CHECK(none.err.starts_with("electra: error: [command line] expected a command of 'electra' ("));
  CHECK(none.err.ends_with("), got none\n"));
  CHECK(run("inof").err.ends_with("), got 'inof'; did you mean 'info'?\n"));
  CHECK(run("no-such-command").status == 2);
  check_error(
      "config", 2,
      "[command line] expected a command of 'electra config' (show, check, list), got none");
  check_error("config shw", 2,
              "[command line] expected a command of 'electra config' (show, check, list), got "
              "'shw'; did you mean 'show'?");
  check_error("config show", 2,
              "[command line] expected CONFIG (see 'electra config show --help'), got none");
  check_error("config list more", 2,
              "[command line] expected no more arguments for 'electra config list' (see 'electra "
              "config list --help'), got 'more'");
  check_error("info --devise cpu", 2,
              "[command line] expected an option of 'electra info' (see 'electra info --help'), "
              "got '--devise'; did you mean '--device'?");
  check_error("info --threads two", 2,
              "[command line] expected a valid --threads (see 'electra info --help'), got 'Value "
              "two not in range 0 to 1024'");
  check_error(
      "info --threads", 2,
      "[command line] expected a value for --threads (see 'electra info --help'), got none");
  check_error("info --device gpu", 2,
              "[command line] expected a valid --device (see 'electra info --help'), got 'gpu not "
              "in {auto,cpu,simt,cuda}'");
}

TEST_CASE("configuration errors are status 2, a missing file is 1") {
  check_error("config check tiny train_stepz=1", 2,
              "[command line] expected a configuration key, got 'train_stepz'; did you mean "
              "'train_steps'?");
  check_error("config check tiny train_steps=-3", 2,
              "[command line] train_steps: expected an integer of at least 1, got '-3'");
  check_error("config check none.yaml", 1,
              "[configuration] expected a file or a preset (tiny, small, small++, base, large), "
              "got 'none.yaml' (No such file or directory)");
}

TEST_CASE("a device this program was not built for is an error that says so") {
  check_error("info --device cuda", 1,
              "[device] expected a program built with ELECTRA_GPU=CUDA for --device cuda, got one "
              "built with ELECTRA_GPU=OFF");
  check_error("--device simt info", 1,
              "[device] expected a program built with ELECTRA_GPU=SIMT for --device simt, got one "
              "built with ELECTRA_GPU=OFF");
  CHECK(run("info --device cpu").status == 0);
}

TEST_CASE("results that cannot be written are an error") {
  const test::TemporaryDirectory directory;
  for (const std::string arguments :
       {"config list", "--version"}) {  // more, and less, than a buffer
    const std::string command =
        std::string(ELECTRA_BINARY) + " " + arguments + " >/dev/full 2>" + (directory / "err");
    CHECK(WEXITSTATUS(std::system(command.c_str())) == 1);
    CHECK(test::read_file(directory / "err") ==
          "electra: error: [standard output] expected no failure, got 'No space left on device'\n");
  }
}

TEST_CASE("info names the machine, the build and the libraries") {
  const Result result = run("info --threads 3");
  CHECK(result.status == 0);
  CHECK(result.err.empty());
  for (const char* part : {"device       cpu\n", " usable, 3 threads",
                           "GPU          none: ", "oneDNN 2.", "ICU ", "yaml-cpp 0.", "CLI11 2."})
    CHECK(result.out.find(part) != std::string::npos);
  CHECK(result.out.find("commit " + build_info().commit) != std::string::npos);
}

TEST_CASE("config show prints a configuration that can be loaded") {
  const Result result = run("config show small seq_len=64");
  CHECK(result.status == 0);
  const ResolvedConfig loaded = parse_config(result.out, "shown.yaml", {});
  CHECK(loaded.config.seq_len == 64);
  CHECK(loaded.config.size == "small");
  CHECK(result.out.find("seq_len: 64                                  # command line\n") !=
        std::string::npos);
}

TEST_CASE("config check says that a configuration is valid, and warns on standard error") {
  const Result result = run("config check tiny train_steps=5");
  CHECK(result.status == 0);
  CHECK(result.out.starts_with("tiny: valid\n  masking.replacement: false (the original: true"));
  CHECK(result.err ==
        "electra: warning: warmup_steps (1000) exceeds train_steps (5): the learning rate never "
        "reaches 0.0015\n");
  CHECK(run("config check tiny train_steps=5 --log-level error").err.empty());
}

TEST_CASE("config list shows every preset and every key") {
  const Result result = run("config list");
  CHECK(result.status == 0);
  for (const Preset& preset : presets())
    CHECK(result.out.find("\n  " + preset.name + " ") != std::string::npos);
  for (const KeyInfo& key : config_keys())
    CHECK(result.out.find(" " + key.name + " ") != std::string::npos);
}
