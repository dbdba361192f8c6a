// A toy model, a data directory to train it on, and runs of it: what tests of whole pre-training runs share.
#pragma once
#include <fcntl.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "tests/child_process.h"
#include "tests/temporary_directory.h"
#include "trainer/data/data_build.h"
#include "trainer/data/data_set.h"
#include "trainer/log.h"
#include "trainer/pretrain.h"

namespace electra {

using Overrides = std::vector<std::string>;

inline const std::string kConfig = R"(
embedding_size: 16
vocab_size: 18
hidden_size: 16
num_layers: 2
num_heads: 2
intermediate_size: 32
max_position_embeddings: 16
hidden_dropout: 0.1
attention_dropout: 0.1
generator.width_fraction: 1/2
seq_len: 16
mask_prob: 0.15
batch.sequences: 4
batch.accumulate: 2
train_steps: 20
warmup_steps: 1
log_steps: 1
eval_steps: 5
eval.batches: 2
checkpoint_steps: 5
optimizer.learning_rate: 1e-3
)";
inline const std::string kVocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\ncat\nsat\non\nmat\n.\ndog\nran\nto\nroad\nit\nwas\nred\n";

// A configuration and a data directory to train on, and a place for runs.
struct Toy {
  Toy() {
    log::set_level("error");
    test::write_file(config, kConfig);
    build("data");
  }
  // documents and vocabulary: what other data differs in.
  void build(const std::string& name, int documents = 30, const std::string& vocabulary = kVocabulary) const {
    std::string text;
    for (int d = 0; d < documents; ++d) {
      const std::string a = d % 2 ? "cat" : "dog", b = d % 3 ? "mat" : "road";
      for (int k = 0; k <= d % 7; ++k) text += "The " + b + " was red. The " + a + " ran to the " + b + ".\n";
      text += "It ran " + std::string(d % 5 ? "to the road" : "on") + ".\n\n";
    }
    test::write_file(directory / "text.txt", text);
    test::write_file(directory / "vocab.txt", vocabulary);
    DataBuildOptions options;
    options.texts = {directory / "text.txt"};
    options.vocabulary = directory / "vocab.txt";
    options.out = directory / name;
    options.heldout = 0.2;
    build_data(options);
  }
  std::string run(const std::string& name) const { return directory / name; }
  std::string latest(const std::string& name) const { return run(name) + "/checkpoints/latest"; }

  PretrainRequest request(const std::string& name, Overrides overrides = {}) const {
    PretrainRequest r;
    overrides.insert(overrides.begin(), {"data=" + (directory / "data"), "run=" + run(name)});
    r.config = load_config(config, overrides);
    r.quiet = true;
    return r;
  }
  // As the command line does it.
  PretrainRequest resumed(const std::string& name, const Overrides& overrides = {}) const {
    PretrainRequest r;
    r.config = load_config(run(name) + "/config.resolved.yaml", overrides);
    r.resume = r.quiet = true;
    return r;
  }
  int train(const std::string& name, const Overrides& overrides = {}) const { return pretrain(request(name, overrides)); }
  PretrainRequest from(const std::string& source, const std::string& name, const Overrides& overrides = {}) const {
    PretrainRequest r = request(name, overrides);
    r.init_from = run(source);
    return r;
  }

  // Lines of metrics.jsonl of a kind.
  std::vector<nlohmann::json> lines(const std::string& name, const std::string& kind) const {
    std::istringstream in(test::read_file(run(name) + "/metrics.jsonl"));
    std::vector<nlohmann::json> found;
    for (std::string line; std::getline(in, line);)
      if (auto json = nlohmann::json::parse(line); json["kind"] == kind) found.push_back(std::move(json));
    return found;
  }
  // The contents of all TensorBoard files.
  std::string events(const std::string& name) const {
    std::string all;
    for (const auto& entry : std::filesystem::directory_iterator(run(name)))
      if (entry.path().filename().string().starts_with("events.out.tfevents.")) all += test::read_file(entry.path());
    return all;
  }

  test::TemporaryDirectory directory;
  std::string config = directory / "toy.yaml";
};

inline void check_same_weights(const std::string& a, const std::string& b) {
  for (const char* name : {"discriminator.safetensors", "generator.safetensors", "optimizer.safetensors"}) {
    INFO(name);
    const std::string content = test::read_file(a + "/" + name);
    CHECK(content.size() > 1000);
    CHECK((content == test::read_file(b + "/" + name)));  // no dump of bytes where they differ
  }
}

// Exit status of a run that gets a signal as soon as its metrics file has the line of a step: the loop sees it one step later.
inline int stopped_by(int signal, int64_t step, const Toy& toy, PretrainRequest request) {
  return test::in_child([&] {
    dup2(open("/dev/null", O_WRONLY), STDERR_FILENO);
    const std::string metrics = request.config.config.run + "/metrics.jsonl", line = "{\"kind\":\"train\",\"step\":" + std::to_string(step) + ",";
    request.quiet = false;
    bool sent = false;
    log::set_level("info");
    log::set_line_hooks({}, [&] {
      if (sent || test::read_file(metrics).find(line) == std::string::npos) return;
      sent = true;
      raise(signal);
    });
    try {
      return pretrain(std::move(request));
    } catch (const std::exception& error) {
      test::write_file(toy.directory / "failure", error.what());
      return 99;
    }
  });
}

}  // namespace electra
