// electra config: what a configuration means, whether it is valid, which presets and keys there
// are.
#include <fmt/format.h>

#include <memory>

#include "trainer/cli/cli.h"
#include "trainer/config.h"
#include "trainer/log.h"

namespace electra::cli {
namespace {

struct Arguments {
  std::string source;
  std::vector<std::string> overrides;
};

ResolvedConfig load(const Arguments& arguments) {
  ResolvedConfig resolved = load_config(arguments.source, arguments.overrides);
  for (const std::string& warning : resolved.warnings) log::warning(warning);
  return resolved;
}

int show(const Arguments& arguments) {
  fmt::print("{}", to_yaml(load(arguments)));
  return 0;
}

int check(const Arguments& arguments) {
  const ResolvedConfig resolved = load(arguments);
  fmt::print("{}: valid\n", arguments.source);
  for (const std::string& deviation : deviations(resolved.config)) fmt::print("  {}\n", deviation);
  return 0;
}

int list() {
  fmt::print("Presets\n");
  for (const Preset& preset : presets()) fmt::print("  {:<8} {}\n", preset.name, preset.summary);
  fmt::print("\nKeys (* may change when a run is resumed)\n");
  for (const KeyInfo& key : config_keys())
    fmt::print("{} {:<28} {}\n{:<31} {}; default: {}\n", key.may_change_on_resume ? '*' : ' ',
               key.name, key.doc, "", key.expected,
               key.fallback == "-" ? "none, a preset gives it" : key.fallback);
  return 0;
}

void add(CLI::App& group, const std::string& name, const std::string& description,
         const std::string& example, int (*action)(const Arguments&), Invocation& invocation) {
  CLI::App* command = add_command(group, name, description, example, invocation);
  const auto arguments = std::make_shared<Arguments>();
  command->add_option("CONFIG", arguments->source, "a YAML file or the name of a preset")
      ->required()
      ->option_text(" ");
  command->add_option("KEY=VALUE", arguments->overrides, "settings that win over the file")
      ->option_text(" ");
  command->callback(
      [&invocation, arguments, action] { invocation.action = [=] { return action(*arguments); }; });
}

}  // namespace

void register_config(CLI::App& root, Invocation& invocation) {
  CLI::App* group = add_group(root, "config", "show, check and list configurations",
                              "electra config show tiny seq_len=128");
  add(*group, "show", "print every key with its value and where it comes from",
      "electra config show tiny optimizer.learning_rate=1e-3", show, invocation);
  add(*group, "check", "say whether a configuration is valid",
      "electra config check my.yaml train_steps=1000", check, invocation);
  CLI::App* listing = add_command(*group, "list", "list the presets and every key",
                                  "electra config list", invocation);
  listing->callback([&invocation] { invocation.action = list; });
}

}  // namespace electra::cli
