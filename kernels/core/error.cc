#include "kernels/core/error.h"

#include <string>

namespace electra {
namespace {

std::string message(std::string_view where, std::string_view what) {
  std::string text;
  text.reserve(where.size() + what.size() + 3);
  text.append("[").append(where).append("] ").append(what);
  return text;
}

}  // namespace

Error::Error(std::string_view where, std::string_view what) : std::runtime_error(message(where, what)), where_length_(where.size()) {}

}  // namespace electra
