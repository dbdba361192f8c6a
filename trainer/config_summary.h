// A configuration as the start of a run shows it.
#pragma once
#include <string>

#include "trainer/config.h"

namespace electra {

// Every key with its value and origin, compactly: "command line: train_steps=50 seed=1", one paragraph an origin, what the user
// gave first; lines of at most 100 columns, the ones that continue a paragraph indented. Line numbers of origins are left to
// config.resolved.yaml.
std::string configuration_summary(const ResolvedConfig& resolved);

}  // namespace electra
