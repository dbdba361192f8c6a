#include "trainer/cli/cli.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <new>
#include <sstream>
#include <system_error>
#include <utility>

#include "kernels/core/error.h"
#include "kernels/core/thread_pool.h"
#include "trainer/log.h"
#include "trainer/nearest.h"

namespace electra::cli {
namespace {

constexpr int kMaxThreads = 1024;

std::string example_footer(const std::string& example) {
  std::istringstream lines(example);
  std::string footer = "Example:";
  for (std::string line; std::getline(lines, line);) footer += "\n  $ " + line;
  return footer;
}

// The innermost subcommand that was named, and how to call it: "electra vocab train".
struct Chosen {
  CLI::App* app;
  std::string path;
};

Chosen chosen(CLI::App& root) {
  Chosen c{&root, root.get_name()};
  while (!c.app->get_subcommands().empty()) {
    c.app = c.app->get_subcommands().front();
    c.path += " " + c.app->get_name();
  }
  return c;
}

std::vector<std::string> names_of_subcommands(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; }))
    names.push_back(sub->get_name());
  return names;
}

std::vector<std::string> names_of_options(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  return names;
}

std::string did_you_mean(const std::string& got, const std::vector<std::string>& names) {
  const std::string near = nearest(got, names);
  return near.empty() ? "" : fmt::format("; did you mean '{}'?", near);
}

// CLI11 says what it missed in prose of its own; this is the same in ours: [where] expected …, got
// ….
ConfigError usage_error(CLI::App& root, const CLI::ParseError& error) {
  const auto [app, path] = chosen(root);
  const std::vector<std::string> rest = root.remaining(true);
  const auto option = std::find_if(
      rest.begin(), rest.end(), [](const std::string& s) { return s.size() > 1 && s[0] == '-'; });
  const std::vector<std::string> commands = names_of_subcommands(*app);
  if (!commands.empty()) {
    const std::string expected =
        fmt::format("expected a command of '{}' ({})", path, fmt::join(commands, ", "));
    if (rest.empty()) return ConfigError("command line", expected + ", got none");
    const bool is_option = option == rest.begin();
    return ConfigError(
        "command line",
        fmt::format("{}, got '{}'{}", expected, rest[0],
                    did_you_mean(rest[0], is_option ? names_of_options(*app) : commands)));
  }
  if (option != rest.end())
    return ConfigError("command line",
                       fmt::format("expected an option of '{}' (see '{} --help'), got '{}'{}", path,
                                   path, *option, did_you_mean(*option, names_of_options(*app))));
  if (!rest.empty())
    return ConfigError(
        "command line",
        fmt::format("expected no more arguments for '{}' (see '{} --help'), got '{}'", path, path,
                    rest[0]));
  // "--out is required", "--size: Could not convert: --size = x": the option, then what is wrong
  // with it.
  const std::string what = error.what();
  const std::string subject = what.substr(0, what.find_first_of(": ")),
                    detail = what.substr(std::min(what.size(), subject.size() + 2));
  if (dynamic_cast<const CLI::RequiredError*>(&error))
    return ConfigError("command line",
                       fmt::format("expected {} (see '{} --help'), got none", subject, path));
  if (dynamic_cast<const CLI::ArgumentMismatch*>(&error))
    return ConfigError(
        "command line",
        fmt::format("expected a value for {} (see '{} --help'), got {}", subject, path,
                    detail.ends_with(" missing") ? "none" : "'" + detail + "'"));
  return ConfigError("command line", fmt::format("expected a valid {} (see '{} --help'), got '{}'",
                                                 subject, path, detail));
}

int report(std::string_view message, int status) {
  std::string line(message);
  std::replace(line.begin(), line.end(), '\n', ' ');
  fmt::print(stderr, "electra: error: {}\n", line);
  return status;
}

// A full disk behind standard output shows only when the buffer is written.
void flush_standard_output() {
  if (std::fflush(stdout) != 0 || std::ferror(stdout))
    throw IoError("standard output",
                  fmt::format("expected no failure, got '{}'", std::strerror(errno)));
}

int parse_and_act(CLI::App& root, Invocation& invocation, int argc, const char* const* argv) {
  try {
    root.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    const std::string help = root.help();
    fmt::print("{}{}", help, help.ends_with('\n') ? "" : "\n");
    return 0;
  } catch (const CLI::CallForVersion& version) {
    fmt::print("{}\n", version.what());
    return 0;
  } catch (const CLI::ParseError& error) { throw usage_error(root, error); }
  if (!invocation.action) throw usage_error(root, CLI::RequiredError("a command"));
  log::set_level(invocation.quiet && invocation.log_level != "error" ? "warning"
                                                                     : invocation.log_level);
  device_kind(invocation);  // a device that cannot be had is an error of every command
  return invocation.action();
}

}  // namespace

DeviceChoice device_choice(const Invocation& invocation) {
  const std::string& requested = invocation.device;
  const std::string reason = requested == "cpu" ? "" : why_unusable(requested == "simt" ? DeviceKind::simt : DeviceKind::cuda);
  const DeviceChoice choice = choose_device(requested, kGpuBuild, reason);
  static bool warned = false;
  if (choice.fell_back && !std::exchange(warned, true)) log::warning(fmt::format("[device] the CPU is used: {}", reason));
  return choice;
}

DeviceKind device_kind(const Invocation& invocation) { return device_choice(invocation).kind; }

CLI::App* add_group(CLI::App& parent, const std::string& name, const std::string& description,
                    const std::string& example) {
  CLI::App* group = parent.add_subcommand(name, description);
  group->footer(example_footer(example));
  group->require_subcommand(1);
  return group;
}

void add_common_options(CLI::App& app, Invocation& invocation) {
  const char* const group = "Options of every command";
  app.add_option("--device", invocation.device, "where to compute: auto, cpu, simt or cuda")
      ->check(CLI::IsMember({"auto", "cpu", "simt", "cuda"}))
      ->option_text("NAME")
      ->group(group);
  app.add_option("--threads", invocation.threads, "threads; 0: every core the process may use")
      ->check(CLI::Range(0, kMaxThreads))
      ->option_text("N")
      ->group(group);
  app.add_flag("--quiet", invocation.quiet, "no progress, only warnings and errors")->group(group);
  app.add_option("--log-level", invocation.log_level, "debug, info, warning or error")
      ->check(CLI::IsMember({"debug", "info", "warning", "error"}))
      ->option_text("LEVEL")
      ->group(group);
}

CLI::App* add_command(CLI::App& parent, const std::string& name, const std::string& description,
                      const std::string& example, Invocation& invocation) {
  CLI::App* command = parent.add_subcommand(name, description);
  command->footer(example_footer(example));
  add_common_options(*command, invocation);
  return command;
}

int thread_count(const Invocation& invocation) {
  return invocation.threads > 0 ? invocation.threads : available_cores();
}

int run(CLI::App& root, Invocation& invocation, int argc, const char* const* argv) {
  try {
    const int status = parse_and_act(root, invocation, argc, argv);
    flush_standard_output();
    return status;
  } catch (const ConfigError& error) {
    return report(error.what(), 2);
  } catch (const Error& error) { return report(error.what(), 1); } catch (const std::bad_alloc&) {
    return report("[memory] expected enough memory for this command, got none from the system", 1);
  } catch (const std::filesystem::filesystem_error& error) {
    return report(fmt::format("[{}] expected no failure, got '{}'", error.path1().string(),
                              error.code().message()),
                  1);
  } catch (const std::system_error& error) {
    const char* const where = std::ferror(stdout) ? "standard output" : "system";
    return report(fmt::format("[{}] expected no failure, got '{}'", where, error.code().message()),
                  1);
  } catch (const std::exception& error) {
    return report(fmt::format("[{}] expected no failure, got '{}'", root.get_name(), error.what()),
                  1);
  }
}

}  // namespace electra::cli
