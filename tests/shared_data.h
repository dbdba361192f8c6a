// Access to the data that lies beside a developer's checkout and is not part of the project. Only tests declared with DATA
// in tests/CMakeLists.txt may use it.
#pragma once
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <string>

namespace electra::test {

// The exit status that CTest reports as a skip (SKIP_RETURN_CODE of DATA tests).
inline constexpr int kSkipped = 4;

// The path of `relative` under the shared data. Where there is no shared data at all (a plain clone) the process ends with
// kSkipped; where there is, a missing file is an error and the test fails.
inline std::filesystem::path shared_data(const std::string& relative) {
  const char* root = std::getenv("ELECTRA_SHARED_DATA");
  if (root == nullptr || !std::filesystem::exists(root)) {
    std::fputs("skipped: no shared data beside this checkout\n", stderr);
    std::exit(kSkipped);
  }
  const std::filesystem::path path = std::filesystem::path(root) / relative;
  if (!std::filesystem::exists(path)) throw std::runtime_error("[shared_data] expected " + path.string() + ", got nothing there");
  return path;
}

}  // namespace electra::test
