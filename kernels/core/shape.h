// Shape: the extents of a tensor, at most four axes, last axis contiguous.
#pragma once
#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

namespace electra {

class Shape {
 public:
  static constexpr int kMaxRank = 4;
  Shape() = default;
  Shape(std::initializer_list<int64_t> extents);
  int rank() const { return rank_; }
  int64_t operator[](int axis) const { return extent_[static_cast<size_t>(axis < 0 ? axis + rank_ : axis)]; }
  int64_t size() const;            // number of elements; 1 for a scalar
  int64_t rows() const;            // product of all axes but the last
  bool operator==(const Shape& other) const;
  std::string str() const;         // "(128, 256)"

 private:
  std::array<int64_t, kMaxRank> extent_{};
  int rank_ = 0;
};

}  // namespace electra
