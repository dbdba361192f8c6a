// The command line: one register_… function for each group of subcommands, each in its own file.
#pragma once
#include <CLI/CLI.hpp>
#include <functional>
#include <string>

namespace electra::cli {

// What every command understands, and what the chosen one will do once the whole line has been parsed.
struct Invocation {
  std::string device = "auto";  // auto | cpu | simt | cuda
  int threads = 0;              // 0: all cores the process may use
  bool quiet = false;
  std::string log_level = "info";
  std::function<int()> action;  // returns the exit status; throws Error
};

// Adds a subcommand with the options every command has and a footer "Example:\n  " + example. A command's callback
// stores what it will do in invocation.action.
CLI::App* add_command(CLI::App& parent, const std::string& name, const std::string& description, const std::string& example,
                      Invocation& invocation);

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
