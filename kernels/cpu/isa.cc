#include "kernels/cpu/isa.h"

#include <cstdlib>
#include <string>

#include "kernels/core/error.h"

namespace electra::cpu {
namespace {

Isa best_isa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    return Isa::avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::avx2;
#endif
  return Isa::baseline;
}

Isa choose() {
  const char* wanted = std::getenv("ELECTRA_ISA");
  const Isa best = best_isa();
  if (!wanted) return best;
  for (const Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512})
    if (name_of(isa) == std::string(wanted)) {
      if (isa > best)
        throw DeviceError("ELECTRA_ISA", std::string("expected at most ") + name_of(best) + " on this processor, got " + wanted);
      return isa;
    }
  throw ConfigError("ELECTRA_ISA", std::string("expected baseline, avx2 or avx512, got ") + wanted);
}

}  // namespace

Isa active_isa() {
  static const Isa isa = choose();
  return isa;
}

const char* name_of(Isa isa) {
  switch (isa) {
    case Isa::baseline: return "baseline";
    case Isa::avx2: return "avx2";
    case Isa::avx512: return "avx512";
  }
  return "?";
}

}  // namespace electra::cpu
