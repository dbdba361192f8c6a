// The one Catch2 main that every test executable is linked with.
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>

int main(int argc, char** argv) {
  Catch::Session session;
  // A test case without a single assertion proves nothing: it fails.
  session.configData().warnings = Catch::WarnAbout::NoAssertions;
  if (const int status = session.applyCommandLine(argc, argv); status != 0) return status;
  const int result = session.run();
  // Catch2 returns the number of test cases for a listing (the CTest discovery reads it), else the number of failed
  // assertions. The latter must not be mistaken for kSkipped of shared_data.h, so every failure is 1.
  return session.configData().listTestNamesOnly ? result : result != 0;
}
