// What this binary is: version, commit, compiler, build type.
#pragma once
#include <string>

namespace electra {

struct BuildInfo {
  std::string version;   // "0.1.0"
  std::string commit;    // 12 digits, "+" after it: with uncommitted changes; "unknown" outside git
  std::string compiler;  // "GNU 12.2.0"
  std::string build_type;  // "Release"
  std::string libraries;   // "oneDNN 2.6.0, ICU 72.1, …", as found when it was configured
  bool assertions;         // assert() is active
};

BuildInfo build_info();

}  // namespace electra
