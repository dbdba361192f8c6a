#include "tests/simt/device_array.h"

#include "kernels/device.cuh"

namespace electra::test {

#if defined(__CUDACC__)
namespace {
void check(cudaError_t status) {
  if (status != cudaSuccess) throw DeviceError("test", cudaGetErrorString(status));
}
}  // namespace
void* device_allocate(size_t bytes) {
  void* p;
  check(cudaMalloc(&p, bytes));
  check(cudaMemset(p, 0xFF, bytes));
  return p;
}
void device_release(void* p) { cudaFree(p); }
void device_upload(void* device, const void* host, size_t bytes) {
  check(cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice));
}
void device_download(void* host, const void* device, size_t bytes) {
  check(cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost));
}
#else
void* device_allocate(size_t bytes) { return simt::allocate(bytes); }
void device_release(void* p) { simt::release(p); }
void device_upload(void* device, const void* host, size_t bytes) { simt::upload(device, host, bytes); }
void device_download(void* host, const void* device, size_t bytes) { simt::download(host, device, bytes); }
#endif

}  // namespace electra::test
