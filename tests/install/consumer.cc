// Uses the installed headers and libraries from the lowest floor to the highest.
#include <cstdio>

#include "kernels/core/shape.h"
#include "model/electra.h"
#include "tokenizer/tokenizer.h"
#include "trainer/config.h"

int main() {
  std::printf("%s %zu presets\n", electra::Shape{2, 3}.str().c_str(), electra::presets().size());
  return electra::presets().empty();
}
