// Checkpoints: what comes back, what damage is found, what a failing disk leaves, which ones are kept.
#include <sys/resource.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "tests/child_process.h"
#include "tests/error_of.h"
#include "tests/temporary_directory.h"
#include "tests/toy_model.h"
#include "trainer/checkpoint.h"
#include "trainer/files.h"
#include "trainer/log.h"
#include "trainer/run_directory.h"

using namespace electra;
using Catch::Contains;
using test::error_of;
using test::TemporaryDirectory;
namespace fs = std::filesystem;

namespace {

// A model with parameters and moments that all differ.
struct Model {
  explicit Model(ElectraConfig c = toy_config()) : config(c), program(trace_electra(config, kToyShape, toy_options(DType::f32)), true, Stream(pool)) {}
  ParameterStore& store() { return *program.store(); }
  void fill() {
    perturb_weights(store());
    for (int64_t i = 0; i < store().elements(); ++i) {
      store().first_moments().as<float>()[i] = static_cast<float>(i) * 1e-3f;
      store().second_moments().as<float>()[i] = 1.0f / static_cast<float>(i + 1);
    }
  }
  ElectraConfig config;
  ThreadPool pool{1};
  ElectraProgram program;
};

// Values of the parameters, padding of the flat buffer left out.
std::vector<float> values(const ParameterStore& store, Tensor (ParameterStore::*of)(const Parameter&) const) {
  std::vector<float> all;
  for (const Parameter& p : store.parameters()) {
    const Tensor t = (store.*of)(p);
    all.insert(all.end(), t.as<float>(), t.as<float>() + t.size());
  }
  return all;
}

const ExtraFiles kExtra = {{"config.resolved.yaml", "size: custom\n"}, {"vocab.txt", "[PAD]\n[UNK]\n"}};

fs::path save(const std::string& checkpoints, int64_t step, Model& model) {
  fs::create_directories(checkpoints);
  TrainState state;
  state.step = step;
  return save_checkpoint(checkpoints, model.config, model.store(), state, kExtra);
}
fs::path save(const std::string& checkpoints, int64_t step) {
  Model model;
  model.fill();
  return save(checkpoints, step, model);
}

std::string open_error(const fs::path& path) {
  return error_of<FormatError>([&] { Checkpoint::open(path); });
}

std::string good(const std::string& folder, int64_t step) {
  const std::string name = checkpoint_name(step);
  return "; the newest good checkpoint is " + folder + "/" + name + "; to go on from it: ln -sfn " + name + " " + folder + "/latest";
}

std::string target(const std::string& link) { return fs::read_symlink(link).string(); }

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

TEST_CASE("a checkpoint gives back weights, moments, state and files, bit for bit") {
  const TemporaryDirectory dir;
  Model a, b;
  a.fill();
  const TrainState state{.step = 12, .adam_step = 11, .bad_steps = 1, .tokens = int64_t{1} << 40, .epoch = 3, .next_example = 77, .taken_examples = 0xF000000000000001u, .seconds = 0.1,
                         .best_loss = 1.0 / 3, .best_step = 10, .source = "--overfit 3", .data_xxh64 = "00ff"};
  const fs::path path = save_checkpoint(dir.path(), a.config, a.store(), state, kExtra);
  CHECK(path == dir / "step-000000012");
  const Checkpoint checkpoint = Checkpoint::open(path);
  const TrainState& s = checkpoint.state();
  CHECK(std::tuple(s.step, s.adam_step, s.bad_steps, s.tokens, s.epoch, s.next_example, s.taken_examples, s.seconds, s.best_loss, s.best_step, s.source, s.data_xxh64) ==
        std::tuple(state.step, state.adam_step, state.bad_steps, state.tokens, state.epoch, state.next_example, state.taken_examples, state.seconds, state.best_loss,
                   state.best_step, state.source, state.data_xxh64));
  for (const auto& [name, content] : kExtra) CHECK(test::read_file(checkpoint.file(name)) == content);
  checkpoint.load_weights(b.config, b.store());
  CHECK(values(a.store(), &ParameterStore::value) == values(b.store(), &ParameterStore::value));
  CHECK(values(a.store(), &ParameterStore::first_moment) != values(b.store(), &ParameterStore::first_moment));
  checkpoint.load_all(b.config, b.store());
  CHECK(values(a.store(), &ParameterStore::first_moment) == values(b.store(), &ParameterStore::first_moment));
  CHECK(values(a.store(), &ParameterStore::second_moment) == values(b.store(), &ParameterStore::second_moment));
}

TEST_CASE("a state of before source and data were kept is read") {
  const TemporaryDirectory dir;
  const fs::path path = save(dir.path(), 5);
  auto json = nlohmann::ordered_json::parse(test::read_file(path / "state.json"));
  for (const char* key : {"source", "data_xxh64", "xxh64"}) json.erase(key);
  json["config_hash"] = "0123";
  json["xxh64"] = hex64(xxh64(json.dump()));
  test::write_file(path / "state.json", json.dump(1));
  CHECK(Checkpoint::open(path).state().source.empty());
  CHECK(Checkpoint::open(path).state().step == 5);
}

TEST_CASE("a run, its checkpoints, a checkpoint and a link are ways to name a checkpoint") {
  const TemporaryDirectory dir;
  const std::string checkpoints = fs::canonical(dir.path()).string() + "/checkpoints";
  const fs::path first = save(checkpoints, 5), second = save(checkpoints, 10);
  mark_best(checkpoints, 5);
  CHECK(target(checkpoints + "/latest") == "step-000000010");
  CHECK(target(checkpoints + "/best") == "step-000000005");
  for (const std::string& path : {dir.path(), checkpoints, checkpoints + "/latest", second.string()})
    CHECK(Checkpoint::open(path).path() == second);
  for (const std::string& path : {checkpoints + "/best", first.string()}) CHECK(Checkpoint::open(path).path() == first);
  fs::create_directories(dir / "empty/checkpoints");
  CHECK(error_of<IoError>([&] { Checkpoint::open(dir / "empty"); }) ==
        "[" + (dir / "empty") + "] expected a run with a checkpoint, or a checkpoint, got neither");
  CHECK(error_of<IoError>([&] { Checkpoint::open(dir / "none"); }) ==
        "[" + (dir / "none") + "] expected a run or a checkpoint, got 'No such file or directory'");
}

TEST_CASE("a truncated file is found, whichever it is, and the newest good checkpoint named") {
  const TemporaryDirectory dir;
  const std::string folder = fs::canonical(dir.path()).string();
  save(folder, 5);
  save(folder, 7);
  const fs::path path = save(folder, 10);
  const std::vector<std::string> files = names_in(path.string());
  CHECK(files == std::vector<std::string>{"config.resolved.yaml", "discriminator.safetensors", "generator.safetensors", "optimizer.safetensors",
                                          "state.json", "vocab.txt"});
  for (const std::string& name : files) {
    INFO(name);
    const std::string whole = test::read_file(path / name);
    for (const size_t size : {size_t{0}, whole.size() / 2, whole.size() - 1}) {
      if (name == "state.json" && size == whole.size() - 1) continue;  // its last line feed is none of the state
      test::write_file(path / name, whole.substr(0, size));
      const std::string error = open_error(path);
      CHECK_THAT(error, Contains("[" + (path / name).string() + "] expected "));
      if (name != "state.json")
        CHECK_THAT(error, Contains("expected " + std::to_string(whole.size()) + " bytes, got " + std::to_string(size) + good(folder, 7)));
      CHECK_THAT(error, Catch::EndsWith(good(folder, 7)));
      CHECK(open_error(folder) == error);  // latest; nothing falls back
    }
    fs::remove(path / name);
    CHECK_THAT(open_error(path), Contains((path / name).string()) && Catch::EndsWith(good(folder, 7)));
    test::write_file(path / name, whole);
    CHECK_NOTHROW(Checkpoint::open(path));
  }
}

TEST_CASE("a flipped bit is found, whichever file it is in") {
  const TemporaryDirectory dir;
  const std::string folder = fs::canonical(dir.path()).string();
  save(folder, 5);
  const fs::path path = save(folder, 10);
  for (const std::string& name : names_in(path.string())) {
    INFO(name);
    const std::string whole = test::read_file(path / name);
    for (const size_t at : {size_t{3}, whole.size() / 2, whole.size() - 3}) {
      INFO(at);
      std::string damaged = whole;
      damaged[at] = static_cast<char>(damaged[at] ^ 4);
      test::write_file(path / name, damaged);
      const std::string error = open_error(path);
      CHECK_THAT(error, Contains((path / name).string()) && Catch::EndsWith(good(folder, 5)));
      if (name != "state.json") CHECK_THAT(error, Contains("expected checksum "));
    }
    test::write_file(path / name, whole);
  }
}

TEST_CASE("a number in the state that was changed is found") {
  const TemporaryDirectory dir;
  const fs::path path = save(dir.path(), 10);
  std::string state = test::read_file(path / "state.json");
  const size_t at = state.find("\"step\": 10");
  REQUIRE(at != std::string::npos);
  state[at + 9] = '1';
  test::write_file(path / "state.json", state);
  CHECK_THAT(open_error(path), Contains("state.json] expected checksum ") && Catch::EndsWith("; there is no good checkpoint beside it"));
}

TEST_CASE("a damaged newest good one is passed over") {
  const TemporaryDirectory dir;
  const std::string folder = fs::canonical(dir.path()).string();
  for (const int64_t step : {5, 7, 10}) save(folder, step);
  for (const char* name : {"step-000000007", "step-000000010"}) test::write_file(folder + "/" + name + "/vocab.txt", "");
  CHECK_THAT(open_error(folder), Contains("step-000000010/vocab.txt] expected 12 bytes, got 0" + good(folder, 5)));
}

TEST_CASE("a latest that points nowhere, or is not there, is an error that names the newest good checkpoint") {
  const TemporaryDirectory dir;
  const std::string run = fs::canonical(dir.path()).string(), folder = run + "/checkpoints";
  save(folder, 5);
  const fs::path second = save(folder, 7);
  fs::remove_all(second);
  for (const std::string& path : {run, folder, folder + "/latest"})
    CHECK(open_error(path) == "[" + folder + "/latest] expected a link to a checkpoint, got one to nothing" + good(folder, 5));
  fs::remove(folder + "/latest");
  for (const std::string& path : {run, folder})
    CHECK(open_error(path) == "[" + folder + "/latest] expected a link to a checkpoint, got none" + good(folder, 5));
  test::write_file(folder + "/step-000000005/vocab.txt", "");
  CHECK_THAT(open_error(run), Catch::EndsWith("got none; there is no good checkpoint beside it"));
}

TEST_CASE("a checkpoint of another shape is an error that names the tensor") {
  const TemporaryDirectory dir;
  const fs::path path = save(dir.path(), 1);
  const auto error = [&](const std::function<void(ElectraConfig&)>& change) {
    ElectraConfig config = toy_config();
    change(config);
    Model model(config);
    return error_of<FormatError>([&] { Checkpoint::open(path).load_weights(model.config, model.store()); });
  };
  CHECK_THAT(error([](ElectraConfig& c) { c.vocab_size = 41; }),
             Contains("discriminator.safetensors] tensor electra.embeddings.word_embeddings.weight: expected F32 [41,16], got F32 [40,16]"));
  CHECK_THAT(error([](ElectraConfig& c) { c.discriminator.num_layers = 3; }),
             Contains("discriminator.safetensors] expected a tensor electra.encoder.layer.2.") && Contains("got none of that name"));
  CHECK_THAT(error([](ElectraConfig& c) { c.generator.intermediate_size = 33; }), Contains("generator.safetensors] tensor electra.encoder.layer.0."));
}

TEST_CASE("a checkpoint with more than the model holds is an error that names what is too much") {
  const TemporaryDirectory dir;
  const fs::path path = save(dir.path(), 1);
  ElectraConfig one_layer = toy_config();
  one_layer.discriminator.num_layers = 1;
  Model model(one_layer);
  for (const bool all : {false, true}) {
    const std::string error = error_of<FormatError>([&] {
      all ? Checkpoint::open(path).load_all(model.config, model.store()) : Checkpoint::open(path).load_weights(model.config, model.store());
    });
    CHECK_THAT(error, Contains("discriminator.safetensors] expected no tensor that the model lacks, got electra.encoder.layer.1."));
  }
  // A part of the model takes what it has a place for.
  CHECK_NOTHROW(Checkpoint::open(path).load_weights(model.config, model.store(), false));
}

TEST_CASE("the half that a configuration has none of is left behind, and one it needs is missed") {
  const TemporaryDirectory dir;
  ElectraConfig config = toy_config();
  config.uniform_generator = true;
  const fs::path both = save(dir / "both", 1);
  Model uniform(config), joint;
  uniform.fill();
  const fs::path half = save(dir / "half", 1, uniform);
  CHECK_FALSE(fs::exists(half / "generator.safetensors"));
  log::set_level("warning");
  CHECK_NOTHROW(Checkpoint::open(both).load_weights(config, uniform.store()));
  CHECK_THAT(error_of<FormatError>([&] { Checkpoint::open(half).load_weights(joint.config, joint.store()); }),
             Contains("generator.safetensors] expected the weights of that half, got a checkpoint trained without it"));
}

TEST_CASE("a full disk costs the checkpoint that is being written and nothing else") {
  const TemporaryDirectory dir;
  const std::string folder = fs::canonical(dir.path()).string();
  const fs::path first = save(folder, 5);
  const size_t largest = test::read_file(first / "optimizer.safetensors").size();
  // Limits within the weights, within the moments, within the state alone.
  for (const size_t limit : {size_t{100}, largest / 4, largest - 1}) {
    INFO(limit);
    const std::string message = dir / "message";
    const int status = test::in_child([&] {
      Model model;
      model.fill();
      std::ofstream out(message);
      std::signal(SIGXFSZ, SIG_IGN);  // the write fails, as it does on a full disk
      const rlimit files{limit, limit};
      setrlimit(RLIMIT_FSIZE, &files);
      try {
        save(folder, 10, model);
      } catch (const IoError& error) {
        out << std::string(error.what()).substr(0, 90);
        return 3;
      }
      return 0;
    });
    CHECK(status == 3);
    CHECK_THAT(test::read_file(message), Catch::StartsWith("[" + folder + "/.tmp-step-000000010/"));
    CHECK(names_in(folder) == std::vector<std::string>{"latest", "message", "step-000000005"});
    CHECK(Checkpoint::open(folder).state().step == 5);
  }
}

TEST_CASE("a directory that cannot be written leaves the checkpoints as they are") {
  const TemporaryDirectory dir;
  const std::string folder = fs::canonical(dir.path()).string() + "/checkpoints";
  save(folder, 5);
  const std::string message = dir / "message";
  test::write_file(message, "");
  fs::permissions(folder, fs::perms::owner_read | fs::perms::owner_exec);
  const int status = test::in_child_without_root({dir.path(), folder, message}, [&] {
    Model model;
    model.fill();
    try {
      save(folder, 10, model);
    } catch (const IoError& error) {
      test::write_file(message, error.what());
      return 3;
    }
    return 0;
  });
  CHECK(status == 3);
  CHECK(test::read_file(message) == "[" + folder + "/.tmp-step-000000010] expected to make a directory, got 'Permission denied'");
  fs::permissions(folder, fs::perms::owner_all);
  CHECK(names_in(folder) == std::vector<std::string>{"latest", "step-000000005"});
  CHECK(Checkpoint::open(folder).state().step == 5);
}

TEST_CASE("what an interrupted save left is no checkpoint and goes with the next one") {
  const TemporaryDirectory dir;
  save(dir.path(), 5);
  fs::copy(dir / "step-000000005", dir / ".tmp-step-000000010");
  CHECK(list_checkpoints(dir.path()) == std::vector<int64_t>{5});
  save(dir.path(), 10);
  CHECK(names_in(dir.path()) == std::vector<std::string>{"latest", "step-000000005", "step-000000010"});
}

TEST_CASE("the newest checkpoints are kept, and the best one however old") {
  const TemporaryDirectory dir;
  for (int64_t step = 1; step <= 5; ++step) fs::create_directories(dir / checkpoint_name(step));
  fs::create_directory_symlink(checkpoint_name(5), dir / "latest");
  mark_best(dir.path(), 2);
  prune_checkpoints(dir.path(), 9, true);
  CHECK(list_checkpoints(dir.path()) == std::vector<int64_t>{1, 2, 3, 4, 5});
  prune_checkpoints(dir.path(), 3, true);
  CHECK(list_checkpoints(dir.path()) == std::vector<int64_t>{2, 3, 4, 5});
  prune_checkpoints(dir.path(), 1, true);
  CHECK(list_checkpoints(dir.path()) == std::vector<int64_t>{2, 5});
  CHECK(target(dir / "best") == checkpoint_name(2));
  // The best one moves: the old one goes with the next pruning.
  fs::create_directories(dir / checkpoint_name(6));
  mark_best(dir.path(), 6);
  prune_checkpoints(dir.path(), 2, true);
  CHECK(list_checkpoints(dir.path()) == std::vector<int64_t>{5, 6});
}

TEST_CASE("without keep_best the best one goes and its link with it, but latest never does") {
  const TemporaryDirectory dir;
  for (int64_t step = 1; step <= 4; ++step) fs::create_directories(dir / checkpoint_name(step));
  fs::create_directory_symlink(checkpoint_name(3), dir / "latest");  // gone back to by hand
  mark_best(dir.path(), 1);
  prune_checkpoints(dir.path(), 1, false);
  CHECK(list_checkpoints(dir.path()) == std::vector<int64_t>{3, 4});
  CHECK(names_in(dir.path()) == std::vector<std::string>{"latest", checkpoint_name(3), checkpoint_name(4)});
}
