// GradMode: what a backward kernel does with each gradient it can produce.
#pragma once
#include <cstdint>

namespace electra {

enum class GradMode : uint8_t { none, write, accumulate };

}  // namespace electra
