#include "trainer/build_info.h"

#include "electra_commit.h"

namespace electra {

BuildInfo build_info() {
#ifdef NDEBUG
  constexpr bool kAssertions = false;
#else
  constexpr bool kAssertions = true;
#endif
  return {.version = ELECTRA_VERSION,
          .commit = ELECTRA_COMMIT,
          .compiler = ELECTRA_COMPILER,
          .build_type = ELECTRA_BUILD_TYPE,
          .libraries = ELECTRA_LIBRARIES,
          .assertions = kAssertions};
}

}  // namespace electra
