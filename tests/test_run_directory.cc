#include <catch2/catch.hpp>
#include <filesystem>

#include "kernels/core/error.h"
#include "tests/child_process.h"
#include "tests/temporary_directory.h"
#include "trainer/run_directory.h"

using namespace electra;
namespace fs = std::filesystem;
using test::write_file;

TEST_CASE("checkpoint names sort by step") {
  CHECK(checkpoint_name(1000) == "step-000001000");
  CHECK(checkpoint_step("step-000001000") == 1000);
  for (const char* name : {"step-1000", "step-", "latest", "step-000001000.tmp", "step-00000100x"})
    CHECK_FALSE(checkpoint_step(name));
}

TEST_CASE("a new run gets its directories, its parents and a lock") {
  const test::TemporaryDirectory directory;
  const RunDirectory run = RunDirectory::create(directory / "a/b");
  CHECK(fs::is_directory(directory / "a/b/checkpoints"));
  CHECK(run.checkpoint(7) == directory / "a/b/checkpoints/step-000000007");
  CHECK(test::read_file(directory / "a/b/.lock") == std::to_string(getpid()));
}

TEST_CASE("a run with checkpoints is only continued with --resume") {
  const test::TemporaryDirectory directory;
  const std::string path = directory / "run";
  {
    const RunDirectory run = RunDirectory::create(path);
    write_file(run.config(), "size: tiny\n");
    fs::create_directories(run.checkpoint(5));
  }
  CHECK_THROWS_AS(RunDirectory::create(path), ConfigError);
  CHECK_THROWS_WITH(RunDirectory::create(path),
                    "[run] expected a new directory, got '" + path +
                        "', which holds a run; 'electra pretrain --resume " + path +
                        "' continues it");
  CHECK_NOTHROW(RunDirectory::resume(path));
}

TEST_CASE("a run that never came to a checkpoint is begun again") {
  const test::TemporaryDirectory directory;
  const std::string path = directory / "run";
  {
    const RunDirectory run = RunDirectory::create(path);
    write_file(run.config(), "size: tiny\n");
    write_file(run.metrics(), "old\n");
    write_file(path + "/events.out.tfevents.0000000001.h.1.0", "old\n");
    write_file(path + "/notes.txt", "mine\n");
  }
  const RunDirectory run = RunDirectory::create(path);
  CHECK_FALSE(fs::exists(run.metrics()));
  CHECK_FALSE(fs::exists(path + "/events.out.tfevents.0000000001.h.1.0"));
  CHECK(fs::exists(path + "/notes.txt"));
}

TEST_CASE("a directory with something else in it is left alone") {
  const test::TemporaryDirectory directory;
  write_file(directory / "thesis.tex", "x");
  CHECK_THROWS_AS(RunDirectory::create(directory.path()), IoError);
  CHECK_THROWS_WITH(RunDirectory::create(directory.path()),
                    "[run] expected a new or empty directory, got '" + directory.path() +
                        "', which holds other files ('thesis.tex')");
  CHECK_FALSE(fs::exists(directory / ".lock"));
  CHECK_THROWS_WITH(
      RunDirectory::create(directory / "thesis.tex"),
      "[run] expected a directory or nothing at '" + (directory / "thesis.tex") + "', got a file");
}

TEST_CASE("a place that cannot be written is an error") {
  CHECK_THROWS_AS(RunDirectory::create("/proc/electra/run"), IoError);
  const test::TemporaryDirectory directory;
  write_file(directory / "file", "x");
  CHECK_THROWS_WITH(RunDirectory::create(directory / "file/run"),
                    "[run] expected to create the directory '" + (directory / "file/run") +
                        "/checkpoints', got 'Not a directory'");
}

TEST_CASE("a read-only directory holds no new run and lets none go on") {
  const test::TemporaryDirectory directory;
  const std::string run = directory / "run";
  fs::create_directories(run);
  write_file(run + "/config.resolved.yaml", "size: tiny\n");
  for (const std::string& path : {run, directory.path()}) fs::permissions(path, fs::perms::owner_read | fs::perms::owner_exec);
  const auto says = [](const std::function<void()>& body, const std::string& expected) {
    try {
      body();
    } catch (const IoError& error) { return error.what() == expected; }
    return false;
  };
  CHECK(test::in_child_without_root({directory.path(), run}, [&] {
          if (!says([&] { RunDirectory::create(directory / "new"); }, "[run] expected to create the directory '" + (directory / "new") +
                                                                         "/checkpoints', got 'Permission denied'"))
            return 2;
          return says([&] { RunDirectory::resume(run); }, "[run] expected to write to '" + run + "', got 'Permission denied'") ? 0 : 3;
        }) == 0);
  CHECK_FALSE(fs::exists(run + "/.lock"));
  for (const std::string& path : {directory.path(), run}) fs::permissions(path, fs::perms::owner_all);
}

TEST_CASE("resume wants a run") {
  const test::TemporaryDirectory directory;
  CHECK_THROWS_WITH(
      RunDirectory::resume(directory / "none"),
      "[run] expected the directory of a run, got '" + (directory / "none") + "', which is none");
  CHECK_THROWS_WITH(RunDirectory::resume(directory.path()),
                    "[run] expected the directory of a run, got '" + directory.path() +
                        "', which has no config.resolved.yaml");
}

TEST_CASE("a checkpoint is no run, and the error names the run it is of") {
  const test::TemporaryDirectory directory;
  const std::string run = fs::canonical(directory.path()).string(), checkpoints = run + "/checkpoints", step = checkpoints + "/step-000000005";
  fs::create_directories(step);
  for (const std::string& path : {run, step}) write_file(path + "/config.resolved.yaml", "size: tiny\n");
  write_file(step + "/state.json", "{}");
  fs::create_symlink("step-000000005", checkpoints + "/latest");
  const std::string advice = "; --resume " + run + " continues from the latest checkpoint, --init-from takes the weights of any into a new run";
  for (const std::string& path : {step, step + "/", checkpoints + "/latest"}) {
    CHECK_THROWS_AS(RunDirectory::check(path), ConfigError);
    CHECK_THROWS_WITH(RunDirectory::resume(path), "[run] expected the directory of a run, got '" + path + "', which is a checkpoint" + advice);
  }
  CHECK_THROWS_WITH(RunDirectory::check(checkpoints),
                    "[run] expected the directory of a run, got '" + checkpoints + "', where its checkpoints are" + advice);
  CHECK_FALSE(fs::exists(step + "/.lock"));
  fs::rename(step, run + "/alone");
  CHECK_THROWS_WITH(RunDirectory::check(run + "/alone"), Catch::Contains("which is a checkpoint; --resume RUN continues"));
  CHECK_NOTHROW(RunDirectory::check(run));
}

TEST_CASE("two processes do not write to one run") {
  const test::TemporaryDirectory directory;
  const std::string path = directory / "run";
  {
    const RunDirectory run = RunDirectory::create(path);
    write_file(run.config(), "size: tiny\n");
    const std::string expected = "[run] expected a run nobody else writes to, got '" + path +
                                 "', which process " + std::to_string(getpid()) + " writes to";
    CHECK(test::in_child([&] {
            try {
              RunDirectory::resume(path);
            } catch (const IoError& error) { return error.what() == expected ? 0 : 2; }
            return 1;
          }) == 0);
    CHECK_THROWS_WITH(RunDirectory::create(path), expected);
  }
  CHECK_NOTHROW(RunDirectory::resume(path));
}
