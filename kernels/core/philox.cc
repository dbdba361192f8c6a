#include "kernels/core/philox.h"

#include <cstdio>

#include "kernels/core/error.h"

namespace electra {

void check_dropout(std::string_view where, const Dropout& dropout) {
  if (dropout.drop_p >= 0 && dropout.drop_p <= 1 - 0x1p-17) return;
  char text[96];
  std::snprintf(text, sizeof text, "expected a dropout probability from 0 to 0.99999, got %.12g", dropout.drop_p);
  throw ConfigError(where, text);
}

}  // namespace electra
