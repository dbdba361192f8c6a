#include "kernels/core/shape.h"

#include <algorithm>

#include "kernels/core/error.h"

namespace electra {

Shape::Shape(std::initializer_list<int64_t> extents) : rank_(static_cast<int>(extents.size())) {
  if (extents.size() > kMaxRank) throw ShapeError("shape", "expected at most 4 axes, got " + std::to_string(extents.size()));
  for (const int64_t e : extents)
    if (e < 0) throw ShapeError("shape", "expected extents of at least 0, got " + std::to_string(e));
  std::copy(extents.begin(), extents.end(), extent_.begin());
}

int64_t Shape::size() const {
  int64_t n = 1;
  for (int i = 0; i < rank_; ++i) n *= extent_[static_cast<size_t>(i)];
  return n;
}

int64_t Shape::rows() const {
  int64_t n = 1;
  for (int i = 0; i + 1 < rank_; ++i) n *= extent_[static_cast<size_t>(i)];
  return n;
}

bool Shape::operator==(const Shape& other) const {
  return rank_ == other.rank_ && std::equal(extent_.begin(), extent_.begin() + rank_, other.extent_.begin());
}

std::string Shape::str() const {
  std::string s = "(";
  for (int i = 0; i < rank_; ++i) s += (i ? ", " : "") + std::to_string(extent_[static_cast<size_t>(i)]);
  return s + ")";
}

}  // namespace electra
