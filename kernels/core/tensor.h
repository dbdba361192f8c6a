// Tensor: a view of row-major, contiguous memory. It owns nothing.
#pragma once
#include <string_view>

#include "kernels/core/dtype.h"
#include "kernels/core/shape.h"

namespace electra {

struct Tensor {
  void* data = nullptr;
  Shape shape;
  DType dtype = DType::f32;

  template <class T> T* as() const { return static_cast<T*>(data); }
  int64_t size() const { return shape.size(); }
  int64_t rows() const { return shape.rows(); }
  int64_t cols() const { return shape[-1]; }
  size_t bytes() const { return static_cast<size_t>(shape.size()) * size_of(dtype); }
  explicit operator bool() const { return data != nullptr; }
};

// Shape and type of a tensor that has no memory yet.
struct TensorSpec {
  Shape shape;
  DType dtype = DType::f32;
  size_t bytes() const { return static_cast<size_t>(shape.size()) * size_of(dtype); }
};

// Throw ShapeError "[where] what has shape (255), expected (256)".
void check_shape(std::string_view where, std::string_view what, const Shape& got, const Shape& expected);
// Throw ShapeError "[where] what has type f64, expected f32".
void check_dtype(std::string_view where, std::string_view what, DType got, DType expected);

}  // namespace electra
