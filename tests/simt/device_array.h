// Arrays in device memory for the tests of GPU kernels, on a GPU and on the host executor.
#pragma once
#include <cstddef>
#include <vector>

namespace electra::test {

void* device_allocate(size_t bytes);  // filled with NaN
void device_release(void* p);
void device_upload(void* device, const void* host, size_t bytes);
void device_download(void* host, const void* device, size_t bytes);  // after all launches

template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t count) : data_(static_cast<T*>(device_allocate(count * sizeof(T)))), count_(count) {}
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) { set(values); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() { device_release(data_); }
  T* data() const { return data_; }
  size_t size() const { return count_; }
  void set(const std::vector<T>& values) { device_upload(data_, values.data(), values.size() * sizeof(T)); }
  std::vector<T> get() const {
    std::vector<T> values(count_);
    device_download(values.data(), data_, count_ * sizeof(T));
    return values;
  }

 private:
  T* data_;
  size_t count_;
};

}  // namespace electra::test
