#include <fcntl.h>
#include <pty.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>
#include <thread>

#include "kernels/core/backend.h"
#include "tests/child_process.h"
#include "tests/temporary_directory.h"
#include "trainer/build_info.h"
#include "trainer/config.h"

using namespace electra;

namespace {

struct Result {
  int status = 0;
  std::string out, err;
};

// That no GPU can be used where the program has a backend for one is tests/no_gpu's matter.
std::string without_device_warning(const std::string& err) {
  if (kGpuBuild != GpuBuild::CUDA) return err;
  return std::regex_replace(err, std::regex("electra: warning: \\[device\\] the CPU is used: [^\n]*\n"), "");
}

// arguments: as a shell takes them.
Result run(const std::string& arguments) {
  const test::TemporaryDirectory directory;
  const std::string command = std::string(ELECTRA_BINARY) + " " + arguments + " >" +
                              (directory / "out") + " 2>" + (directory / "err") + " </dev/null";
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
          test::read_file(directory / "out"), without_device_warning(test::read_file(directory / "err"))};
}

// What is written to a terminal as standard output. variable: NAME=value for its environment, perhaps.
std::string on_terminal(const std::string& arguments, const std::string& variable = "") {
  int terminal = -1;
  const pid_t child = forkpty(&terminal, nullptr, nullptr, nullptr);
  REQUIRE(child >= 0);
  if (child == 0) {
    const std::string command = "exec env -u NO_COLOR TERM=xterm " + variable + " " + ELECTRA_BINARY + " " + arguments + " 2>/dev/null </dev/null";
    execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
    _exit(127);
  }
  std::string output;
  char buffer[4096];
  for (ssize_t n; (n = read(terminal, buffer, sizeof buffer)) > 0;) output.append(buffer, static_cast<size_t>(n));
  close(terminal);
  int status = 0;
  waitpid(child, &status, 0);
  CHECK(WEXITSTATUS(status) == 0);
  return output;
}

// The whole of standard error; nothing may stand on standard output.
void check_error(const std::string& arguments, int status, const std::string& line) {
  INFO("electra " << arguments);
  const Result result = run(arguments);
  CHECK(result.status == status);
  CHECK(result.err == "electra: error: " + line + "\n");
  CHECK(result.out.empty());
}

// What a --json option prints: one object on a line of its own, and nothing beside it.
nlohmann::json json_of(const std::string& arguments) {
  INFO("electra " << arguments);
  const Result result = run(arguments);
  CHECK(result.status == 0);
  CHECK(result.err.empty());
  CHECK(std::count(result.out.begin(), result.out.end(), '\n') == 1);
  CHECK(result.out.ends_with("}\n"));
  return nlohmann::json::parse(result.out);
}

// Models trained for a few steps on made-up text: "run", and "mlm" without a discriminator; their
// data is "data".
class TrainedModels {
 public:
  TrainedModels() {
    const char *who[] = {"cat", "dog", "cow", "owl"}, *where[] = {"mat", "road", "hill"};
    std::string text;
    for (int i = 0; i < 300; ++i) {
      text += std::string("The ") + who[i % 4] + " sat on the " + where[i % 3] + ".\n";
      if (i % 3 == 2) text += "\n";
    }
    test::write_file(directory_ / "text.txt", text);
    const std::string at = directory_.path() + "/";
    must("vocab train " + at + "text.txt --size 60 --out " + at + "vocab.txt");
    must("data build " + at + "text.txt --vocab " + at + "vocab.txt --heldout 0.2 --out " + at +
         "data");
    const std::string pretrain =
        "pretrain tiny --quiet data=" + at +
        "data embedding_size=32 hidden_size=64 num_layers=1 num_heads=1 intermediate_size=64 "
        "generator.width_fraction=1 seq_len=16 batch.sequences=8 train_steps=4 warmup_steps=1 "
        "run=" +
        at;
    must(pretrain + "run");
    must(pretrain + "mlm electra_objective=false");
  }
  std::string operator/(const std::string& name) const { return directory_ / name; }

 private:
  static void must(const std::string& arguments) {
    const Result result = run(arguments);
    INFO("electra " << arguments << "\n" << result.err);
    REQUIRE(result.status == 0);
  }
  test::TemporaryDirectory directory_;
};

const TrainedModels& models() {
  static const TrainedModels trained;
  return trained;
}

// Exit status of a command that reads an endless text from fifo and gets the signal while it does.
int status_when_told_to_stop(const std::string& arguments, const std::string& fifo, int signal) {
  REQUIRE(mkfifo(fifo.c_str(), 0600) == 0);
  const pid_t child = fork();
  if (child == 0) {
    const std::string command =
        std::string("exec ") + ELECTRA_BINARY + " " + arguments + " >/dev/null 2>&1 </dev/null";
    execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
    _exit(127);
  }
  int status = 0;
  const auto ended = [&] { return waitpid(child, &status, WNOHANG) == child; };
  const auto pause = [] { std::this_thread::sleep_for(std::chrono::milliseconds(1)); };
  int pipe = -1;
  bool gone = false;
  while (!gone && (pipe = open(fifo.c_str(), O_WRONLY | O_NONBLOCK)) < 0) {
    pause();
    gone = ended();
  }
  REQUIRE(!gone);  // it must read the text
  std::signal(SIGPIPE, SIG_IGN);
  // A pipe holds 64 KiB, so whoever has taken a MiB is at work, and has had time to stop before it
  // takes sixteen.
  const std::string line = "the cat sat on the mat\n";
  constexpr int kMiB = 1 << 20;
  bool told = false;
  for (int written = 0; !(gone = ended()) && written < 16 * kMiB;) {
    const ssize_t n = write(pipe, line.data(), line.size());
    if (n < 0)
      pause();
    else
      written += static_cast<int>(n);
    if (!told && written >= kMiB) told = kill(child, signal) == 0;
  }
  if (!gone) {
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
  }
  std::signal(SIGPIPE, SIG_DFL);
  close(pipe);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
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
  const std::string built = kGpuBuild == GpuBuild::OFF ? "OFF" : kGpuBuild == GpuBuild::SIMT ? "SIMT" : "CUDA";
  if (kGpuBuild != GpuBuild::CUDA)
    check_error("info --device cuda", 1,
                "[device] expected a program built with ELECTRA_GPU=CUDA for --device cuda, got one "
                "built with ELECTRA_GPU=" + built);
  if (kGpuBuild != GpuBuild::SIMT)
    check_error("--device simt info", 1,
                "[device] expected a program built with ELECTRA_GPU=SIMT for --device simt, got one "
                "built with ELECTRA_GPU=" + built);
  CHECK(run("info --device cpu").status == 0);
}

TEST_CASE("results that cannot be written are an error") {
  const test::TemporaryDirectory directory;
  for (const std::string arguments :
       {"config list", "--version"}) {  // more, and less, than a buffer
    const std::string command =
        std::string(ELECTRA_BINARY) + " " + arguments + " >/dev/full 2>" + (directory / "err");
    CHECK(WEXITSTATUS(std::system(command.c_str())) == 1);
    CHECK(without_device_warning(test::read_file(directory / "err")) ==
          "electra: error: [standard output] expected no failure, got 'No space left on device'\n");
  }
}

TEST_CASE("info names the machine, the build and the libraries") {
  const Result result = run("info --device cpu --threads 3");
  CHECK(result.status == 0);
  CHECK(result.err.empty());
  for (const char* part : {"device       cpu\n", " usable, 3 threads",
                           kGpuBuild == GpuBuild::CUDA ? "GPU          " : "GPU          none: ", "oneDNN 2.", "ICU ", "yaml-cpp 0.", "CLI11 2."})
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

TEST_CASE("eval prints the metrics of a run or a checkpoint, for people and for machines") {
  const nlohmann::json json = json_of("eval " + (models() / "run") + " --json");
  CHECK(json["step"] == 4);
  for (const char* name :
       {"loss", "masked_lm_loss", "masked_lm_accuracy", "sampled_masked_lm_accuracy", "disc_loss",
        "disc_auc", "disc_accuracy", "disc_precision", "disc_recall", "replaced_fraction", "skill",
        "unigram_entropy"}) {
    INFO(name);
    REQUIRE(json[name].is_number());
    CHECK(std::isfinite(json[name].get<double>()));
  }
  CHECK(json["masked_lm_loss"] > 1.0);
  CHECK(json["disc_loss"] > 0.1);
  CHECK(json["replaced_fraction"] > 0.0);
  CHECK(json["heldout_tokens"] > 100);
  CHECK(json_of("eval " + (models() / "run/checkpoints/step-000000004") + " --json") == json);
  CHECK(json_of("eval " + (models() / "run") + " data=" + (models() / "data") + " --json") == json);

  const Result shown = run("eval " + (models() / "run"));
  CHECK(shown.status == 0);
  CHECK(shown.err.empty());
  CHECK(shown.out.starts_with((models() / "run/checkpoints/step-000000004") + " on "));
  for (const char* name : {"masked_lm_loss", "disc_auc", "skill", "unigram_entropy"})
    CHECK(shown.out.find(std::string("\n  ") + name + " ") != std::string::npos);
}

TEST_CASE("eval says what is missing or does not fit") {
  check_error("eval none", 1,
              "[none] expected a run or a checkpoint, got 'No such file or directory'");
  check_error("eval " + (models() / "run") + " data=" + (models() / "none"), 1,
              "[" + (models() / "none") +
                  "] expected a data directory made by 'electra data build', got none");
  check_error("eval " + (models() / "run") + " sed_len=3", 2,
              "[command line] expected a configuration key, got 'sed_len'; did you mean "
              "'seq_len'?");
  check_error("eval", 2, "[command line] expected model (see 'electra eval --help'), got none");

  const auto check_refused = [](const std::string& vocabulary, const std::string& difference) {
    const test::TemporaryDirectory other;
    test::write_file(other / "vocab.txt", vocabulary);
    REQUIRE(run("data build " + (models() / "text.txt") + " --vocab " + (other / "vocab.txt") +
                " --out " + (other / "data"))
                .status == 0);
    const Result refused = run("eval " + (models() / "run") + " data=" + (other / "data"));
    CHECK(refused.status == 1);
    CHECK(refused.out.empty());
    CHECK(refused.err.starts_with("electra: error: [" + (other / "data") + "/vocab.txt:"));
    CHECK(refused.err.find("] expected the vocabulary of the model, here " + difference) != std::string::npos);
  };
  const std::string vocabulary = test::read_file(models() / "vocab.txt");
  check_refused(vocabulary + "more\n", "its end, got 'more'");
  const size_t last = vocabulary.rfind('\n', vocabulary.size() - 2) + 1;
  const std::string token = vocabulary.substr(last, vocabulary.size() - last - 1);
  check_refused(vocabulary.substr(0, last) + "other\n", "'" + token + "', got 'other'");
}

TEST_CASE("probe says of each token how likely it is a replaced one") {
  const std::string probe = "probe " + (models() / "run") + " \"The cat sat on the banana.\"";
  const std::vector<std::string> tokens = {"the", "cat", "sat", "on", "the", "[UNK]", "."};
  const auto check_probabilities = [&](const nlohmann::json& json) {
    REQUIRE(json["replaced_probability"].size() == tokens.size());
    for (const nlohmann::json& p : json["replaced_probability"]) {
      CHECK(p > 0.0);
      CHECK(p < 1.0);
    }
  };
  const nlohmann::json json = json_of(probe + " --json");
  CHECK(json.size() == 2);
  CHECK(json["tokens"] == tokens);
  check_probabilities(json);

  const nlohmann::json corrupted = json_of(probe + " --json --corrupt --seed 3");
  CHECK(corrupted.size() == 6);
  CHECK(corrupted["original"] == tokens);
  check_probabilities(corrupted);
  int masked = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    masked += corrupted["masked"][i] == "[MASK]";
    CHECK(corrupted["tokens"][i] == corrupted["sampled"][i]);
    CHECK(corrupted["replaced"][i] == (corrupted["tokens"][i] != corrupted["original"][i]));
  }
  CHECK(masked <= 1);  // 15 % of 9
  CHECK(json_of(probe + " --json --corrupt --seed 3") == corrupted);
  std::set<std::string> seen;
  for (const char* seed : {"1", "2", "3", "4", "5", "6"})
    seen.insert(json_of(probe + " --json --corrupt --seed " + seed)["masked"].dump());
  CHECK(seen.size() > 1);

  const Result shown = run(probe);
  CHECK(shown.status == 0);
  CHECK(std::count(shown.out.begin(), shown.out.end(), '\n') == 7);
  CHECK(shown.out.find(" %  [UNK]\n") != std::string::npos);
  CHECK(shown.out.find('\x1b') == std::string::npos);  // no terminal, no colour
}

TEST_CASE("probe says what it cannot look at") {
  const std::string probe = "probe " + (models() / "run") + " ";
  check_error("probe none x", 1,
              "[none] expected a run or a checkpoint, got 'No such file or directory'");
  check_error(probe + "'  '", 1, "[probe] expected a text of at least one word, got none");
  check_error("probe " + (models() / "mlm") + " 'The cat sat.'", 2,
              "[probe] expected a model with a discriminator, got one of electra_objective: false");
  check_error("probe " + (models() / "run"), 2,
              "[command line] expected text (see 'electra probe --help'), got none");
  for (const std::string option : {"", " --corrupt", " --json"}) {
    const Result result = run(probe + "\"$(printf 'caf\\351 the cat')\"" + option);
    CHECK(result.status == 1);
    CHECK(result.out.empty());
    CHECK(result.err.starts_with("electra: error: [probe] expected UTF-8 text, got "));
  }
}

TEST_CASE("a damaged checkpoint is an error of status 1 that names the file") {
  const test::TemporaryDirectory directory;
  std::filesystem::copy(models() / "run/checkpoints/step-000000004", directory / "checkpoint");
  std::string weights = test::read_file(directory / "checkpoint/discriminator.safetensors");
  weights.back() ^= 1;
  test::write_file(directory / "checkpoint/discriminator.safetensors", weights);
  for (const std::string command : {"eval ", "probe "}) {
    const Result result = run(command + (directory / "checkpoint") +
                              (command == "probe " ? " 'The cat.'" : " --json"));
    CHECK(result.status == 1);
    CHECK(result.out.empty());
    CHECK(result.err.starts_with("electra: error: ["));
    CHECK(result.err.find("discriminator.safetensors") != std::string::npos);
  }
}

TEST_CASE("check golden reports each tensor, and its verdict is the exit status") {
  const std::string file = std::string(ELECTRA_SOURCE_DIR) + "/tests/golden/layers.safetensors";
  for (const std::string dtype : {"f64", "f32"}) {
    const Result good = run("check golden " + file + " --dtype " + dtype);
    CHECK(good.status == 0);
    CHECK(good.err.empty());
    CHECK(good.out.find("FAILED") == std::string::npos);
    CHECK(std::regex_search(good.out, std::regex("\n[0-9]{3} passed, 0 failed\n$")));
    CHECK(std::regex_search(good.out,
                            std::regex("(^|\n)expect/loss +abs [0-9.e+-]+ +rel [0-9.e+-]+ +at 0 +"
                                       "bound [0-9.e+-]+ +ok\n")));
  }
  // The same file with another weight of the discriminator's loss.
  const test::TemporaryDirectory directory;
  std::string bytes = test::read_file(file);
  const size_t escaped = bytes.find("\\\"disc_weight\\\": 50.0");
  REQUIRE(escaped != std::string::npos);
  bytes[bytes.find("50.0", escaped)] = '4';
  test::write_file(directory / "other.safetensors", bytes);
  const Result bad = run("check golden " + (directory / "other.safetensors"));
  CHECK(bad.status == 1);
  CHECK(bad.err.empty());  // a verdict, not a failure of the command
  CHECK(bad.out.find("FAILED\n") != std::string::npos);
  CHECK(!bad.out.ends_with(" 0 failed\n"));

  check_error("check golden none", 1,
              "[none] expected to read a file, got 'No such file or directory'");
  test::write_file(directory / "text", "no golden file, and none at all");
  CHECK(run("check golden " + (directory / "text")).status == 1);
  check_error("check golden " + file + " --dtype bf16", 2, "[--dtype] expected f64 or f32 on the CPU, got bf16");
  check_error("check golden " + file + " --dtype f64 --device cuda", 2,
              "[--dtype] expected f32 or bf16 with --device cuda, got f64: it runs on the CPU "
              "alone");
  check_error("check golden " + file + " --dtype f16", 2,
              "[command line] expected a valid --dtype (see 'electra check golden --help'), got "
              "'f16 not in {f64,f32,bf16}'");
  check_error("check golden", 2,
              "[command line] expected file (see 'electra check golden --help'), got none");
}

TEST_CASE("what cannot be read as text is an error, and no empty result") {
  const std::string vocabulary = " --vocab " + (models() / "vocab.txt") + " ";
  check_error("tokenize" + vocabulary + (models() / "data"), 1,
              "[" + (models() / "data") + "] expected to read a text file, got 'Is a directory'");
  check_error("tokenize" + vocabulary + "none.txt", 1,
              "[none.txt] expected to read a text file, got 'No such file or directory'");
  CHECK(run("tokenize" + vocabulary + (models() / "text.txt"))
            .out.starts_with("the cat sat on the mat .\n"));
}

// Larger than what is read at once, with lines that are longer than that, empty ones, and one without a line feed at the end.
TEST_CASE("tokenize gives the same lines for any number of threads and stops at a line that is not UTF-8") {
  const test::TemporaryDirectory directory;
  const std::string file = directory / "text";
  std::string text, expected;
  for (int i = 0; i < 60000; ++i) {
    const int words = i % 20000 == 10000 ? 400000 : i % 7;
    for (int k = 0; k < words; ++k) text += k > 0 ? " the" : "cat";
    for (int k = 0; k < words; ++k) expected += k > 0 ? " the" : "cat";
    text += i % 5 == 0 ? "\r\n" : "\n";
    expected += "\n";
  }
  test::write_file(file, text + "sat");
  const std::string command = "tokenize --vocab " + (models() / "vocab.txt") + " " + file + " --threads ";
  CHECK((run(command + "1").out == expected + "sat\n"));
  CHECK((run(command + "3").out == expected + "sat\n"));
  test::write_file(file, text + "sat\nm\xC3\nsat\n");
  for (const char* threads : {"1", "2"}) {
    const Result result = run(command + threads);
    CHECK(result.status == 1);
    CHECK((result.out == expected + "sat\n"));
    CHECK(result.err.find("[" + file + ":60002] expected UTF-8, got another encoding at byte 2 of the line") != std::string::npos);
  }
}

TEST_CASE("a vocabulary that cannot be made is refused before any text is read") {
  for (const std::string size : {"5", "0", "-1", "16777217"})
    check_error("vocab train none.txt --out v.txt --size " + size, 2,
                "[command line] expected a valid --size (see 'electra vocab train --help'), got "
                "'Value " +
                    size + " not in range 6 to 16777216'");
  check_error("vocab train none.txt --out v.txt --size 6", 1,
              "[none.txt] expected a text file or a folder of them, got 'No such file or "
              "directory'");
}

TEST_CASE("vocab train takes entries and sizes, vocab check lists every error") {
  const test::TemporaryDirectory directory;
  const std::string file = directory / "v.txt";
  const Result trained = run("vocab train " + (models() / "text.txt") + " --out " + file +
                             " --size 100 --multiple-of 64 --reserved Ö --reserved [DOC] --unused 1");
  CHECK(trained.status == 0);
  CHECK(trained.err.find("expected 128 entries, the text yields 64") != std::string::npos);
  const std::string vocabulary = test::read_file(file);
  CHECK(vocabulary.starts_with("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nÖ\n[DOC]\n[unused0]\n"));
  CHECK(std::count(vocabulary.begin(), vocabulary.end(), '\n') == 64);
  CHECK(run("vocab check " + file).out.find(": good, 64 entries") != std::string::npos);
  test::write_file(file, vocabulary + "[DOC]\n\nÖ\n");
  CHECK(run("vocab train " + (models() / "text.txt") + " --out " + (directory / "t.txt") + " --size 60 --algorithm topdown").status == 0);
  CHECK(test::read_file(directory / "t.txt").find("\nthe\n") != std::string::npos);
  CHECK(test::read_file(directory / "t.txt") != test::read_file(models() / "vocab.txt"));
  const Result bad = run("vocab check " + file);
  CHECK(bad.status == 1);
  CHECK(bad.err.empty());
  CHECK(bad.out == file + ": bad, 3 errors\n[" + file + ":65] expected each token once, got '[DOC]' again after line 7\n[" + file +
                       ":66] expected a token, got an empty line\n[" + file + ":67] expected each token once, got 'Ö' again after line 6\n");
  check_error("vocab train none.txt --out v.txt --reserved '[CLS]'", 2, "[vocab train] expected each reserved entry once, got '[CLS]' again");
}

TEST_CASE("vocab train stays below its memory and writes the same vocabulary") {
  const test::TemporaryDirectory directory;
  std::string text;
  uint64_t x = 1;
  for (int i = 0; i < 300000; ++i) {
    x = x * 6364136223846793005u + 1442695040888963407u;
    text += std::to_string(x >> 20) + (i % 10 == 9 ? "\n" : " ");
  }
  test::write_file(directory / "text.txt", text);
  const auto train = [&](const std::string& memory) {
    const pid_t child = test::start(ELECTRA_BINARY, {"vocab", "train", directory / "text.txt", "--size", "40", "--threads", "2", "--memory", memory, "--out", directory / memory},
                                    directory / "out", directory / "err");
    int status = 0;
    rusage usage{};
    REQUIRE(wait4(child, &status, 0, &usage) == child);
    CHECK(status == 0);
    return std::pair(usage.ru_maxrss / 1024, test::read_file(directory / "err").find("temporary files") != std::string::npos);
  };
  const auto [all, all_spilled] = train("8G");
  const auto [bound, bound_spilled] = train("64M");
  CHECK(!all_spilled);
  CHECK(all > 80);  // MiB
  CHECK(bound_spilled);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  CHECK(bound < 64);
#endif
  CHECK(test::read_file(directory / "64M") == test::read_file(directory / "8G"));
  CHECK(test::read_file(directory / "64M").size() > 100);
  check_error("vocab train none.txt --out v.txt --memory 63M", 2,
              "[command line] expected a valid --memory (see 'electra vocab train --help'), got 'Value 66060288 not in range 67108864 to 1125899906842624'");
  check_error("vocab train " + (directory / "text.txt") + " --memory 64M --temporary " + (directory / "none") + " --out " + (directory / "v"), 1,
              "[" + (directory / "none") + "] expected a folder to write temporary files in, got 'No such file or directory'");
  CHECK(!std::filesystem::exists(directory / "v"));
}

TEST_CASE("data build and vocab inspect read JSON lines and say what they read") {
  const test::TemporaryDirectory directory;
  const std::string text = directory / "t.jsonl", vocabulary = models() / "vocab.txt";
  std::string lines;
  for (int i = 0; i < 40; ++i) lines += "{\"body\": \"The cat sat on the mat.\\nThe dog sat " + std::to_string(i) + ".\"}\n";
  test::write_file(text, lines);
  check_error("data build " + text + " --vocab " + vocabulary + " --out " + (directory / "d"), 1,
              "[" + text + ":1] expected a field 'text', got an object without it (--skip-invalid leaves such lines out)");
  CHECK(!std::filesystem::exists(directory / "d"));
  const nlohmann::json json = json_of("data build " + text + " --field body --deduplicate --quiet --json --heldout 0.2 --vocab " + vocabulary + " --out " + (directory / "d"));
  CHECK(json["documents"] == 40);
  CHECK(json["paragraphs"] == 41);
  CHECK(json["duplicate_paragraphs"] == 39);
  CHECK(json["unknown"] == 40);
  CHECK(json["seconds"] > 0.0);
  const Result inspected = run("vocab inspect " + vocabulary + " " + text + " --field body");
  CHECK(inspected.status == 0);
  CHECK(inspected.out.find("\ntext                    480 words, ") != std::string::npos);
}

TEST_CASE("vocab inspect shows classes, the longest entries and what they make of a text") {
  const test::TemporaryDirectory directory;
  const std::string vocabulary = directory / "v.txt", text = directory / "t.txt";
  test::write_file(vocabulary, "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n[DOC]\n[unused0]\na\n\u00e9\n##b\n##\u00e9\ncat\n\u00e9\u00e9\u00e9\u00e9\n##ings\n##ed\n");
  test::write_file(text, "cat catings catabed\n\ndog x Dog cat dog [DOC]\n");
  const std::string command = "vocab inspect --strip-accents no " + vocabulary + " ";
  const Result alone = run(command);
  CHECK(alone.status == 0);
  CHECK(alone.out.substr(alone.out.find("special")) ==
        "special                 6\nunused                  1\ncharacters              2\ncontinuing characters   2\nwords and first pieces  2\ncontinuing pieces       2\n"
        "mean length             2.12 characters\nlongest                 \u00e9\u00e9\u00e9\u00e9, cat, a, \u00e9\nlongest inside          ##ings, ##ed, ##b, ##\u00e9\n");
  const Result covered = run(command + text);
  CHECK(covered.status == 0);
  CHECK(covered.out.substr(covered.out.find("text  ")) ==
        "text                    11 words, 12 pieces, 1.091 pieces a word, 3.50 characters a piece\nwhole words             2 (18.18 %)\n"
        "unknown words           8 (72.7273 %): dog (2), DOC (1), Dog (1), [ (1), ] (1)\nno piece for            d (3), g (3), o (3), D (2), C (1)\nentries used            3 (20.00 %)\n");
  const nlohmann::json json = json_of("vocab inspect --json --quiet --strip-accents no " + vocabulary + " " + text);
  CHECK(json["classes"]["continuing pieces"] == 2);
  CHECK(json["longest"]["continuing"][0] == "##ings");
  CHECK(json["text"]["unknown_words"] == 8);
  CHECK(json["text"]["most_frequent_unknown"][0] == nlohmann::json({"dog", 2}));
  CHECK(json["text"]["entries_used"] == 3);
  CHECK(!json_of("vocab inspect --json " + vocabulary).contains("text"));
}

TEST_CASE("data export and import give a data set back, and say what they cannot read") {
  const test::TemporaryDirectory dir;
  std::string text;
  for (int i = 0; i < 400; ++i) text += "The cat number " + std::to_string(i) + " sat on the mat.\nIt slept.\n\n";
  test::write_file(dir / "t.txt", text);
  const std::string vocabulary = dir / "v.txt", data = dir / "d", google = dir / "g", back = dir / "b";
  REQUIRE(run("vocab train " + (dir / "t.txt") + " --size 300 --out " + vocabulary).status == 0);
  REQUIRE(run("data build " + (dir / "t.txt") + " --vocab " + vocabulary + " --out " + data).status == 0);
  const Result exported = run("data export " + data + " --format tfrecord --seq-len 32 --files 3 --out " + google);
  CHECK(exported.status == 0);
  CHECK(exported.err.empty());
  CHECK_THAT(exported.out, Catch::StartsWith(google + ": ") && Catch::Contains(" examples of 32 tokens in 3 files, "));
  const auto json = json_of("data import '" + google + "/pretrain_tfrecords/*' --vocab " + google + "/vocab.txt --heldout 0.1 --json --out " + back);
  CHECK(json["files"] == 3);
  CHECK(json["formats"] == nlohmann::json::array({"TFRecord"}));
  CHECK(json["train_documents"].get<int64_t>() + json["heldout_documents"].get<int64_t>() == std::stoll(exported.out.substr(google.size() + 2)));
  CHECK(json_of("data inspect " + back + " --json")["train_tokens"] == json["train_tokens"]);
  // The shards are Megatron's.
  const Result megatron = run("data import " + data + "/train.idx --vocab " + vocabulary + " --out " + back);
  CHECK(megatron.status == 0);
  CHECK_THAT(megatron.out, Catch::StartsWith(back + ": 1 files (Megatron), "));
  check_error("data import " + (dir / "none") + " --vocab " + vocabulary + " --out " + back, 1, "[" + (dir / "none") + "] expected a TFRecord file or an indexed dataset, got 'No such file or directory'");
  const Result text_file = run("data import " + vocabulary + " --vocab " + vocabulary + " --out " + back);
  CHECK(text_file.status == 1);
  CHECK_THAT(text_file.err, Catch::StartsWith("electra: error: [" + vocabulary + ": record 0 at byte 0] expected checksum "));
  check_error("data export " + data + " --format tfrecord --seq-len 4 --out " + (dir / "h"), 2, "[seq_len] expected 5 to 65535 tokens, got 4");
  check_error("data export " + data + " --format tfrecord --out " + google, 1, "[" + google + "] expected a new folder or an empty one, got something else");
}

TEST_CASE("data inspect shows an example as generator and discriminator see it") {
  const std::string data = models() / "data";
  const auto json = json_of("data inspect " + data + " --seq-len 32 --example 1 --seed 5 --json");
  const std::vector<std::string> tokens = json["tokens"], generator = json["generator"];
  const std::vector<int64_t> masked = json["masked"];
  REQUIRE(tokens.size() > 10);
  REQUIRE(!masked.empty());
  CHECK(json["ids"].size() == tokens.size());
  CHECK(json["segments"].size() == tokens.size());
  std::string plain, generator_line, discriminator_line;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const bool here = std::find(masked.begin(), masked.end(), static_cast<int64_t>(i)) != masked.end();
    if (!here) CHECK(generator[i] == tokens[i]);
    const auto shown = [&](const std::string& token) { return (i ? " " : "") + (here ? "<" + token + ">" : token); };
    plain += (i ? " " : "") + tokens[i];
    generator_line += shown(generator[i]);
    discriminator_line += shown(tokens[i]);
  }
  CHECK(json["example"] == plain);
  const Result text = run("data inspect " + data + " --seq-len 32 --example 1 --seed 5");
  CHECK(text.status == 0);
  CHECK_THAT(text.out, Catch::Contains(": " + plain + "\n  generator       " + generator_line + "\n  discriminator   " + discriminator_line + "\nin <>: masked"));
  CHECK(text.out.find('\x1b') == std::string::npos);
  CHECK_THAT(on_terminal("data inspect " + data + " --seq-len 32 --example 1 --seed 5"), Catch::Contains("\x1b[33m" + tokens[static_cast<size_t>(masked[0])] + "\x1b[0m") && Catch::Contains("\r\ncoloured: masked"));
  CHECK(json_of("data inspect " + data + " --example 1 --mask-prob 0.5 --json")["masked"].size() > 2 * masked.size());
}

TEST_CASE("tokenize colours words on a terminal, and nothing elsewhere") {
  const test::TemporaryDirectory dir;
  test::write_file(dir / "v.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ncat\n##s\nsat\n");
  test::write_file(dir / "t.txt", "cats sat on\n");
  const std::string command = "tokenize --special --vocab " + (dir / "v.txt") + " " + (dir / "t.txt");
  CHECK(run(command).out == "[CLS] cat ##s sat [UNK] [SEP]\n");
  const auto paint = [](const char* colour, const char* token) { return std::string("\x1b[") + colour + "m" + token + "\x1b[0m"; };
  CHECK(on_terminal(command) == paint("2", "[CLS]") + " " + paint("32", "cat") + " " + paint("32", "##s") + " " + paint("33", "sat") + " " + paint("31", "[UNK]") + " " + paint("2", "[SEP]") + "\r\n");
  CHECK(on_terminal(command, "NO_COLOR=1") == "[CLS] cat ##s sat [UNK] [SEP]\r\n");
  CHECK(on_terminal(command + " --output ids") == "2 5 6 7 1 3\r\n");
}

TEST_CASE("a signal stops vocab train and data build, and nothing is left") {
  const std::string vocabulary = models() / "vocab.txt";
  for (const int signal : {SIGINT, SIGTERM}) {
    const test::TemporaryDirectory directory;
    const std::string fifo = directory / "text", out = directory / "out";
    CHECK(status_when_told_to_stop("vocab train " + fifo + " --out " + out, fifo, signal) ==
          128 + signal);
    std::filesystem::remove(fifo);
    CHECK(status_when_told_to_stop(
              "data build " + fifo + " --vocab " + vocabulary + " --out " + out, fifo, signal) ==
          128 + signal);
    std::filesystem::remove(fifo);
    CHECK(std::filesystem::is_empty(directory.path()));
  }
}
