// electra: the program.
#include "trainer/build_info.h"
#include "trainer/cli/cli.h"

int main(int argc, char** argv) {
  using namespace electra;
  CLI::App root("Trains ELECTRA from raw text: vocabulary, data, pre-training, evaluation.",
                "electra");
  cli::Invocation invocation;
  const BuildInfo build = build_info();
  root.set_version_flag("--version", "electra " + build.version + " (" + build.commit + ")",
                        "print the version and exit");
  root.footer(
      "Example:\n  $ electra pretrain tiny data=DIR run=RUN\n'electra COMMAND --help' explains a "
      "command.");
  root.require_subcommand(1);
  cli::add_common_options(root, invocation);
  cli::register_info(root, invocation);
  cli::register_config(root, invocation);
  cli::register_vocab(root, invocation);
  cli::register_tokenize(root, invocation);
  cli::register_data(root, invocation);
  cli::register_plan(root, invocation);
  cli::register_pretrain(root, invocation);
  cli::register_eval(root, invocation);
  cli::register_probe(root, invocation);
  cli::register_check(root, invocation);
  return cli::run(root, invocation, argc, argv);
}
