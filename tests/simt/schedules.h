// Runs a test under every schedule of the host executor; once on a GPU.
#pragma once
#include <catch2/catch.hpp>

#if defined(ELECTRA_GPU_SIMT)
#include "kernels/simt/simt.h"
#endif

namespace electra::test {

template <class F>
void for_each_schedule(F run) {
#if defined(ELECTRA_GPU_SIMT)
  const simt::Options before = simt::options;
  int number = 0;
  for (const simt::Options& schedule : simt::kSchedules) {
    simt::options = schedule;
    INFO("schedule " << number++);
    run();
  }
  simt::options = before;
#else
  run();
#endif
}

}  // namespace electra::test
