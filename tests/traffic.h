// Memory traffic of kernels, which the check build of the host executor counts and no other (docs/simt.md).
#pragma once
#include <catch2/catch.hpp>

#include "kernels/simt/simt.h"
#include "tests/on_device.h"

namespace electra::test {

// The tag of a test case about traffic: hides it in every other build.
inline const char* traffic_tag() {
  if constexpr (kGpuBuild == GpuBuild::SIMT)
    if (simt::is_check_build()) return kOnDevice;
  return "[.without counts of traffic]";
}

// What the launches of f moved.
template <class F> simt::Traffic moved([[maybe_unused]] F f) {
  simt::Traffic traffic;
  if constexpr (kGpuBuild == GpuBuild::SIMT) {
    simt::reset_traffic();
    f();
    traffic = simt::traffic();
  }
  return traffic;
}

// These bytes of global memory, exactly, and no bank conflicts in shared memory.
inline void check_moved(const simt::Traffic& traffic, uint64_t read, uint64_t written) {
  CHECK(traffic.read_bytes == read);
  CHECK(traffic.write_bytes == written);
  CHECK(traffic.shared_read_conflicts == 0);
  CHECK(traffic.shared_write_conflicts == 0);
}

// Every sector of 32 bytes that was touched was used whole.
inline void check_whole_sectors(const simt::Traffic& traffic) {
  CHECK(traffic.read_sectors * 32 == traffic.read_bytes);
  CHECK(traffic.write_sectors * 32 == traffic.write_bytes);
}

// At least `minimum` bytes, and at most 5 % more.
inline void check_near(uint64_t bytes, uint64_t minimum) {
  CHECK(bytes >= minimum);
  CHECK(100 * bytes <= 105 * minimum);
}

}  // namespace electra::test
