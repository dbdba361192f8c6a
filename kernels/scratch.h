// The pieces of a kernel's workspace.
#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/core/tensor.h"

namespace electra {

// Hands out pieces of a workspace one after another, each at a multiple of kAlignment bytes.
template <size_t kAlignment> class AlignedScratch {
 public:
  explicit AlignedScratch(const Tensor& workspace) : next_(workspace.as<std::byte>()) {}
  template <class T> T* take(int64_t n) {
    T* p = reinterpret_cast<T*>(next_);
    next_ += bytes<T>(n);
    return p;
  }
  // What take<T>(n) uses up.
  template <class T> static constexpr size_t bytes(int64_t n) {
    return (static_cast<size_t>(n) * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
  }

 private:
  std::byte* next_;
};

}  // namespace electra
