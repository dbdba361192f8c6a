// The command line: one register_… function for each group of subcommands, each in its own file.
//
// Exit status: what the action returns; 1 for an Error; 2 for a ConfigError and for a line that
// cannot be parsed. A path that does not exist is 1, so options must not use CLI11's path
// validators: open the file and throw IoError.
#pragma once
#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "trainer/device_info.h"

namespace electra::cli {

// What every command understands, and what the chosen one will do once the whole line has been
// parsed.
struct Invocation {
  std::string device = "auto";  // auto | cpu | simt | cuda
  int threads = 0;              // 0: all cores the process may use
  bool quiet = false;
  std::string log_level = "info";
  std::function<int()> action;  // returns the exit status; throws Error
};

// --device, --threads, --quiet, --log-level: on every command and before it.
void add_common_options(CLI::App& app, Invocation& invocation);
// Adds a subcommand with the options every command has and a footer "Example:" with each line of
// example after "  $ ". A command's callback stores what it will do in invocation.action.
CLI::App* add_command(CLI::App& parent, const std::string& name, const std::string& description,
                      const std::string& example, Invocation& invocation);
// Adds a subcommand that only holds others ("vocab"), of which exactly one must be named.
CLI::App* add_group(CLI::App& parent, const std::string& name, const std::string& description,
                    const std::string& example);

// Parses the line, runs the action, and turns whatever was thrown into the exit status and one line
// on standard error.
int run(CLI::App& root, Invocation& invocation, int argc, const char* const* argv);
// Where a command computes and why: --device; auto is a GPU where this build and machine have one. Throws DeviceError with the reason where
// it cannot be used.
DeviceChoice device_choice(const Invocation& invocation);
DeviceKind device_kind(const Invocation& invocation);
// Threads a command uses: --threads, or every core the process may use.
int thread_count(const Invocation& invocation);

void register_info(CLI::App& root, Invocation& invocation);
void register_config(CLI::App& root, Invocation& invocation);
void register_vocab(CLI::App& root, Invocation& invocation);
void register_tokenize(CLI::App& root, Invocation& invocation);
void register_data(CLI::App& root, Invocation& invocation);
void register_plan(CLI::App& root, Invocation& invocation);
void register_pretrain(CLI::App& root, Invocation& invocation);
void register_eval(CLI::App& root, Invocation& invocation);
void register_probe(CLI::App& root, Invocation& invocation);
void register_check(CLI::App& root, Invocation& invocation);

}  // namespace electra::cli
