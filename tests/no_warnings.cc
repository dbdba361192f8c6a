// Linked into every test of the trainer: a test case in which a warning or an error is logged fails, unless its tags say
// that it provokes one: [warns].
#define CATCH_CONFIG_EXTERNAL_INTERFACES
#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdio>
#include <cstdlib>

#include "trainer/log.h"

namespace electra::test {
namespace {

class NoWarnings : public Catch::TestEventListenerBase {
 public:
  using TestEventListenerBase::TestEventListenerBase;

  void testCaseStarting(const Catch::TestCaseInfo&) override { before_ = log::warnings(); }

  void testCaseEnded(const Catch::TestCaseStats& stats) override {
    const auto& tags = stats.testInfo.tags;
    if (std::find(tags.begin(), tags.end(), "warns") != tags.end()) return;
    if (const int logged = log::warnings() - before_; logged > 0) {
      std::fprintf(stderr, "FAILED: '%s' logged %d warnings and is not tagged [warns]\n", stats.testInfo.name.c_str(), logged);
      failed_ = true;
    }
  }

  // A listener cannot fail a test case that has ended, but it can end the process.
  void testRunEnded(const Catch::TestRunStats&) override {
    if (failed_) std::exit(1);
  }

 private:
  int before_ = 0;
  bool failed_ = false;
};
CATCH_REGISTER_LISTENER(NoWarnings)

}  // namespace
}  // namespace electra::test
