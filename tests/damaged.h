// Damage for parsers to survive.
#pragma once
#include <random>
#include <string>

#include "kernels/core/error.h"

namespace electra::test {

// One to four changes: a byte replaced, removed or doubled, a piece cut off or copied elsewhere.
inline std::string damaged(std::string bytes, std::mt19937& random) {
  const auto any = [&](size_t n) { return n ? random() % n : 0; };
  for (size_t k = 0, n = 1 + any(4); k < n && !bytes.empty(); ++k) {
    const size_t at = any(bytes.size());
    switch (any(5)) {
      case 0: bytes[at] = static_cast<char>(random()); break;
      case 1: bytes.erase(at, 1 + any(8)); break;
      case 2: bytes.insert(at, 1, static_cast<char>(random())); break;
      case 3: bytes.resize(at); break;
      default: bytes.insert(at, bytes.substr(any(bytes.size()), any(32)));
    }
  }
  return bytes;
}

// Runs f; an Error of ours is an answer, too. Returns whether there was none.
template <class F> bool survives(F f) {
  try {
    f();
    return true;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace electra::test
