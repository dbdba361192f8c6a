#include "kernels/core/tensor.h"

#include <string>

#include "kernels/core/error.h"

namespace electra {

void check_shape(std::string_view where, std::string_view what, const Shape& got, const Shape& expected) {
  if (!(got == expected))
    throw ShapeError(where, std::string(what) + " has shape " + got.str() + ", expected " + expected.str());
}

void check_dtype(std::string_view where, std::string_view what, DType got, DType expected) {
  if (got != expected)
    throw ShapeError(where, std::string(what) + " has type " + name_of(got) + ", expected " + name_of(expected));
}

}  // namespace electra
