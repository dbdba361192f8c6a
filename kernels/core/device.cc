#include "kernels/core/device.h"

#include <cstdlib>
#include <cstring>
#include <string>

#include "kernels/core/error.h"

namespace electra {

Buffer::Buffer(size_t bytes) : bytes_(bytes) {
  const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  if (rounded == 0) return;
  void* p = std::aligned_alloc(kAlignment, rounded);
  if (!p) throw DeviceError("memory", "expected " + std::to_string(rounded) + " bytes, the system has not that much");
  std::memset(p, 0, rounded);
  data_.reset(static_cast<std::byte*>(p));
}

void Buffer::Free::operator()(std::byte* p) const { std::free(p); }

}  // namespace electra
