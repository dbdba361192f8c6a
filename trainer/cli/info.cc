// electra info: the device banner, the build and the libraries.
#include <fmt/format.h>

#include "trainer/build_info.h"
#include "trainer/cli/cli.h"

namespace electra::cli {
namespace {

int info() {
  const BuildInfo build = build_info();
  fmt::print("version    {} (commit {})\n", build.version, build.commit);
  fmt::print("build      {}, {}, assertions {}\n", build.build_type, build.compiler, build.assertions ? "on" : "off");
  return 0;
}

}  // namespace

void register_info(CLI::App& root, Invocation& invocation) {
  CLI::App* command = add_command(root, "info", "show the device, the build and the libraries", "electra info", invocation);
  command->callback([&invocation] { invocation.action = info; });
}

}  // namespace electra::cli
