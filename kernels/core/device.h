// Where kernels run and the memory they run on.
#pragma once
#include <cstddef>
#include <memory>

#include "kernels/core/thread_pool.h"

namespace electra {

// The order in which kernels run. On the CPU a stream is a thread pool: a launch returns when the kernel has finished.
class Stream {
 public:
  explicit Stream(ThreadPool& pool) : pool_(&pool) {}
  ThreadPool& pool() const { return *pool_; }

 private:
  ThreadPool* pool_;
};

// Owned memory, 64-byte aligned and zeroed; throws DeviceError when there is not enough.
class Buffer {
 public:
  static constexpr size_t kAlignment = 64;  // bytes
  Buffer() = default;
  explicit Buffer(size_t bytes);
  std::byte* data() const { return data_.get(); }
  size_t bytes() const { return bytes_; }

 private:
  struct Free { void operator()(std::byte* p) const; };
  std::unique_ptr<std::byte[], Free> data_;
  size_t bytes_ = 0;
};

}  // namespace electra
