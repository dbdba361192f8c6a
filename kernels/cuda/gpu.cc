// The device layer on the CUDA runtime: the one file that sees it.
#include "kernels/core/gpu.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "kernels/core/error.h"

namespace electra::gpu {
namespace {

void check(cudaError_t status, const char* where) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // so that it is reported once
  throw DeviceError(where, std::string("expected success, CUDA says ") + cudaGetErrorName(status) + ": " + cudaGetErrorString(status));
}

int most_capability = kNoLimit;

int attribute(cudaDeviceAttr which) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device), "device");
  check(cudaDeviceGetAttribute(&value, which, device), "device");
  return value;
}

cudaStream_t stream_of(Handle stream) { return static_cast<cudaStream_t>(stream); }
cudaEvent_t event_of(Handle event) { return static_cast<cudaEvent_t>(event); }

}  // namespace

Probe probe(int index) {
  Probe p;
  if (const char* const visible = std::getenv("CUDA_VISIBLE_DEVICES")) p.visible = visible;
  cudaRuntimeGetVersion(&p.runtime);
  if (cudaDriverGetVersion(&p.driver) != cudaSuccess) p.driver = 0;
  if (p.driver > 0) {
    if (const cudaError_t status = cudaGetDeviceCount(&p.count); status != cudaSuccess) {
      p.count = 0;
      if (status != cudaErrorNoDevice) p.failure = cudaGetErrorString(status);
    }
    if (index >= 0 && index < p.count) {
      cudaDeviceGetAttribute(&p.major, cudaDevAttrComputeCapabilityMajor, index);
      cudaDeviceGetAttribute(&p.minor, cudaDevAttrComputeCapabilityMinor, index);
    }
  }
  cudaGetLastError();
  return p;
}

void select(int index) { check(cudaSetDevice(index), "device"); }

Properties properties(int index) {
  cudaDeviceProp p{};
  check(cudaGetDeviceProperties(&p, index), "device");
  int driver = 0;
  check(cudaDriverGetVersion(&driver), "device");
  char bus_id[32] = "";
  check(cudaDeviceGetPCIBusId(bus_id, sizeof bus_id, index), "device");
  return {.name = p.name, .major = p.major, .minor = p.minor, .driver = cuda_version(driver), .memory_bytes = p.totalGlobalMem,
          .multiprocessors = p.multiProcessorCount, .bus_id = bus_id};
}

int compute_capability() {
  return std::min(most_capability, 10 * attribute(cudaDevAttrComputeCapabilityMajor) + attribute(cudaDevAttrComputeCapabilityMinor));
}
int multiprocessors() { return attribute(cudaDevAttrMultiProcessorCount); }

void* allocate(size_t bytes) {
  void* p = nullptr;
  if (cudaMalloc(&p, bytes) == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    throw DeviceError("memory", "expected " + std::to_string(bytes) + " bytes of GPU memory, " + std::to_string(free) + " are free");
  }
  check(cudaGetLastError(), "memory");
  return p;
}
void release(void* p) noexcept { cudaFree(p); }
void* allocate_pinned(size_t bytes) {
  void* p = nullptr;
  check(cudaMallocHost(&p, bytes), "memory");
  return p;
}
void release_pinned(void* p) noexcept { cudaFreeHost(p); }

// Blocking with respect to no other stream.
Handle create_stream() {
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  return stream;
}
Handle create_side_stream() { return create_stream(); }
void destroy_stream(Handle stream) noexcept { cudaStreamDestroy(stream_of(stream)); }
void synchronize(Handle stream) { check(cudaStreamSynchronize(stream_of(stream)), "stream"); }
void copy(void* to, const void* from, size_t bytes, Handle stream) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_of(stream)), "copy");
}
void fill(void* to, int byte, size_t bytes, Handle stream) { check(cudaMemsetAsync(to, byte, bytes, stream_of(stream)), "fill"); }
void poison(void* to, size_t bytes, Handle stream) { fill(to, 0xff, bytes, stream); }

Handle create_event() {
  cudaEvent_t event = nullptr;
  check(cudaEventCreate(&event), "event");
  return event;
}
void destroy_event(Handle event) noexcept { cudaEventDestroy(event_of(event)); }
void record(Handle event, Handle stream) { check(cudaEventRecord(event_of(event), stream_of(stream)), "event"); }
void wait(Handle stream, Handle event) { check(cudaStreamWaitEvent(stream_of(stream), event_of(event), 0), "event"); }
void synchronize_event(Handle event) { check(cudaEventSynchronize(event_of(event)), "event"); }
double elapsed_ms(Handle begin, Handle end) {
  float ms = 0;
  check(cudaEventElapsedTime(&ms, event_of(begin), event_of(end)), "event");
  return static_cast<double>(ms);
}

void begin_capture(Handle stream) { check(cudaStreamBeginCapture(stream_of(stream), cudaStreamCaptureModeThreadLocal), "graph"); }
Handle end_capture(Handle stream) {
  cudaGraph_t graph = nullptr;
  check(cudaStreamEndCapture(stream_of(stream), &graph), "graph");
  cudaGraphExec_t executable = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  check(status, "graph");
  return executable;
}
bool is_capturing(Handle stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(stream_of(stream), &status), "graph");
  return status != cudaStreamCaptureStatusNone;
}
void launch_graph(Handle graph, Handle stream) {
  check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), stream_of(stream)), "graph");
}
void destroy_graph(Handle graph) noexcept { cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph)); }

void use_test_schedule(int) {}
void use_test_streams(StreamOrder) {}
int test_schedules() { return 1; }
void limit_compute_capability(int most) { most_capability = most; }

}  // namespace electra::gpu
