// electra probe
#include "trainer/probe.h"

#include <fmt/format.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "trainer/cli/cli.h"
#include "trainer/pretrain_setup.h"
#include "trainer/terminal.h"

namespace electra::cli {
namespace {

struct Arguments {
  std::string model, text;
  bool json = false, corrupt = false;
  int64_t seed = 0;
};

// From green (original) over yellow to red (replaced), in the 256-colour cube.
std::string paint(const std::string& token, double p, bool colour) {
  if (!colour) return token;
  const int step = std::min(5, static_cast<int>(p * 6));
  const int code = 16 + 36 * step + 6 * (5 - step);
  return fmt::format("\x1b[38;5;{}m{}\x1b[0m", code, token);
}

int run(const Arguments& args, const Invocation& invocation) {
  const TrainedModel model(args.model);
  ThreadPool pool(thread_count(invocation));
  const Device device(device_kind(invocation), pool);
  use_gemm(model.config().gemm, device.stream().backend());
  const Probe p = args.corrupt ? probe_corrupted(model, args.text, static_cast<uint64_t>(args.seed), device.stream()) : probe(model, args.text, device.stream());
  if (args.json) {
    nlohmann::ordered_json json = {{"tokens", p.tokens}, {"replaced_probability", p.replaced_probability}};
    if (args.corrupt) {
      json["original"] = p.original;
      json["masked"] = p.masked;
      json["sampled"] = p.sampled;
      json["replaced"] = p.replaced;
    }
    fmt::print("{}\n", json.dump());
    return 0;
  }
  const bool colour = colours_allowed(STDOUT_FILENO);
  for (size_t i = 0; i < p.tokens.size(); ++i) {
    const double chance = p.replaced_probability[i];
    fmt::print("{:>6.1f} %  {}", 100 * chance, paint(p.tokens[i], chance, colour));
    if (args.corrupt && p.replaced[i]) fmt::print("   <- was {}{}", p.original[i], chance > 0.5 ? ", caught" : "");
    else if (args.corrupt && p.masked[i] != p.original[i]) fmt::print("   (masked, the generator found it)");
    fmt::print("\n");
  }
  return 0;
}

}  // namespace

void register_probe(CLI::App& root, Invocation& invocation) {
  const auto args = std::make_shared<Arguments>();
  CLI::App* command = add_command(root, "probe", "how likely each word of a text is a replaced one", "electra probe runs/first \"The cat sat on the mat.\" --corrupt", invocation);
  command->add_option("model", args->model, "a run or a checkpoint")->required()->option_text("RUN|CHECKPOINT");
  command->add_option("text", args->text, "the text, in quotes")->required()->option_text("TEXT");
  command->add_flag("--json", args->json, "one JSON object");
  command->add_flag("--corrupt", args->corrupt, "mask the text, let the generator fill in, and see what the discriminator catches");
  command->add_option("--seed", args->seed, "of masks and samples")->check(CLI::Range(int64_t{0}, int64_t{1} << 53))->capture_default_str()->option_text("N");
  command->callback([args, &invocation] { invocation.action = [args, &invocation] { return run(*args, invocation); }; });
}

}  // namespace electra::cli
