// electra info: the device banner, the build and the libraries.
#include <fmt/format.h>

#include "trainer/build_info.h"
#include "trainer/cli/cli.h"
#include "trainer/device_info.h"

namespace electra::cli {
namespace {

constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;

int info(DeviceKind kind, int threads) {
  const DeviceInfo device = device_info();
  const BuildInfo build = build_info();
  fmt::print("device       {}\n", name_of(kind));
  fmt::print("processor    {}\n", device.processor);
  fmt::print("cores        {} usable, {} threads would be used\n", device.cores, threads);
  fmt::print("instructions {}\n", device.instructions);
  fmt::print("memory       {:.1f} GiB\n", static_cast<double>(device.memory_bytes) / kGiB);
  fmt::print("GPU          {}\n", device.gpu);
  fmt::print("version      {} (commit {})\n", build.version, build.commit);
  fmt::print("build        {}, {}, assertions {}\n", build.build_type, build.compiler,
             build.assertions ? "on" : "off");
  fmt::print("libraries    {}\n", build.libraries);
  return 0;
}

}  // namespace

void register_info(CLI::App& root, Invocation& invocation) {
  CLI::App* command = add_command(root, "info", "show the device, the build and the libraries",
                                  "electra info", invocation);
  command->callback([&invocation] {
    invocation.action = [&invocation] { return info(device_kind(invocation), thread_count(invocation)); };
  });
}

}  // namespace electra::cli
