// electra check golden
#include <fmt/format.h>

#include "kernels/core/error.h"
#include "trainer/cli/cli.h"
#include "trainer/golden.h"
#include "trainer/pretrain_setup.h"

namespace electra::cli {
namespace {

int golden(const std::string& file, const std::string& dtype, const Invocation& invocation) {
  ThreadPool pool(thread_count(invocation));
  // double is the CPU's alone
  const Device device(dtype == "f64" ? DeviceKind::cpu : device_kind(invocation), pool);
  use_gemm(GemmChoice::automatic, device.stream().backend());
  const DType type = dtype == "f64" ? DType::f64 : dtype == "f32" ? DType::f32 : DType::bf16;
  const std::vector<GoldenLine> lines = check_golden(file, type, device.stream());
  int64_t passed = 0;
  for (const GoldenLine& l : lines) {
    fmt::print("{:<86} abs {:.2e}  rel {:.2e}  at {:<7} bound {:.2e}  {}\n", l.name, l.absolute, l.relative, l.index, l.bound, l.passed ? "ok" : "FAILED");
    passed += l.passed;
  }
  const int64_t failed = static_cast<int64_t>(lines.size()) - passed;
  fmt::print("{} passed, {} failed\n", passed, failed);
  return failed == 0 ? 0 : 1;
}

}  // namespace

void register_check(CLI::App& root, Invocation& invocation) {
  CLI::App* group = add_group(root, "check", "compare this program with an independent implementation", "electra check golden tests/golden/layers.safetensors --dtype f64");
  struct Arguments {
    std::string file, dtype = "f32";
  };
  const auto args = std::make_shared<Arguments>();
  CLI::App* command = add_command(*group, "golden", "losses, logits, gradients and updated weights against a golden file; exit status 1 if any is out of bounds",
                                  "electra check golden tests/golden/layers.safetensors --dtype f64", invocation);
  command->add_option("file", args->file, "a golden file (docs/golden.md)")->required()->option_text("FILE");
  command->add_option("--dtype", args->dtype, "type to compute in")->check(CLI::IsMember({"f64", "f32", "bf16"}))->capture_default_str()->option_text("f64|f32|bf16");
  command->callback([args, &invocation] {
    if (args->dtype == "f64" && (invocation.device == "simt" || invocation.device == "cuda"))
      throw ConfigError("--dtype", "expected f32 or bf16 with --device " + invocation.device + ", got f64: it runs on the CPU alone");
    invocation.action = [args, &invocation] { return golden(args->file, args->dtype, invocation); };
  });
}

}  // namespace electra::cli
