// Where the files are that tests read: golden values, configurations.
#pragma once
#include <cstdlib>
#include <string>

namespace electra::test {

// The project's folder when it was compiled, or what the environment's ELECTRA_SOURCE_DIR names where tests were carried elsewhere
// (bench/run_gpu.sh in a package: its share/electra, with tests/golden below).
inline std::string source_directory() {
  const char* moved = std::getenv("ELECTRA_SOURCE_DIR");
  return moved != nullptr ? moved : ELECTRA_SOURCE_DIR;
}

}  // namespace electra::test
