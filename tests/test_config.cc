#include <catch2/catch.hpp>
#include <filesystem>
#include <set>

#include "kernels/core/error.h"
#include "tests/error_of.h"
#include "tests/temporary_directory.h"
#include "trainer/config.h"
#include "trainer/config_yaml.h"
#include "trainer/data/examples.h"
#include "trainer/nearest.h"

using namespace electra;
using Overrides = std::vector<std::string>;

namespace {

PretrainConfig preset(const std::string& name, const Overrides& overrides = {}) {
  return load_config(name, overrides).config;
}

// The message of the ConfigError that the overrides of a preset provoke.
std::string error_of(const Overrides& overrides, const std::string& source = "tiny") {
  return test::error_of<ConfigError>([&] { load_config(source, overrides); });
}

std::string error_of_file(const std::string& yaml) {
  return test::error_of<ConfigError>([&] { parse_config(yaml, "my.yaml", {}); });
}

}  // namespace

// Clark et al., table 6, and configure_pretraining.py of the original.
TEST_CASE("the presets are the sizes of the paper") {
  struct Row {
    const char* name;
    int64_t layers, hidden, ffn, heads, embedding, generator_hidden, seq_len, batch, steps;
    double mask, rate, dropout;
  };
  const Row rows[] = {
      {"tiny", 2, 128, 512, 2, 128, 64, 64, 64, 12000, 0.15, 1.5e-3, 0},
      {"small", 12, 256, 1024, 4, 128, 64, 128, 128, 1000000, 0.15, 5e-4, 0.1},
      {"small++", 12, 256, 1024, 4, 128, 256, 512, 128, 4000000, 0.15, 5e-4, 0.1},
      {"base", 12, 768, 3072, 12, 768, 256, 512, 256, 766000, 0.15, 2e-4, 0.1},
      {"large", 24, 1024, 4096, 16, 1024, 256, 512, 2048, 400000, 0.25, 2e-4, 0.1},
  };
  for (const Row& row : rows) {
    INFO(row.name);
    const PretrainConfig c = preset(row.name);
    const EncoderConfig& d = c.model.discriminator;
    CHECK(c.size == row.name);
    CHECK(d.num_layers == row.layers);
    CHECK(d.hidden_size == row.hidden);
    CHECK(d.intermediate_size == row.ffn);
    CHECK(d.num_heads == row.heads);
    CHECK(d.head_dim() == 64);
    CHECK(c.model.embedding_size == row.embedding);
    CHECK(c.model.generator.hidden_size == row.generator_hidden);
    CHECK(c.model.generator.head_dim() == 64);
    CHECK(c.model.generator.intermediate_size == 4 * row.generator_hidden);
    CHECK(c.model.generator.num_layers == row.layers);
    CHECK(c.seq_len == row.seq_len);
    CHECK(c.batch.sequences == row.batch);
    CHECK(c.train_steps == row.steps);
    CHECK(c.mask_prob == row.mask);
    CHECK(c.optimizer.learning_rate == row.rate);
    CHECK(c.model.hidden_dropout == row.dropout);
    CHECK(c.model.attention_dropout == row.dropout);
    CHECK(c.warmup_steps == (c.size == "tiny" ? 1000 : 10000));
    CHECK(c.optimizer.weight_decay == 0.01);
    CHECK(c.optimizer.bias_correction == (c.size == "tiny"));
    CHECK(c.optimizer.beta2 == (c.size == "tiny" ? 0.98 : 0.999));
    CHECK(c.model.vocab_size == (c.size == "tiny" ? 8192 : 30522));
    CHECK(c.model.gen_weight == 1);
    CHECK(c.model.disc_weight == 50);
    CHECK(load_config(row.name, {}).warnings.empty());
  }
  CHECK(presets().size() == std::size(rows));
}

TEST_CASE("an embedded preset is the file under configs") {
  for (const Preset& p : presets()) {
    const std::string path =
        std::string(ELECTRA_SOURCE_DIR) + "/configs/electra-" + p.name + ".yaml";
    CHECK(p.text == test::read_file(path));
    CHECK(p.text.starts_with("# " + p.summary + "\n"));
    CHECK(config_hash(load_config(path, {}).config) == config_hash(preset(p.name)));
  }
}

TEST_CASE("the number of masked positions is the original's") {
  CHECK(preset("small").max_predictions() == 19);
  CHECK(preset("base").max_predictions() == 79);
  CHECK(preset("large").max_predictions() == 130);
}

TEST_CASE(
    "the command line wins over the file, the file over its preset, and each value knows its "
    "origin") {
  const ResolvedConfig r =
      parse_config("size: small\ntrain_steps: 500\noptimizer:\n  learning_rate: 3e-4\n", "my.yaml",
                   {"train_steps=700", "optimizer.eps=1e-8"});
  CHECK(r.config.train_steps == 700);
  CHECK(r.origin("train_steps").text == "command line");
  CHECK(r.config.optimizer.learning_rate == 3e-4);
  CHECK(r.origin("optimizer.learning_rate").text == "my.yaml:4");
  CHECK(r.config.model.discriminator.hidden_size == 256);
  CHECK(r.origin("hidden_size").text == "preset small:7");
  CHECK(r.config.optimizer.eps == 1e-8);
  CHECK(r.origin("optimizer.beta1").text == "default");
  CHECK(r.origin("masking.replacement").text == "compat: fixed");
}

TEST_CASE(
    "size on the command line chooses the preset under a file, but does not rename a preset") {
  CHECK(parse_config("train_steps: 5\n", "my.yaml", {"size=base"})
            .config.model.discriminator.hidden_size == 768);
  CHECK(error_of({"size=base"}) ==
        "[command line] size: expected the size of preset tiny itself, got 'base'; name the preset "
        "instead");
}

TEST_CASE("the last of equal overrides wins") {
  CHECK(preset("tiny", {"seed=1", "seed=2"}).seed == 2);
}

TEST_CASE("an unknown key is an error that names the nearest one") {
  CHECK(error_of({"train_stepz=1"}) ==
        "[command line] expected a configuration key, got 'train_stepz'; did you mean "
        "'train_steps'?");
  CHECK(error_of({"learning_rate=1"}) ==
        "[command line] expected a configuration key, got 'learning_rate'; did you mean "
        "'optimizer.learning_rate'?");
  CHECK(error_of({"optimizer.learnin_rate=1"}) ==
        "[command line] expected a configuration key, got 'optimizer.learnin_rate'; did you mean "
        "'optimizer.learning_rate'?");
  CHECK(error_of({"qqqqqqqqqqqq=1"}) ==
        "[command line] expected a configuration key, got 'qqqqqqqqqqqq'; 'electra config list' "
        "shows them");
  CHECK(error_of_file("size: tiny\n\nbatch:\n  sequence: 3\n") ==
        "[my.yaml:4] expected a configuration key, got 'batch.sequence'; did you mean "
        "'batch.sequences'?");
}

TEST_CASE("impossible values are errors that name key, place, what was expected and what came") {
  CHECK(error_of({"train_steps=-3"}) ==
        "[command line] train_steps: expected an integer of at least 1, got '-3'");
  CHECK(error_of({"train_steps=1.5"}) ==
        "[command line] train_steps: expected an integer of at least 1, got '1.5'");
  CHECK(error_of({"train_steps="}) ==
        "[command line] train_steps: expected an integer of at least 1, got ''");
  CHECK(
      error_of({"train_steps=99999999999999999999"}) ==
      "[command line] train_steps: expected an integer of at least 1, got '99999999999999999999'");
  CHECK(error_of({"hidden_dropout=1"}) ==
        "[command line] hidden_dropout: expected a number in [0, 1), got '1'");
  CHECK(error_of({"mask_prob=0"}) ==
        "[command line] mask_prob: expected a number in (0, 1), got '0'");
  CHECK(error_of({"temperature=0"}) ==
        "[command line] temperature: expected a number above 0, got '0'");
  CHECK(error_of({"optimizer.learning_rate=nan"}) ==
        "[command line] optimizer.learning_rate: expected a number of at least 0, got 'nan'");
  CHECK(error_of({"optimizer.beta2=1/0"}) ==
        "[command line] optimizer.beta2: expected a number in [0, 1), got '1/0'");
  CHECK(error_of({"seq_len=4"}) ==
        "[command line] seq_len: expected an integer in [5, 65535], got '4'");
  CHECK(error_of({"seq_len=65536", "max_position_embeddings=65536"}) ==
        "[command line] seq_len: expected an integer in [5, 65535], got '65536'");
  CHECK(error_of_file("size: tiny\nseq_len: 4\n") ==
        "[my.yaml:2] seq_len: expected an integer in [5, 65535], got '4'");
  CHECK(error_of({"electra_objective=maybe"}) ==
        "[command line] electra_objective: expected true or false, got 'maybe'");
  CHECK(error_of({"recompute=all"}) ==
        "[command line] recompute: expected one of none, gelu, layers, got 'all'");
  CHECK(error_of({"compat=paper"}) ==
        "[command line] compat: expected one of fixed, google, got 'paper'");
  CHECK(error_of({"gemm=cublas"}) ==
        "[command line] gemm: expected one of auto, library, own, got 'cublas'");
  CHECK(error_of({"precision=fp16"}) ==
        "[command line] precision: expected one of auto, fp32, bf16, got 'fp16'");
  CHECK(error_of_file("size: huge\n") ==
        "[my.yaml:1] size: expected one of tiny, small, small++, base, large, custom, got 'huge'");
  CHECK(error_of({"seed"}) == "[command line] expected key=value, got 'seed'");
  CHECK(error_of({"=3"}) == "[command line] expected key=value, got '=3'");
}

TEST_CASE("values that do not go together are errors at the place of the offender") {
  CHECK(error_of({"seq_len=1024"}) ==
        "[command line] seq_len: expected at most max_position_embeddings (512), got 1024");
  CHECK(error_of({"seq_len=5"}) ==
        "[preset tiny:19] mask_prob: expected enough to mask one of 5 tokens, got 0.15");
  CHECK(error_of({"mask_prob=0.001"}) ==
        "[command line] mask_prob: expected enough to mask one of 64 tokens, got 0.001");
  CHECK(error_of({"num_heads=3"}) ==
        "[command line] num_heads: expected a divisor of hidden_size 128, got 3");
  CHECK(error_of({"batch.accumulate=3"}) ==
        "[command line] batch.accumulate: expected a divisor of batch.sequences 64, got 3");
  CHECK(error_of({"batch.tokens=100", "batch.accumulate=3"}) ==
        "[command line] batch.accumulate: expected a divisor of batch.tokens 100, got 3");
  CHECK(error_of({"batch.tokens=63"}) ==
        "[command line] batch.tokens: expected at least seq_len × batch.accumulate (64), got 63");
  CHECK(error_of({"batch.tokens=640", "batch.sequences=10"}) ==
        "[command line] batch.tokens: expected either batch.sequences or batch.tokens, got both");
  CHECK(error_of_file("size: tiny\nmax_position_embeddings: 32\n") ==
        "[preset tiny:18] seq_len: expected at most max_position_embeddings (32), got 64");
}

TEST_CASE("the shortest and the longest sequence are what examples can be made of") {
  CHECK(preset("tiny", {"seq_len=5", "mask_prob=0.2"}).seq_len == kMinSeqLen);
  CHECK(preset("tiny", {"seq_len=65535", "max_position_embeddings=65535"}).seq_len == kMaxSeqLen);
}

TEST_CASE("an objective that trains nothing is an error") {
  CHECK(error_of({"electra_objective=false", "uniform_generator=true"}) ==
        "[command line] uniform_generator: expected false with electra_objective: false, got true: "
        "nothing would be trained");
  CHECK(error_of_file("size: tiny\nelectra_objective: false\nuniform_generator: true\n") ==
        "[my.yaml:3] uniform_generator: expected false with electra_objective: false, got true: "
        "nothing would be trained");
  CHECK(error_of({"gen_weight=0", "disc_weight=0"}) ==
        "[command line] gen_weight: expected gen_weight or disc_weight above 0, got 0 for both: "
        "nothing would be trained");
  CHECK(error_of_file("size: tiny\ndisc_weight: 0\ngen_weight: 0.0\n") ==
        "[my.yaml:3] gen_weight: expected gen_weight or disc_weight above 0, got 0 for both: "
        "nothing would be trained");
  CHECK(error_of({"electra_objective=false", "gen_weight=0"}) ==
        "[command line] gen_weight: expected a number above 0 with electra_objective: false, got "
        "0: nothing would be trained");
  CHECK(error_of({"uniform_generator=true", "disc_weight=0"}) ==
        "[command line] disc_weight: expected a number above 0 with uniform_generator: true, got "
        "0: nothing would be trained");
  // One of the two is enough.
  for (const Overrides& overrides : {Overrides{"gen_weight=0"},
                                     {"disc_weight=0"},
                                     {"electra_objective=false", "disc_weight=0"},
                                     {"uniform_generator=true", "gen_weight=0"}})
    CHECK(error_of(overrides) == "no error");
}

TEST_CASE("dropout that would keep nothing is an error") {
  for (const std::string key : {"hidden_dropout", "attention_dropout"}) {
    const std::string expected = key + ": expected a dropout probability from 0 to 0.99999, got ";
    CHECK(error_of({key + "=0.999999"}) == "[command line] " + expected + "0.999999");
    CHECK(error_of_file("size: tiny\n\n" + key + ": 0.9999999999\n") == "[my.yaml:3] " + expected + "0.9999999999");
    CHECK(error_of({key + "=0.99999"}) == "no error");
  }
}

TEST_CASE("a generator that cannot be built names the nearest fraction that can") {
  CHECK(error_of({"generator.width_fraction=0.3"}, "base") ==
        "[command line] generator.width_fraction: expected a fraction of hidden_size 768 that "
        "max(1, width / 64) heads divide, got 0.3 "
        "(width 230, heads 3); the nearest valid fraction is 231/768");
  CHECK(preset("base", {"generator.width_fraction=231/768"}).model.generator.hidden_size == 231);
  CHECK(error_of({"generator.layers_fraction=0.1"}) ==
        "[command line] generator.layers_fraction: expected at least one layer of 2, got none from "
        "0.1; the nearest valid fraction is 1/2");
  CHECK(preset("tiny", {"generator.layers_fraction=1/2"}).model.generator.num_layers == 1);
}

TEST_CASE("halves are rounded to even, as Python does") {
  const EncoderConfig d{
      .hidden_size = 10, .num_layers = 5, .num_heads = 1, .intermediate_size = 40};
  CHECK(generator_of(d, 0.25, 0.5).hidden_size == 2);
  CHECK(generator_of(d, 0.35, 0.5).hidden_size == 4);
  CHECK(generator_of(d, 0.25, 0.5).num_layers == 2);
  CHECK(generator_of(d, 0.25, 0.7).num_layers == 4);
}

TEST_CASE("objectives without a generator of its own size take the discriminator's") {
  CHECK(preset("tiny", {"electra_objective=false"}).model.generator.hidden_size == 128);
  CHECK(preset("tiny", {"untied_generator=false"}).model.generator.hidden_size == 128);
  CHECK(preset("tiny", {"uniform_generator=true"}).model.generator.hidden_size == 64);
}

TEST_CASE("sizes that cannot be built are refused") {
  ElectraConfig good = preset("tiny").model;
  CHECK_NOTHROW(validate(good));
  ElectraConfig bad = good;
  bad.discriminator.num_heads = 3;
  CHECK_THROWS_WITH(validate(bad),
                    "[discriminator.num_heads] expected a divisor of hidden_size 128, got 3");
  bad = good;
  bad.generator.num_layers = 0;
  CHECK_THROWS_WITH(validate(bad), "[generator.num_layers] expected at least 1, got 0");
  bad = good;
  bad.temperature = 0;
  CHECK_THROWS_WITH(validate(bad), "[temperature] expected a finite number above 0, got 0");
  bad = good;
  bad.hidden_dropout = 1.5;
  CHECK_THROWS_WITH(validate(bad), "[hidden_dropout] expected a dropout probability from 0 to 0.99999, got 1.5");
}

TEST_CASE("batch.tokens and batch.sequences replace each other across layers") {
  const PretrainConfig tokens = preset("tiny", {"batch.tokens=8192", "batch.accumulate=2"});
  CHECK(tokens.batch.sequences == 0);
  CHECK(tokens.tokens_per_step() == 8192);
  CHECK(tokens.tokens_per_micro_batch() == 4096);
  CHECK(tokens.sequences_per_micro_batch() == 128);
  const PretrainConfig sequences = preset("tiny", {"batch.sequences=8", "batch.accumulate=4"});
  CHECK(sequences.batch.tokens == 0);
  CHECK(sequences.tokens_per_step() == 512);
  CHECK(sequences.sequences_per_micro_batch() == 2);
}

TEST_CASE("compat sets defaults only") {
  const PretrainConfig fixed = preset("small"), google = preset("small", {"compat=google"});
  CHECK_FALSE(fixed.masking.replacement);
  CHECK(google.masking.replacement);
  CHECK_FALSE(fixed.schedule.first_step_zero);
  CHECK(google.schedule.first_step_zero);
  CHECK(fixed.examples.overflow == Recipe::fixed);
  CHECK(google.examples.overflow == Recipe::google);
  CHECK(fixed.finetune.layer_decay == Recipe::fixed);
  CHECK(google.finetune.layer_decay == Recipe::google);
  CHECK_FALSE(fixed.metrics.auc_padding);
  CHECK(google.metrics.auc_padding);
  CHECK_FALSE(fixed.optimizer.bias_correction);
  CHECK_FALSE(google.optimizer.bias_correction);

  const ResolvedConfig mixed = load_config("tiny", {"compat=google", "masking.replacement=false"});
  CHECK_FALSE(mixed.config.masking.replacement);
  CHECK(mixed.config.optimizer.bias_correction);  // electra-tiny.yaml says so
  CHECK(mixed.origin("schedule.first_step_zero").text == "compat: google");
}

TEST_CASE("what departs from the original is listed with what the original does") {
  const auto lines = deviations(preset("tiny", {"examples.overflow=google"}));
  REQUIRE(lines.size() == 6);
  CHECK(lines[0] ==
        "masking.replacement: false (the original: true, masked positions are drawn with "
        "replacement)");
  CHECK(lines[2] ==
        "optimizer.bias_correction: true (the original: false, Adam's moments are not corrected "
        "for their start at zero)");
  CHECK(lines[3] == "examples.overflow: google (as the original)");
}

TEST_CASE("the resolved file gives the same configuration again") {
  const std::vector<std::pair<std::string, Overrides>> cases = {
      {"tiny", {"data=some dir/\"x\"", "run=r", "generator.width_fraction=1/2"}},
      {"base", {"compat=google", "optimizer.eps=1.2345678901234567e-7"}},
      {"small", {"batch.tokens=16384", "batch.accumulate=2", "recompute=layers"}},
  };
  for (const auto& [name, overrides] : cases) {
    const ResolvedConfig before = load_config(name, overrides);
    const ResolvedConfig after = parse_config(to_yaml(before), "config.resolved.yaml", {});
    CHECK_NOTHROW(check_resume(before.config, after));
    CHECK(after.config.run == before.config.run);
    CHECK(after.config.data == before.config.data);
    CHECK(config_hash(after.config) == config_hash(before.config));
    CHECK(after.config.train_steps == before.config.train_steps);
    CHECK(after.config.batch.sequences == before.config.batch.sequences);
    CHECK(after.config.model.generator.hidden_size == before.config.model.generator.hidden_size);
  }
  CHECK(to_yaml(load_config("tiny", {"seed=9"}))
            .find("\nseed: 9                                      # command line\n") !=
        std::string::npos);
}

TEST_CASE("what was found in the data replaces the preset's value and says so") {
  ResolvedConfig resolved = load_config("tiny", {});
  set_value(resolved, "vocab_size", "4096", "data");
  CHECK(resolved.config.model.vocab_size == 4096);
  CHECK(resolved.origin("vocab_size").text == "data");
  CHECK_THROWS_WITH(set_value(resolved, "vocab_size", "0", "data"),
                    "[data] vocab_size: expected an integer in [1, 16777216], got '0'");
}

TEST_CASE("paths are absolute once loaded") {
  CHECK(preset("tiny", {"data=a/../b/"}).data == (std::filesystem::current_path() / "b").string());
  CHECK(preset("tiny", {"data="}).data.empty());
}

TEST_CASE("questionable values are warnings") {
  CHECK(load_config("tiny", {"train_steps=5"}).warnings ==
        std::vector<std::string>{
            "warmup_steps (1000) exceeds train_steps (5): the learning rate never reaches 0.0015"});
  const auto warnings = [](const std::string& option) {
    return load_config("tiny", {"untied_generator_embeddings=true", option}).warnings;
  };
  for (const std::string option :
       {"untied_generator: false", "electra_objective: false", "uniform_generator: true"}) {
    std::string override = option;
    override.replace(override.find(": "), 2, "=");
    CHECK(warnings(override) ==
          std::vector<std::string>{"untied_generator_embeddings has no effect with " + option +
                                   ": there is no generator of its own"});
  }
  CHECK(warnings("untied_generator=true").empty());
  CHECK(load_config("base", {"optimizer.learning_rate=5e-4"}).warnings ==
        std::vector<std::string>{"optimizer.learning_rate 0.0005 is above 0.0002, that of size "
                                 "base: training may diverge"});
}

TEST_CASE("a file without a size must give everything that has no default") {
  CHECK(error_of_file("train_steps: 5\n") ==
        "[my.yaml] vocab_size: expected a value, got none; 'size: small' would take it from a "
        "preset");
  std::string yaml = presets()[0].text;
  yaml.replace(yaml.find("size: tiny"), 10, "size: custom");
  const ResolvedConfig custom = parse_config(yaml, "my.yaml", {});
  CHECK(custom.config.size == "custom");
  CHECK(custom.origin("seq_len").text == "my.yaml:18");
  yaml.erase(yaml.find("  sequences: 64\n"), 16);
  yaml.erase(yaml.find("batch:\n"), 7);
  CHECK(error_of_file(yaml) ==
        "[my.yaml] batch.sequences: expected a value, got none; 'size: small' would take it from a "
        "preset");
}

TEST_CASE("only run, log, checkpoint and total-step keys may change on resume") {
  std::set<std::string> may_change;
  for (const KeyInfo& key : config_keys())
    if (key.may_change_on_resume) may_change.insert(key.name);
  CHECK(may_change == std::set<std::string>{"run", "train_steps", "log_steps", "eval_steps",
                                            "eval.batches", "checkpoint_steps", "checkpoint.keep",
                                            "checkpoint.keep_best"});

  const PretrainConfig before = preset("tiny");
  CHECK_NOTHROW(check_resume(before, load_config("tiny", {"train_steps=20000", "log_steps=1",
                                                          "run=elsewhere", "checkpoint.keep=9"})));
  CHECK_THROWS_WITH(check_resume(before, load_config("tiny", {"optimizer.learning_rate=1e-3"})),
                    "[command line] optimizer.learning_rate: expected 0.0015 as the run began, got "
                    "0.001; a resumed run cannot change it: "
                    "start a new run with --init-from to take the weights along");
  CHECK_THROWS_WITH(check_resume(before, load_config("tiny", {"batch.tokens=4096"})),
                    "[command line] batch.sequences: expected 64 as the run began, got no value; a "
                    "resumed run cannot change it: "
                    "start a new run with --init-from to take the weights along");
  CHECK(config_hash(before) == config_hash(preset("tiny", {"train_steps=20000"})));
  CHECK(config_hash(before) != config_hash(preset("tiny", {"seed=1"})));
}

TEST_CASE("every key is documented, named once, and its default is what it says") {
  std::set<std::string> names;
  for (const KeyInfo& key : config_keys()) {
    INFO(key.name);
    CHECK(names.insert(key.name).second);
    CHECK(key.doc.size() > 10);
    CHECK(key.expected.size() > 3);
  }
  CHECK(names.size() >= 50);
}

TEST_CASE("docs/configuration.md says of every key what the program says") {
  const std::string docs =
      test::read_file(std::string(ELECTRA_SOURCE_DIR) + "/docs/configuration.md");
  for (const KeyInfo& key : config_keys()) {
    const bool from_preset = key.fallback == "-";
    const std::string row = "| `" + key.name + "`" + (key.may_change_on_resume ? "\\*" : "") +
                            " | " + key.doc + " | " + key.expected + " | " +
                            (from_preset ? "preset" : key.fallback) + " |\n";
    INFO(row);
    CHECK(docs.find(row) != std::string::npos);
  }
}

TEST_CASE("data names one directory or several, with a weight for each") {
  const std::string here = std::filesystem::current_path().string();
  CHECK(preset("tiny", {"data=a"}).data == here + "/a");
  CHECK(preset("tiny", {"data=a/,../b"}).data ==
        here + "/a," + std::filesystem::path(here).parent_path().string() + "/b");
  CHECK(preset("tiny", {"data=a,b"}).weights().empty());
  CHECK(preset("tiny", {"data=a,b", "data_weights=1/4,3"}).weights() ==
        std::vector<double>{0.25, 3});
  CHECK(preset("tiny", {"data_weights=1,3"}).weights().size() == 2);  // data comes later
  const std::string values = "expected size, or numbers above 0 separated by commas, got '";
  for (const std::string bad : {"", "1,", "0,1", "1,-1", "a", "1,inf", "1;2"})
    CHECK(error_of({"data_weights=" + bad}) == "[command line] data_weights: " + values + bad + "'");
  CHECK(error_of({"data=a,b", "data_weights=1"}) ==
        "[command line] data_weights: expected 2 weights, one for each directory of data, got 1");
  CHECK(error_of({"data=a", "data_weights=1,2"}) ==
        "[command line] data_weights: expected 1 weight, one for each directory of data, got 2");
  CHECK(error_of({"data=a,,b"}) ==
        "[command line] data: expected a path, or several separated by commas, got 'a,,b'");
  // What is written is read again as it was.
  const ResolvedConfig r = load_config("tiny", {"data=a,b", "data_weights=1,3"});
  const ResolvedConfig again = parse_config(to_yaml(r), "again", {});
  CHECK(again.config.data == r.config.data);
  CHECK(again.config.data_weights == "1,3");
}

TEST_CASE("words and spans are masked without replacement") {
  CHECK(preset("tiny").masking.unit == MaskUnit::token);
  CHECK(preset("tiny", {"masking.unit=word"}).masking.unit == MaskUnit::word);
  CHECK(preset("tiny", {"masking.unit=span", "masking.span_words=4.5"}).masking.span_words == 4.5);
  CHECK(error_of({"masking.unit=words"}) ==
        "[command line] masking.unit: expected one of token, word, span, got 'words'");
  CHECK(error_of({"masking.span_words=0.9"}) ==
        "[command line] masking.span_words: expected a number in [1, 1000], got '0.9'");
  CHECK(error_of({"masking.unit=span", "compat=google"}) ==
        "[command line] masking.unit: expected token with masking.replacement: true, got span");
  CHECK(preset("tiny", {"masking.unit=word", "compat=google", "masking.replacement=false"}).masking.unit == MaskUnit::word);
}

TEST_CASE("a schedule of lengths comes before seq_len") {
  using Phases = std::vector<LengthPhase>;
  constexpr int64_t kEnd = std::numeric_limits<int64_t>::max();
  CHECK(preset("tiny").phases() == Phases{{0, kEnd, 64}});
  const PretrainConfig c =
      preset("tiny", {"seq_len=512", "max_position_embeddings=512", "schedule.lengths=32:100,128:50"});
  CHECK(c.phases() == Phases{{0, 100, 32}, {100, 150, 128}, {150, kEnd, 512}});
  CHECK(c.phase_at(0).seq_len == 32);
  CHECK(c.phase_at(99).seq_len == 32);
  CHECK(c.phase_at(100).seq_len == 128);
  CHECK(c.phase_at(149).seq_len == 128);
  CHECK(c.phase_at(150).seq_len == 512);
  const std::string values = "expected none, or length:steps separated by commas, lengths in [5, 65535], got '";
  for (const std::string bad : {"", "128", "128:", ":9", "4:10", "65536:10", "32:0", "32:-1", "32:10,", "32:10:4", "32.5:10", "32:99999999999999999999"})
    CHECK(error_of({"schedule.lengths=" + bad}) == "[command line] schedule.lengths: " + values + bad + "'");
  CHECK(error_of({"max_position_embeddings=64", "schedule.lengths=128:10"}) ==
        "[command line] schedule.lengths: expected lengths of at most max_position_embeddings (64), got 128");
  CHECK(error_of({"schedule.lengths=5:10", "mask_prob=0.15"}) ==
        "[command line] mask_prob: expected enough to mask one of 5 tokens, got 0.15");
  CHECK(error_of({"batch.tokens=64", "schedule.lengths=128:10"}) ==
        "[command line] batch.tokens: expected at least 128 × batch.accumulate (128), the longest of schedule.lengths, got 64");
  const ResolvedConfig never = load_config("tiny", {"schedule.lengths=32:100", "train_steps=100", "warmup_steps=1"});
  REQUIRE(never.warnings.size() == 1);
  CHECK(never.warnings[0] == "schedule.lengths takes 100 steps and the run train_steps (100): it never comes to seq_len (64)");
  CHECK(load_config("tiny", {"schedule.lengths=32:100", "train_steps=101", "warmup_steps=1"}).warnings.empty());
  CHECK(parse_config(to_yaml(never), "again", {}).config.schedule.lengths == "32:100");
}

TEST_CASE("files that are no configuration") {
  CHECK(error_of_file("- a\n- b\n") ==
        "[my.yaml:1] expected 'key: value' lines, got something else");
  CHECK(error_of_file("size: tiny\nseed: [1, 2]\n") ==
        "[my.yaml:2] seed: expected one value, got a list");
  CHECK(error_of_file("size: tiny\nseed:\n") == "[my.yaml:2] seed: expected a value, got none");
  CHECK(error_of_file("size: tiny\nseed: 1\nseed: 2\n") ==
        "[my.yaml:3] seed: expected each key once, got it in line 2 too");
  CHECK(error_of_file("size: tiny\n seed: 1\n").starts_with("[my.yaml:2] expected YAML, got '"));
  CHECK(error_of_file("size: \"tiny\n").starts_with("[my.yaml:"));
  CHECK(error_of_file(std::string("\x00\x01\x02", 3)).starts_with("[my.yaml"));
  CHECK(error_of_file("") ==
        "[my.yaml] vocab_size: expected a value, got none; 'size: small' would take it from a "
        "preset");
}

TEST_CASE("a file that does not exist is no configuration error") {
  CHECK_THROWS_AS(load_config("none.yaml", {}), IoError);
  CHECK_THROWS_WITH(
      load_config("none.yaml", {}),
      "[configuration] expected a file or a preset (tiny, small, small++, base, large), got "
      "'none.yaml' (No such file or directory)");
  const test::TemporaryDirectory directory;
  CHECK_THROWS_WITH(
      load_config(directory.path(), {}),
      "[configuration] expected a file or a preset, got the directory '" + directory.path() + "'");
}

TEST_CASE("a file is read with its lines") {
  const test::TemporaryDirectory directory;
  test::write_file(directory / "c.yaml", "size: tiny\nseed: 7\n");
  const ResolvedConfig r = load_config(directory / "c.yaml", {});
  CHECK(r.config.seed == 7);
  CHECK(r.origin("seed").text == (directory / "c.yaml") + ":2");
}

TEST_CASE("YAML is flattened to dotted keys, quoted or not") {
  const auto entries = read_yaml("a: 1\nb:\n  c: 'x y'\n  d: \"z\"\ne.f: 2\n", "t");
  REQUIRE(entries.size() == 4);
  CHECK(entries[1].key == "b.c");
  CHECK(entries[1].value == "x y");
  CHECK(entries[1].line == 3);
  CHECK(entries[3].key == "e.f");
}

TEST_CASE("edit distance counts insertions, deletions, substitutions and swaps") {
  CHECK(edit_distance("", "abc") == 3);
  CHECK(edit_distance("abc", "abc") == 0);
  CHECK(edit_distance("abc", "axc") == 1);
  CHECK(edit_distance("abc", "acb") == 1);
  CHECK(edit_distance("kitten", "sitting") == 3);
  CHECK(edit_distance("xxabc", "abc") == 2);
  CHECK(nearest("seqlen", {"seed", "seq_len"}) == "seq_len");
  CHECK(nearest("zzzzzz", {"seed", "seq_len"}).empty());
}
