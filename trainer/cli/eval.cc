// electra eval
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "trainer/cli/cli.h"
#include "trainer/data/data_sets.h"
#include "trainer/data/loader.h"
#include "trainer/evaluate.h"
#include "trainer/pretrain_setup.h"
#include "trainer/trained_model.h"

namespace electra::cli {
namespace {

int eval(const std::string& path, const std::vector<std::string>& overrides, bool as_json, const Invocation& invocation) {
  // Weights are of training: evaluation sees all there is.
  std::vector<std::string> settings = overrides;
  settings.push_back("data_weights=size");
  const TrainedModel model(path, settings);
  const PretrainConfig& config = model.config();
  if (config.data.empty()) throw ConfigError("data", "expected data=DIR, a directory made by 'electra data build', got none");
  const DataSets data(data_directories(config.data));
  const SpecialIds special = data.first().special();
  check_vocabulary(data.first(), model.tokenizer().vocabulary());
  const auto heldout = example_indices(data, Side::heldout, example_options(config));
  ThreadPool pool(thread_count(invocation));
  const Device device(device_kind(invocation), pool);
  const Stream stream = device.stream();
  use_gemm(config.gemm, stream.backend());
  Evaluator evaluator(config.model, micro_batch_shape(config), graph_options(config, special, false, stream, &data.first().vocabulary()),
                      static_cast<uint64_t>(config.seed), stream, nullptr);
  model.load_weights(*evaluator.program().store());
  const std::vector<PackedBatch> batches = fixed_batches(views(heldout), micro_batch_shape(config), 0);
  size_t i = 0;
  const Metrics m = evaluator.run(
      [&](HostBatch& batch) {
        if (i == batches.size()) return false;
        batch = batches[i++].view();
        return true;
      },
      config.metrics.auc_padding);
  const double entropy = data.heldout_unigram_entropy();
  nlohmann::ordered_json json = {{"step", model.checkpoint().state().step}};
  for (const auto& [name, value] : named(m)) json[std::string(name)] = value;
  json["unigram_entropy"] = entropy;
  json["heldout_tokens"] = data.heldout_tokens();
  if (as_json) {
    fmt::print("{}\n", json.dump());
    return 0;
  }
  fmt::print("{} on {} held-out pieces\n", model.checkpoint().path().string(), data.heldout_tokens());
  for (const auto& [name, value] : named(m)) fmt::print("  {:<28}{:.4f}\n", name, value);
  fmt::print("  {:<28}{:.4f}   (masked_lm_loss of a model that knows word frequencies alone)\n", "unigram_entropy", entropy);
  return 0;
}

}  // namespace

void register_eval(CLI::App& root, Invocation& invocation) {
  struct Arguments {
    std::string path;
    std::vector<std::string> overrides;
    bool json = false;
  };
  const auto args = std::make_shared<Arguments>();
  CLI::App* command = add_command(root, "eval", "metrics of a run or checkpoint on the held-out text", "electra eval runs/first --json", invocation);
  command->add_option("model", args->path, "a run or a checkpoint")->required()->option_text("RUN|CHECKPOINT");
  command->add_option("overrides", args->overrides, "data=DIR, where it is not the run's")->option_text("KEY=VALUE…");
  command->add_flag("--json", args->json, "one JSON object");
  command->callback([args, &invocation] {
    invocation.action = [args, &invocation] { return eval(args->path, args->overrides, args->json, invocation); };
  });
}

}  // namespace electra::cli
