// Which device a command gets, why, and what it says about it: from what a driver might answer, so that no GPU is needed.
#include <catch2/catch.hpp>

#include "kernels/core/error.h"
#include "trainer/device_info.h"

using namespace electra;

namespace {

// A machine where everything is as it should be.
gpu::Probe good() { return {.runtime = 13000, .driver = 13010, .failure = {}, .count = 2, .major = 9, .minor = 0, .visible = {}}; }
template <class Change> std::string reason(Change change, int index = 0) {
  gpu::Probe probe = good();
  change(probe);
  return gpu::why_unusable(probe, index);
}

const DeviceInfo kMachine{.processor = "Some CPU", .cores = 8, .instructions = "avx2", .memory_bytes = 1, .gpu = "none: no driver"};

}  // namespace

TEST_CASE("a GPU is usable with a driver of this major version or a later one") {
  CHECK(reason([](gpu::Probe&) {}).empty());
  CHECK(reason([](gpu::Probe&) {}, 1).empty());
  CHECK(reason([](gpu::Probe& p) { p.driver = 14000; }).empty());
  // Within a major version an older driver will do.
  CHECK(reason([](gpu::Probe& p) { p.runtime = 13020, p.driver = 13000; }).empty());
  CHECK(reason([](gpu::Probe& p) { p.driver = 12090; }) == "expected a driver for CUDA 13.0 or later, this one is for CUDA 12.9");
  CHECK(reason([](gpu::Probe& p) { p.driver = 0; }) == "expected a CUDA driver, none is installed");
}

TEST_CASE("a GPU that is missing, hidden or too old is named with what the driver says") {
  CHECK(reason([](gpu::Probe& p) { p.count = 0; }) == "expected a GPU, the driver lists none");
  CHECK(reason([](gpu::Probe& p) { p.count = 0, p.visible = ""; }) == "expected a GPU, the driver lists none (CUDA_VISIBLE_DEVICES is '')");
  CHECK(reason([](gpu::Probe& p) { p.count = 0, p.failure = "unknown error"; }) == "expected a GPU, CUDA says unknown error");
  CHECK(reason([](gpu::Probe& p) { p.visible = "3,5"; }, 2) == "expected a GPU number from 0 to 1, got 2 (CUDA_VISIBLE_DEVICES is '3,5')");
  CHECK(reason([](gpu::Probe&) {}, -1) == "expected a GPU number from 0 to 1, got -1");
  CHECK(reason([](gpu::Probe& p) { p.major = 7, p.minor = 5; }) == "expected a GPU of compute capability 8.0 or later, device 0 has 7.5");
  CHECK(reason([](gpu::Probe& p) { p.major = 8; }).empty());
}

TEST_CASE("device auto falls back to the CPU where a program for GPUs finds none, and warns only then") {
  const std::string no_driver = "expected a CUDA driver, none is installed";
  const DeviceChoice found = choose_device("auto", GpuBuild::CUDA, ""), fell_back = choose_device("auto", GpuBuild::CUDA, no_driver);
  CHECK(found.kind == DeviceKind::cuda);
  CHECK_FALSE(found.fell_back);
  CHECK(fell_back.kind == DeviceKind::cpu);
  CHECK(fell_back.fell_back);
  for (const GpuBuild build : {GpuBuild::OFF, GpuBuild::SIMT}) {
    const DeviceChoice none = choose_device("auto", build, "expected a program built with ELECTRA_GPU=CUDA");
    CHECK(none.kind == DeviceKind::cpu);
    CHECK_FALSE(none.fell_back);
  }
}

TEST_CASE("a device asked for by name is had or is an error") {
  const std::string no_driver = "expected a CUDA driver, none is installed";
  CHECK(choose_device("cpu", GpuBuild::CUDA, no_driver).kind == DeviceKind::cpu);
  CHECK_FALSE(choose_device("cpu", GpuBuild::CUDA, no_driver).fell_back);
  CHECK(choose_device("cuda", GpuBuild::CUDA, "").kind == DeviceKind::cuda);
  CHECK(choose_device("simt", GpuBuild::SIMT, "").kind == DeviceKind::simt);
  for (const char* name : {"cuda", "simt"}) CHECK_THROWS_AS(choose_device(name, GpuBuild::CUDA, no_driver), DeviceError);
  CHECK_THROWS_WITH(choose_device("cuda", GpuBuild::CUDA, no_driver), "[device] expected a CUDA driver, none is installed");
}

TEST_CASE("the banner says which device, why, and which kernels") {
  CHECK(describe({.name = "NVIDIA H200", .major = 9, .minor = 0, .driver = "13.0", .memory_bytes = size_t{140} << 30, .multiprocessors = 132,
                  .bus_id = "0000:3B:00.0"}) ==
        "NVIDIA H200, compute capability 9.0, 132 multiprocessors, 140.0 GiB, driver for CUDA 13.0, at 0000:3B:00.0; kernels for sm_90a");
  CHECK(kernels_for(8, 0) == "sm_80");
  CHECK(kernels_for(8, 9) == "sm_80");
  CHECK(kernels_for(9, 0) == "sm_90a");
  CHECK(kernels_for(12, 0) == "compute_90, which the driver compiles");
  CHECK(device_banner({DeviceKind::cpu, "there is no GPU to use", true}, kMachine, 3) ==
        "device: cpu (Some CPU, 3 of 8 cores; avx2), there is no GPU to use; GPU none: no driver");
  DeviceInfo with_gpu = kMachine;
  with_gpu.gpu = "NVIDIA H200";
  CHECK(device_banner({DeviceKind::cuda, "the first GPU there is"}, with_gpu, 3) ==
        "device: cuda (NVIDIA H200), the first GPU there is; CPU Some CPU, 3 of 8 cores; avx2");
}

TEST_CASE("the executor is one GPU") {
  if constexpr (kGpuBuild == GpuBuild::SIMT) {
    CHECK(why_unusable(DeviceKind::simt).empty());
    CHECK(why_unusable(DeviceKind::simt, 1) == "expected GPU 0 on the host executor, got 1");
  } else {
    CHECK_THAT(why_unusable(DeviceKind::simt), Catch::Contains("expected a program built with ELECTRA_GPU=SIMT for --device simt, got one built with "));
  }
}
