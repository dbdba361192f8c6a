// Pre-training runs of a toy model: stopping, resuming, what may not change, what is reported, which checkpoints there are.
#include <sys/resource.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "kernels/core/error.h"
#include "tests/child_process.h"
#include "tests/error_of.h"
#include "tests/temporary_directory.h"
#include "tests/toy_run.h"
#include "trainer/checkpoint.h"
#include "trainer/config_summary.h"
#include "trainer/data/data_sets.h"
#include "trainer/log.h"
#include "trainer/pretrain.h"
#include "trainer/pretrain_setup.h"
#include "trainer/run_directory.h"

using namespace electra;
using Catch::Contains;
using Catch::EndsWith;
using test::read_file;
using test::write_file;
namespace fs = std::filesystem;

namespace {

template <class E> std::string error_of(PretrainRequest request) {
  return test::error_of<E>([&] { pretrain(std::move(request)); });
}

// A copy of run "whole" that goes on from the checkpoint of a step; its name.
std::string resumed_from(const Toy& toy, int64_t step) {
  const std::string name = "from" + std::to_string(step), link = toy.run(name) + "/checkpoints/latest";
  fs::copy(toy.run("whole"), toy.run(name), fs::copy_options::recursive | fs::copy_options::copy_symlinks);
  fs::remove(link);
  fs::create_directory_symlink(checkpoint_name(step), link);
  PretrainRequest request = toy.resumed(name);
  request.config.config.run = toy.run(name);
  REQUIRE(pretrain(std::move(request)) == 0);
  return name;
}

int64_t count(const std::string& text, const std::string& part) {
  int64_t n = 0;
  for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size()) ++n;
  return n;
}

struct Result {
  int status = 0;
  std::string out, err;
};
Result electra_command(const Toy& toy, const Overrides& arguments) {
  const std::string out = toy.directory / "out", err = toy.directory / "err";
  const int status = test::wait_for(test::start(ELECTRA_BINARY, arguments, out, err));
  return {status, read_file(out), read_file(err)};
}

}  // namespace

TEST_CASE("a run that is stopped and resumed ends with the weights of one that was not, bit for bit") {
  const Toy toy;
  REQUIRE(toy.train("whole") == 0);
  CHECK(stopped_by(SIGINT, 6, toy, toy.request("parts")) == 130);
  CHECK(Checkpoint::open(toy.run("parts")).state().step == 7);
  CHECK(stopped_by(SIGTERM, 12, toy, toy.resumed("parts")) == 143);
  CHECK(Checkpoint::open(toy.run("parts")).state().step == 13);
  REQUIRE(pretrain(toy.resumed("parts")) == 0);
  check_same_weights(toy.latest("whole"), toy.latest("parts"));
  const TrainState a = Checkpoint::open(toy.run("whole")).state(), b = Checkpoint::open(toy.run("parts")).state();
  CHECK(std::tuple(a.step, a.adam_step, a.tokens, a.epoch, a.next_example, a.best_loss, a.best_step) ==
        std::tuple(b.step, b.adam_step, b.tokens, b.epoch, b.next_example, b.best_loss, b.best_step));
  CHECK(a.step == 20);
  // Every step is reported once, with the same numbers.
  const auto x = toy.lines("whole", "train"), y = toy.lines("parts", "train");
  REQUIRE(x.size() == 20);
  REQUIRE(y.size() == 20);
  for (size_t i = 0; i < x.size(); ++i)
    for (const char* key : {"step", "tokens", "loss", "disc_auc", "grad_norm"}) CHECK(x[i][key] == y[i][key]);
  CHECK(toy.lines("parts", "resume").size() == 2);
}

TEST_CASE("a run on two data sets is resumed bit for bit, and not with other shares") {
  const Toy toy;
  toy.build("more", 61);
  const std::string both = "data=" + (toy.directory / "data") + "," + (toy.directory / "more");
  REQUIRE(toy.train("whole", {both, "data_weights=1,3"}) == 0);
  CHECK(stopped_by(SIGINT, 6, toy, toy.request("parts", {both, "data_weights=1,3"})) == 130);
  REQUIRE(pretrain(toy.resumed("parts")) == 0);
  check_same_weights(toy.latest("whole"), toy.latest("parts"));
  CHECK_THAT(read_file(toy.run("whole") + "/log.txt"), Contains("data " + (toy.directory / "more") + ", 75.00 % of the examples: "));
  CHECK_THAT(error_of<ConfigError>(toy.resumed("parts", {"data_weights=1,2", "train_steps=30"})), Contains("data_weights: expected 1,3 as the run began, got 1,2"));
  // The shares make the batches.
  REQUIRE(toy.train("size", {both, "train_steps=3"}) == 0);
  REQUIRE(toy.train("first", {"train_steps=3"}) == 0);
  CHECK(toy.lines("size", "train")[0]["loss"] != toy.lines("first", "train")[0]["loss"]);
  CHECK(toy.lines("size", "train")[0]["loss"] != toy.lines("whole", "train")[0]["loss"]);
  const Result eval = electra_command(toy, {"eval", toy.run("whole"), "--json"});
  REQUIRE(eval.status == 0);
  const DataSets sets(data_directories((toy.directory / "data") + "," + (toy.directory / "more")));
  CHECK(nlohmann::json::parse(eval.out)["heldout_tokens"] == sets.heldout_tokens());
  CHECK(electra_command(toy, {"eval", toy.run("whole"), "data=" + (toy.directory / "data")}).status == 0);
}

TEST_CASE("words are tokens where no piece continues one, and masked together where one does") {
  const Toy toy;
  const auto losses = [&](const std::string& name, const Overrides& overrides) {
    REQUIRE(toy.train(name, overrides) == 0);
    std::vector<double> all;
    for (const auto& line : toy.lines(name, "train")) all.push_back(line["loss"]);
    return all;
  };
  CHECK(losses("tokens", {"train_steps=4"}) == losses("words", {"train_steps=4", "masking.unit=word"}));
  check_same_weights(toy.latest("tokens"), toy.latest("words"));
  CHECK(losses("tokens-4", {"train_steps=4"}) != losses("spans", {"train_steps=4", "masking.unit=span"}));
  // "red" in two pieces.
  std::string pieces = kVocabulary;
  pieces.replace(pieces.find("red\n"), 4, "re\n##d\n");
  toy.build("pieces", 30, pieces);
  const std::string data = "data=" + (toy.directory / "pieces");
  CHECK(losses("tokens-pieces", {data, "train_steps=4"}) != losses("words-pieces", {data, "train_steps=4", "masking.unit=word"}));
  REQUIRE(toy.train("whole", {data, "masking.unit=word", "schedule.lengths=12:6", "mask_prob=0.2"}) == 0);
  CHECK(stopped_by(SIGINT, 9, toy, toy.request("parts", {data, "masking.unit=word", "schedule.lengths=12:6", "mask_prob=0.2"})) == 130);
  REQUIRE(pretrain(toy.resumed("parts")) == 0);
  check_same_weights(toy.latest("whole"), toy.latest("parts"));
  CHECK(electra_command(toy, {"eval", toy.run("whole")}).status == 0);
  CHECK(electra_command(toy, {"probe", toy.run("whole"), "the mat was red", "--corrupt"}).status == 0);
  CHECK(electra_command(toy, {"plan", toy.config, "masking.unit=span"}).status == 0);
  PretrainRequest synthetic = toy.request("synthetic", {"masking.unit=span", "train_steps=3"});
  synthetic.synthetic = true;
  CHECK(pretrain(std::move(synthetic)) == 0);
}

TEST_CASE("a run by tokens reports how full its batches are, and is resumed where an example waits") {
  const Toy toy;
  const Overrides by_tokens = {"batch.tokens=128", "checkpoint_steps=1", "checkpoint.keep=99"};
  REQUIRE(toy.train("whole", by_tokens) == 0);
  int64_t before = 0, waiting = 0;
  for (const auto& line : toy.lines("whole", "train")) {
    const int64_t tokens = line["tokens"].get<int64_t>() - before;
    before += tokens;
    CHECK(line["packing_efficiency"] == static_cast<double>(tokens) / 128);
  }
  CHECK(before > 20 * 128 * 0.9);
  CHECK_THAT(read_file(toy.run("whole") + "/log.txt"), Contains("packing: batches have room for 64 tokens in 8 sequences, "));
  for (int64_t step = 1; step < 20; ++step) {
    const std::string checkpoint = toy.run("whole") + "/checkpoints/" + checkpoint_name(step);
    if (Checkpoint::open(checkpoint).state().taken_examples == 0 || ++waiting > 2) continue;
    const std::string name = resumed_from(toy, step);
    check_same_weights(toy.latest("whole"), toy.latest(name));
  }
  CHECK(waiting > 0);
  const Result inspected = electra_command(toy, {"data", "inspect", toy.directory / "data", "--seq-len", "16", "--batch-tokens", "64"});
  CHECK(inspected.status == 0);
  CHECK_THAT(inspected.out, Contains(" % of batches of 64 tokens in at most 8 sequences are used (the first "));
  const Result json = electra_command(toy, {"data", "inspect", toy.directory / "data", "--seq-len", "16", "--batch-sequences", "4", "--json"});
  CHECK(nlohmann::json::parse(json.out)["packing_efficiency"] > 0.5);
  CHECK(nlohmann::json::parse(json.out)["batch_tokens"] == 64);
  const Result small = electra_command(toy, {"data", "inspect", toy.directory / "data", "--seq-len", "16", "--batch-tokens", "15"});
  CHECK(small.status == 2);
  CHECK(small.err == "electra: error: [--batch-tokens] expected at least --seq-len (16), got 15\n");
}

TEST_CASE("a run of several lengths is resumed bit for bit in each and where one begins") {
  const Toy toy;
  const Overrides lengths = {"schedule.lengths=8:7,12:5", "mask_prob=0.2", "checkpoint_steps=1", "checkpoint.keep=99"};
  REQUIRE(toy.train("whole", lengths) == 0);
  for (const int64_t step : {8, 13}) {  // a length begins with its first examples
    const TrainState state = Checkpoint::open(toy.run("whole") + "/checkpoints/" + checkpoint_name(step)).state();
    CHECK(state.epoch == 0);
    CHECK(state.next_example == 4);
  }
  // From the first, from where the second begins, and so on.
  for (const int64_t step : {3, 7, 9, 12, 14}) {
    const std::string name = resumed_from(toy, step);
    INFO(step);
    check_same_weights(toy.latest("whole"), toy.latest(name));
    CHECK(Checkpoint::open(toy.run(name)).state().next_example == Checkpoint::open(toy.run("whole")).state().next_example);
  }
  // A step's tokens say its length: 4 sequences of at most 8, 12 and 16.
  const auto lines = toy.lines("whole", "train");
  REQUIRE(lines.size() == 20);
  int64_t before = 0, longest[3] = {};
  for (size_t i = 0; i < lines.size(); ++i) {
    const int64_t tokens = lines[i]["tokens"].get<int64_t>() - before;
    int64_t& most = longest[i < 7 ? 0 : i < 12 ? 1 : 2];
    most = std::max(most, tokens);
    before += tokens;
  }
  CHECK(longest[0] <= 4 * 8);
  CHECK(longest[1] > 4 * 8);
  CHECK(longest[1] <= 4 * 12);
  CHECK(longest[2] > 4 * 12);
  const std::string text = read_file(toy.run("whole") + "/log.txt");
  for (const std::string line : {"steps 1 to 7: sequences of at most 8 tokens", "steps 8 to 12: sequences of at most 12 tokens", "steps 13 to 20: sequences of at most 16 tokens"})
    CHECK_THAT(text, Contains(line));
  // Made-up batches and few ones have lengths, too, and evaluation is at the last.
  PretrainRequest synthetic = toy.request("synthetic", lengths);
  synthetic.synthetic = true;
  REQUIRE(pretrain(std::move(synthetic)) == 0);
  const auto made_up = toy.lines("synthetic", "train");
  CHECK(made_up[6]["tokens"] == 7 * 4 * 8);
  CHECK(made_up[7]["tokens"] == 7 * 4 * 8 + 4 * 12);
  CHECK(made_up[19]["tokens"] == 7 * 4 * 8 + 5 * 4 * 12 + 8 * 4 * 16);
  PretrainRequest few = toy.request("few", lengths);
  few.overfit = 1;
  CHECK(pretrain(std::move(few)) == 0);
  const Result plan = electra_command(toy, {"plan", toy.config, "schedule.lengths=8:7,12:5", "mask_prob=0.2"});
  CHECK(plan.status == 0);
  CHECK_THAT(plan.out, Contains("lengths           8 tokens for 7 steps, then 12 tokens for 5 steps, then 16 tokens for 8 steps\n"));
}

TEST_CASE("a run trains: its loss falls and its weights are not those it began with") {
  const Toy toy;
  REQUIRE(toy.train("run", {"train_steps=200", "optimizer.learning_rate=1e-2", "checkpoint.keep=99"}) == 0);
  const auto lines = toy.lines("run", "eval");
  CHECK(lines.back()["masked_lm_loss"] < 0.95 * lines.front()["masked_lm_loss"].get<double>());
  CHECK((read_file(toy.run("run") + "/checkpoints/step-000000005/generator.safetensors") != read_file(toy.latest("run") + "/generator.safetensors")));
}

TEST_CASE("SIGINT and SIGTERM end the program with their status and a good checkpoint") {
  const Toy toy;
  for (const auto& [signal, status] : {std::pair{SIGINT, 130}, {SIGTERM, 143}}) {
    const std::string name = "run" + std::to_string(signal), err = toy.directory / "err";
    const pid_t child = test::start(ELECTRA_BINARY,
                                    {"pretrain", toy.config, "data=" + (toy.directory / "data"), "run=" + toy.run(name), "train_steps=1000000",
                                     "log_steps=1000000", "eval_steps=1000000", "checkpoint_steps=20"},
                                    toy.directory / "out", err);
    while (!fs::exists(toy.latest(name)) && kill(child, 0) == 0 && waitpid(child, nullptr, WNOHANG) == 0)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    kill(child, signal);
    CHECK(test::wait_for(child) == status);
    const Checkpoint checkpoint = Checkpoint::open(toy.run(name));
    CHECK(checkpoint.state().step >= 20);
    const std::string text = read_file(err);
    CHECK_THAT(text, EndsWith("stopped by a signal after step " + std::to_string(checkpoint.state().step) +
                              "; continue with: electra pretrain --resume " + toy.run(name) + "\n"));
    CHECK(count(text, "\nstopping after this step, with a checkpoint; press Ctrl-C again to stop at once\n") == (signal == SIGINT));
  }
}

TEST_CASE("a finished run says that there is nothing to do and changes nothing") {
  const Toy toy;
  REQUIRE(toy.train("run", {"train_steps=3"}) == 0);
  const std::string metrics = read_file(toy.run("run") + "/metrics.jsonl");
  const Result again = electra_command(toy, {"pretrain", "--resume", toy.run("run")});
  CHECK(again.status == 0);
  CHECK_THAT(again.err, EndsWith("nothing to do: the run in " + toy.run("run") + " is at step 3 of train_steps=3; 'electra pretrain --resume " +
                                 toy.run("run") + " train_steps=N' trains on\n"));
  CHECK(read_file(toy.run("run") + "/metrics.jsonl") == metrics);
  CHECK(pretrain(toy.resumed("run", {"train_steps=5"})) == 0);
  CHECK(Checkpoint::open(toy.run("run")).state().step == 5);
}

TEST_CASE("a run begun with --init-from takes the weights and nothing else") {
  const Toy toy;
  REQUIRE(toy.train("first") == 0);
  // A learning rate of 0 leaves the weights as they were taken.
  REQUIRE(pretrain(toy.from("first", "second", {"train_steps=1", "optimizer.learning_rate=0", "eval_steps=1", "seed=7"})) == 0);
  for (const char* name : {"discriminator.safetensors", "generator.safetensors"})
    CHECK((read_file(toy.latest("first") + "/" + name) == read_file(toy.latest("second") + "/" + name)));
  // The moments begin at zero: two checkpoints of the same weights and other moments start the same run.
  CHECK((read_file(toy.latest("first") + "/optimizer.safetensors") != read_file(toy.latest("second") + "/optimizer.safetensors")));
  for (const std::string source : {"first", "second"}) REQUIRE(pretrain(toy.from(source, "from-" + source, {"train_steps=3"})) == 0);
  check_same_weights(toy.latest("from-first"), toy.latest("from-second"));
  const TrainState state = Checkpoint::open(toy.run("second")).state();
  CHECK(state.step == 1);
  CHECK(state.adam_step == 1);
  CHECK(state.tokens <= 4 * 16);
  CHECK(state.best_step == 1);
}

TEST_CASE("another model to start from is an error that names a tensor, and makes no run") {
  const Toy toy;
  REQUIRE(toy.train("first", {"train_steps=1"}) == 0);
  CHECK_THAT(error_of<FormatError>(toy.from("first", "second", {"num_layers=1"})),
             Contains("/discriminator.safetensors] expected no tensor that the model lacks, got electra.encoder.layer.1."));
  CHECK_THAT(error_of<FormatError>(toy.from("first", "second", {"num_layers=3"})), Contains("expected a tensor electra.encoder.layer.2."));
  CHECK_THAT(error_of<FormatError>(toy.from("first", "second", {"intermediate_size=33"})), Contains("expected F32 [16,33], got F32 [16,32]"));
  CHECK_FALSE(fs::exists(toy.run("second")));
  CHECK(pretrain(toy.from("first", "second", {"train_steps=1"})) == 0);
}

TEST_CASE("another vocabulary of the same size is an error for --init-from, --resume and eval") {
  const Toy toy;
  REQUIRE(toy.train("first", {"train_steps=2"}) == 0);
  std::string other = kVocabulary;
  other.replace(other.find("dog\nran\n"), 8, "ran\ndog\n");
  toy.build("data", 30, other);
  const std::string expected = "[" + (toy.directory / "data/vocab.txt") + ":12] expected the vocabulary of the model, here 'dog', got 'ran'";
  CHECK(error_of<DataError>(toy.from("first", "second")) == expected);
  CHECK(error_of<DataError>(toy.resumed("first", {"train_steps=5"})) == expected);
  CHECK(electra_command(toy, {"eval", toy.run("first")}).err == "electra: error: " + expected + "\n");
  // A prefix is another vocabulary, too.
  toy.build("data", 30, kVocabulary + "blue\n");
  CHECK_THAT(error_of<DataError>(toy.from("first", "second")), Contains("vocab.txt:19] expected the vocabulary of the model, here its end, got 'blue'"));
  CHECK_FALSE(fs::exists(toy.run("second")));
  toy.build("data");
  CHECK(pretrain(toy.resumed("first", {"train_steps=5"})) == 0);
}

TEST_CASE("weights of made-up data have no vocabulary to start a run from") {
  const Toy toy;
  PretrainRequest synthetic = toy.request("first", {"train_steps=1"});
  synthetic.synthetic = true;
  REQUIRE(pretrain(std::move(synthetic)) == 0);
  CHECK_THAT(error_of<DataError>(toy.from("first", "second")),
             Contains("/vocab.txt] expected the vocabulary of the checkpoint, got none: it was trained with --synthetic"));
}

TEST_CASE("a resumed run cannot go on with other data") {
  const Toy toy;
  REQUIRE(toy.train("run", {"train_steps=2"}) == 0);
  const TrainState before = Checkpoint::open(toy.run("run")).state();
  CHECK(before.source == "data");
  toy.build("data", 31);
  const std::string error = error_of<DataError>(toy.resumed("run", {"train_steps=5"}));
  CHECK_THAT(error, Contains("[" + (toy.directory / "data") + "] expected the data the run began with, checksum " + before.data_xxh64 + ", got ") &&
                        EndsWith("; a resumed run cannot change it: start a new run with --init-from to take the weights along"));
  CHECK(pretrain(toy.from("run", "new", {"train_steps=1"})) == 0);
  toy.build("data");  // the same again
  CHECK(pretrain(toy.resumed("run", {"train_steps=5"})) == 0);
}

TEST_CASE("a resumed run goes on with --synthetic or --overfit N exactly if it began with it") {
  const Toy toy;
  const auto with = [](PretrainRequest r, bool synthetic, int64_t overfit) {
    r.synthetic = synthetic;
    r.overfit = overfit;
    return r;
  };
  const Overrides more = {"train_steps=4"};
  REQUIRE(toy.train("data-run", {"train_steps=2"}) == 0);
  REQUIRE(pretrain(with(toy.request("overfit-run", {"train_steps=2"}), false, 2)) == 0);
  REQUIRE(pretrain(with(toy.request("synthetic-run", {"train_steps=2"}), true, 0)) == 0);
  const auto check = [&](const std::string& run, bool synthetic, int64_t overfit, const std::string& expected, const std::string& got) {
    CHECK(error_of<ConfigError>(with(toy.resumed(run, more), synthetic, overfit)) ==
          "[command line] expected batches of " + expected + " as the run began, got " + got +
              "; a resumed run cannot change it: start a new run with --init-from to take the weights along");
  };
  check("data-run", true, 0, "data", "--synthetic");
  check("data-run", false, 2, "data", "--overfit 2");
  check("overfit-run", false, 0, "--overfit 2", "data");
  check("overfit-run", false, 3, "--overfit 2", "--overfit 3");
  check("synthetic-run", false, 0, "--synthetic", "data");
  CHECK(pretrain(with(toy.resumed("overfit-run", more), false, 2)) == 0);
  CHECK(pretrain(with(toy.resumed("synthetic-run", more), true, 0)) == 0);
  const Result both = electra_command(toy, {"pretrain", toy.config, "run=" + toy.run("new"), "--synthetic", "--overfit", "2"});
  CHECK(both.status == 2);
  CHECK(both.err == "electra: error: [command line] expected --overfit or --synthetic, got both\n");
}

TEST_CASE("a run's configuration edited by hand is compared with its checkpoint's") {
  const Toy toy;
  REQUIRE(toy.train("run", {"train_steps=2"}) == 0);
  const std::string path = toy.run("run") + "/config.resolved.yaml";
  std::string yaml = read_file(path);
  const size_t at = yaml.find("learning_rate: 0.001");
  REQUIRE(at != std::string::npos);
  write_file(path, yaml.replace(at, 20, "learning_rate: 0.002"));
  CHECK_THAT(error_of<ConfigError>(toy.resumed("run", {"train_steps=5"})),
             Contains("optimizer.learning_rate: expected 0.001 as the run began, got 0.002") && Contains("--init-from"));
}

TEST_CASE("resuming wants a run, says so for a checkpoint, and names the newest good one where the latest is damaged") {
  const Toy toy;
  REQUIRE(toy.train("run", {"train_steps=10"}) == 0);
  const std::string run = fs::canonical(toy.run("run")).string(), latest = toy.latest("run");
  for (const std::string& path : {latest, run + "/checkpoints", run + "/checkpoints/step-000000005"}) {
    const Result result = electra_command(toy, {"pretrain", "--resume", path});
    CHECK(result.status == 2);
    CHECK_THAT(result.err, Contains("electra: error: [run] expected the directory of a run, got '" + path + "'") &&
                               Contains("; --resume " + run + " continues from the latest checkpoint"));
  }
  CHECK(electra_command(toy, {"pretrain", "--resume", toy.run("none")}).status == 1);
  const std::string metrics = read_file(run + "/metrics.jsonl");
  write_file(latest + "/optimizer.safetensors", "short");
  const Result damaged = electra_command(toy, {"pretrain", "--resume", run, "train_steps=12"});
  CHECK(damaged.status == 1);
  CHECK_THAT(damaged.err, Contains("step-000000010/optimizer.safetensors] expected ") &&
                              Contains("; the newest good checkpoint is " + run + "/checkpoints/step-000000005; to go on from it: ln -sfn "));
  CHECK(read_file(run + "/metrics.jsonl") == metrics);
  fs::remove(latest);
  fs::create_directory_symlink("step-000000005", latest);
  CHECK(electra_command(toy, {"pretrain", "--resume", run, "train_steps=12"}).status == 0);
  CHECK(Checkpoint::open(run).state().step == 12);
}

TEST_CASE("three steps in a row that are not finite stop the run, and the last good checkpoint is kept", "[warns]") {
  const Toy toy;
  const std::string error =
      error_of<Error>(toy.request("run", {"optimizer.learning_rate=1e30", "checkpoint_steps=1", "checkpoint.keep=1", "checkpoint.keep_best=false"}));
  const auto lines = toy.lines("run", "train");
  int64_t last_good = 0;
  for (const auto& line : lines)
    if (!line["loss"].is_null()) last_good = line["step"];
  REQUIRE(last_good >= 1);
  CHECK(error == "[step " + std::to_string(last_good + 3) + "] expected a finite loss, got none 3 times in a row; the last good checkpoint is " +
                     toy.run("run") + "/checkpoints/" + checkpoint_name(last_good) + "; lower optimizer.learning_rate or raise warmup_steps");
  // Nothing was written over it or beside it while steps were skipped.
  CHECK(list_checkpoints(toy.run("run") + "/checkpoints") == std::vector<int64_t>{last_good});
  const Checkpoint checkpoint = Checkpoint::open(toy.run("run"));
  CHECK(checkpoint.state().bad_steps == 0);
  CHECK(checkpoint.state().adam_step == last_good);

  // Skipped steps are reported as such: null for JSON, nothing for TensorBoard.
  REQUIRE(lines.size() == static_cast<size_t>(last_good) + 2);
  for (const auto& line : lines)
    for (const char* name : {"loss", "masked_lm_loss", "masked_lm_accuracy", "disc_loss", "disc_auc", "replaced_fraction", "skill"}) {
      INFO(name);
      CHECK(line.at(name).is_null() == (line["step"] > last_good));
    }
  const std::string events = toy.events("run");
  CHECK(count(events, "sampled_masked_lm_accuracy") == last_good);
  CHECK(count(events, "learning_rate") == last_good + 2);
}

TEST_CASE("a run whose first steps are not finite has no checkpoint to name", "[warns]") {
  const Toy toy;
  CHECK_THAT(error_of<Error>(toy.request("run", {"gen_weight=1e300", "checkpoint_steps=1"})),
             Contains("[step 3] expected a finite loss, got none 3 times in a row; there is no checkpoint yet; lower "));
  CHECK(list_checkpoints(toy.run("run") + "/checkpoints").empty());
}

TEST_CASE("a stop among skipped steps writes a checkpoint and removes none", "[warns]") {
  const Toy toy;
  // The last step is a skipped one.
  REQUIRE(toy.train("probe", {"train_steps=2", "optimizer.learning_rate=1e30", "checkpoint_steps=1", "checkpoint.keep=1",
                              "checkpoint.keep_best=false", "warmup_steps=0"}) == 0);
  CHECK(Checkpoint::open(toy.run("probe")).state().bad_steps == 1);
  CHECK(list_checkpoints(toy.run("probe") + "/checkpoints") == std::vector<int64_t>{1, 2});
}

TEST_CASE("the best checkpoint is that of the lowest held-out loss among the steps that were both evaluated and kept") {
  const Toy toy;
  int old = 0, lower_between = 0;  // at this rate the loss does not fall steadily
  for (const std::string seed : {"1", "2", "3", "4"}) {
    const std::string name = "run" + seed, checkpoints = toy.run(name) + "/checkpoints";
    REQUIRE(toy.train(name, {"train_steps=40", "eval_steps=2", "checkpoint_steps=3", "checkpoint.keep=2", "optimizer.learning_rate=0.05",
                             "schedule.power=0", "seed=" + seed}) == 0);
    std::map<int64_t, double> kept;
    double lowest = 1e9;
    for (const auto& line : toy.lines(name, "eval")) {
      const int64_t step = line["step"];
      lowest = std::min(lowest, line["loss"].get<double>());
      if (step % 3 == 0 || step == 40) kept[step] = line["loss"];
    }
    CHECK(kept.size() == 7);
    const auto best = std::min_element(kept.begin(), kept.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
    CHECK(fs::read_symlink(checkpoints + "/best") == checkpoint_name(best->first));
    const TrainState state = Checkpoint::open(checkpoints).state();
    CHECK(state.best_step == best->first);
    CHECK(state.best_loss == best->second);
    std::vector<int64_t> steps = {39, 40};
    if (best->first < 39) steps.insert(steps.begin(), best->first);
    CHECK(list_checkpoints(checkpoints) == steps);
    CHECK_NOTHROW(Checkpoint::open(checkpoints + "/best"));
    old += best->first < 39;
    lower_between += lowest < best->second;
  }
  CHECK(old > 0);
  CHECK(lower_between > 0);
}

TEST_CASE("without the discriminator nothing is reported of it") {
  const Toy toy;
  REQUIRE(toy.train("run", {"electra_objective=false", "train_steps=5"}) == 0);
  for (const char* kind : {"train", "eval"}) {
    const auto lines = toy.lines("run", kind);
    REQUIRE(!lines.empty());
    for (const auto& line : lines) {
      CHECK(line["masked_lm_loss"].get<double>() > 0);
      CHECK(line["loss"] == line["masked_lm_loss"]);
      for (const char* name : {"disc_loss", "disc_auc", "disc_accuracy", "disc_precision", "disc_recall", "replaced_fraction", "skill"})
        CHECK_FALSE(line.contains(name));
    }
  }
  const Result eval = electra_command(toy, {"eval", toy.run("run"), "--json"});
  CHECK(eval.status == 0);
  CHECK_FALSE(nlohmann::json::parse(eval.out).contains("disc_loss"));
  const std::string text = read_file(toy.run("run") + "/log.txt");
  CHECK_THAT(text, Contains("step 5/5  loss ") && Contains("held out: loss "));
  CHECK(text.find("disc_loss") == std::string::npos);
  CHECK(toy.events("run").find("disc_") == std::string::npos);
}

TEST_CASE("metrics.auc_padding acts on train and eval lines alike, and on nothing but the AUC") {
  const Toy toy;
  REQUIRE(toy.train("without", {"eval.batches=99"}) == 0);
  REQUIRE(toy.train("with", {"eval.batches=99", "metrics.auc_padding=true"}) == 0);
  for (const char* kind : {"train", "eval"}) {
    const auto a = toy.lines("without", kind), b = toy.lines("with", kind);
    REQUIRE(a.size() == b.size());
    REQUIRE(!a.empty());
    size_t higher = 0;  // certain negatives are easy ones; a batch may have none
    for (size_t i = 0; i < a.size(); ++i) {
      CHECK(a[i]["disc_auc"] <= b[i]["disc_auc"]);
      higher += a[i]["disc_auc"] < b[i]["disc_auc"];
      for (const char* name : {"loss", "disc_accuracy", "replaced_fraction"}) CHECK(a[i][name] == b[i][name]);
    }
    CHECK(higher > 0);
  }
}

TEST_CASE("the start of a run shows every key with its value and origin") {
  const Toy toy;
  PretrainRequest request = toy.request("run", {"train_steps=1", "seed=5"});
  set_value(request.config, "vocab_size", "18", "data");
  choose_for_device(request.config, Backend::cpu);
  const std::string summary = configuration_summary(request.config);
  CHECK_THAT(summary, Catch::StartsWith("  command line: data=" + (toy.directory / "data")));
  CHECK_THAT(summary, Contains("\n  " + toy.config + ": embedding_size=16 hidden_size=16 num_layers=2"));
  CHECK_THAT(summary, Contains("\n  data: vocab_size=18\n"));
  CHECK_THAT(summary, Contains("\n  device: precision=fp32 gemm=library\n"));
  CHECK_THAT(summary, Contains("\n  compat: fixed: masking.replacement=false"));
  CHECK(summary.find("\n  default: ") > summary.find("\n  compat: "));
  CHECK(summary.find(" seed=5") < summary.find("\n  " + toy.config));
  for (const KeyInfo& key : config_keys()) {
    INFO(key.name);
    CHECK(count(summary, " " + key.name + "=") == (key.name == "batch.tokens" ? 0 : 1));  // the one that is not in force
  }
  REQUIRE(pretrain(std::move(request)) == 0);
  CHECK_THAT(read_file(toy.run("run") + "/log.txt"),
             Contains("chosen: precision fp32 (device), matrix products by oneDNN (device)\n"));
  CHECK_THAT(read_file(toy.run("run") + "/log.txt"),
             Contains("configuration, by origin; " + toy.run("run") + "/config.resolved.yaml has it key by key:\n" + summary + "\n"));
}

TEST_CASE("a full disk ends a run, and the checkpoint before stays good") {
  const Toy toy;
  REQUIRE(toy.train("run", {"train_steps=5"}) == 0);
  const auto largest = static_cast<rlim_t>(fs::file_size(toy.latest("run") + "/optimizer.safetensors"));
  const std::string message = toy.directory / "message";
  const int status = test::in_child([&] {
    std::ofstream out(message);
    std::signal(SIGXFSZ, SIG_IGN);  // the write fails, as it does on a full disk
    const rlimit files{largest - 1, largest - 1};
    setrlimit(RLIMIT_FSIZE, &files);
    try {
      pretrain(toy.resumed("run", {"train_steps=10"}));
    } catch (const IoError& error) {
      out << error.what();
      return 3;
    }
    return 0;
  });
  CHECK(status == 3);
  CHECK_THAT(read_file(message), Contains("/checkpoints/.tmp-step-000000010/optimizer.safetensors] expected to write ") && EndsWith("got 'File too large'"));
  CHECK(Checkpoint::open(toy.run("run")).state().step == 5);
  CHECK(pretrain(toy.resumed("run", {"train_steps=10"})) == 0);
  CHECK(Checkpoint::open(toy.run("run")).state().step == 10);
}

TEST_CASE("a seed below zero is no seed") {
  const Toy toy;
  const Result result = electra_command(toy, {"probe", toy.run("run"), "the cat", "--corrupt", "--seed", "-1"});
  CHECK(result.status == 2);
  CHECK(result.err == "electra: error: [command line] expected a valid --seed (see 'electra probe --help'), got 'Value -1 not in range 0 to "
                      "9007199254740992'\n");
}
