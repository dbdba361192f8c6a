// electra pretrain
#include "trainer/pretrain.h"

#include <filesystem>

#include "kernels/core/error.h"
#include "trainer/cli/cli.h"
#include "trainer/run_directory.h"

namespace electra::cli {
namespace {

struct Arguments {
  std::string config, resume, init_from;
  std::vector<std::string> overrides;
  int64_t overfit = 0;
  bool synthetic = false;
};

int run(Arguments args, const Invocation& invocation) {
  if (args.synthetic && args.overfit > 0) throw ConfigError("command line", "expected --overfit or --synthetic, got both");
  PretrainRequest request;
  request.init_from = args.init_from;
  request.overfit = args.overfit;
  request.synthetic = args.synthetic;
  request.threads = thread_count(invocation);
  request.device = device_choice(invocation);
  request.quiet = invocation.quiet;
  if (args.resume.empty()) {
    if (args.config.empty()) throw ConfigError("command line", "expected a configuration, or --resume RUN, got neither");
    request.config = load_config(args.config, args.overrides);
    return pretrain(std::move(request));
  }
  // With --resume the first positional argument is an override, too.
  if (!args.config.empty()) args.overrides.insert(args.overrides.begin(), args.config);
  if (!args.init_from.empty()) throw ConfigError("command line", "expected --resume or --init-from, got both");
  RunDirectory::check(args.resume);
  const std::string saved = args.resume + "/config.resolved.yaml";
  const PretrainConfig before = load_config(saved, {}).config;
  request.config = load_config(saved, args.overrides);
  check_resume(before, request.config);
  if (request.config.config.run != before.run)
    throw ConfigError("run", "expected no run= beside --resume, which names the run, got '" + request.config.config.run + "'");
  // The run is where it stands now: it may have been moved or copied since it began.
  request.config.config.run = std::filesystem::weakly_canonical(args.resume).string();
  request.resume = true;
  return pretrain(std::move(request));
}

}  // namespace

void register_pretrain(CLI::App& root, Invocation& invocation) {
  const auto args = std::make_shared<Arguments>();
  CLI::App* command = add_command(root, "pretrain", "train generator and discriminator together",
                                  "electra pretrain tiny data=data run=runs/first train_steps=2000\nelectra pretrain --resume runs/first", invocation);
  command->add_option("config", args->config, "a YAML file or a preset (see 'electra config list')")->option_text("CONFIG");
  command->add_option("overrides", args->overrides, "key=value, wins over the file; data=DIR and run=DIR are needed")->option_text("KEY=VALUE…");
  command->add_option("--resume", args->resume, "continue this run, bit for bit")->option_text("RUN");
  command->add_option("--init-from", args->init_from, "take the weights, and nothing else, from a run or checkpoint")->option_text("SRC");
  command->add_option("--overfit", args->overfit, "train on the first N steps' batches again and again")->check(CLI::Range(int64_t{0}, int64_t{1} << 24))->option_text("N");
  command->add_flag("--synthetic", args->synthetic, "made-up batches instead of data: for timing");
  command->callback([args, &invocation] { invocation.action = [args, &invocation] { return run(*args, invocation); }; });
}

}  // namespace electra::cli
