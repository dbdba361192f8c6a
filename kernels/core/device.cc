#include "kernels/core/device.h"

#include <cstdlib>
#include <cstring>
#include <string>

#include "kernels/core/error.h"
#include "kernels/core/gpu.h"

namespace electra {
namespace {

bool on_gpu(const Stream& stream) { return stream.backend() == Backend::cuda; }

std::byte* allocate(size_t bytes, Memory memory) {
  if (memory == Memory::host) {
    const size_t rounded = (bytes + Buffer::kAlignment - 1) / Buffer::kAlignment * Buffer::kAlignment;
    void* p = std::aligned_alloc(Buffer::kAlignment, rounded);
    if (!p) throw DeviceError("memory", "expected " + std::to_string(rounded) + " bytes, the system has not that much");
    std::memset(p, 0, rounded);
    return static_cast<std::byte*>(p);
  }
  if constexpr (kHasCudaBackend) {
    void* p = memory == Memory::pinned ? gpu::allocate_pinned(bytes) : gpu::allocate(bytes);
    if (memory == Memory::pinned) std::memset(p, 0, bytes);
    else gpu::fill(p, 0, bytes, nullptr), gpu::synchronize(nullptr);
    return static_cast<std::byte*>(p);
  }
  throw DeviceError("memory", "expected a program with a GPU backend, this one was built with ELECTRA_GPU=OFF");
}

}  // namespace

void Stream::synchronize() const {
  if constexpr (kHasCudaBackend)
    if (on_gpu(*this)) gpu::synchronize(handle_);
}

std::string gpu::cuda_version(int number) { return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10); }

std::string gpu::why_unusable(const Probe& probe, int index) {
  constexpr int kLeastMajor = 8;  // what the kernels are compiled for begins at sm_80
  const std::string visible = probe.visible ? " (CUDA_VISIBLE_DEVICES is '" + *probe.visible + "')" : "";
  if (probe.driver == 0) return "expected a CUDA driver, none is installed";
  // Within one major version every driver runs every program.
  if (probe.driver / 1000 < probe.runtime / 1000)
    return "expected a driver for CUDA " + cuda_version(probe.runtime / 1000 * 1000) + " or later, this one is for CUDA " + cuda_version(probe.driver);
  if (!probe.failure.empty()) return "expected a GPU, CUDA says " + probe.failure + visible;
  if (probe.count == 0) return "expected a GPU, the driver lists none" + visible;
  if (index < 0 || index >= probe.count)
    return "expected a GPU number from 0 to " + std::to_string(probe.count - 1) + ", got " + std::to_string(index) + visible;
  if (probe.major < kLeastMajor)
    return "expected a GPU of compute capability 8.0 or later, device " + std::to_string(index) + " has " + std::to_string(probe.major) + "." +
           std::to_string(probe.minor);
  return {};
}

std::string why_unusable(DeviceKind kind, int index) {
  if (kind == DeviceKind::cpu) return {};
  if constexpr (kGpuBuild == GpuBuild::CUDA)
    if (kind == DeviceKind::cuda) return gpu::why_unusable(gpu::probe(index), index);
  if (kGpuBuild == GpuBuild::SIMT && kind == DeviceKind::simt)
    return index == 0 ? "" : "expected GPU 0 on the host executor, got " + std::to_string(index);
  const std::string needed = kind == DeviceKind::simt ? "SIMT" : "CUDA";
  const char* built = kGpuBuild == GpuBuild::OFF ? "OFF" : kGpuBuild == GpuBuild::SIMT ? "SIMT" : "CUDA";
  return "expected a program built with ELECTRA_GPU=" + needed + " for --device " + name_of(kind) +
         ", got one built with ELECTRA_GPU=" + built;
}

Device::Device(DeviceKind kind, ThreadPool& pool, int index) : kind_(kind), pool_(&pool), index_(index) {
  if (const std::string reason = why_unusable(kind, index); !reason.empty()) throw DeviceError("device", reason);
  if constexpr (kHasCudaBackend)
    if (kind != DeviceKind::cpu) {
      gpu::select(index);
      handle_ = gpu::create_stream();
    }
}

Device::~Device() {
  if constexpr (kHasCudaBackend)
    if (handle_) gpu::destroy_stream(handle_);
}

SideStream::SideStream(const Stream& of) : stream_(of) {
  if constexpr (kHasCudaBackend)
    if (on_gpu(of)) stream_.handle_ = gpu::create_side_stream();
}
SideStream::~SideStream() {
  if constexpr (kHasCudaBackend)
    if (on_gpu(stream_)) {
      try {
        stream_.synchronize();
      } catch (const std::exception&) {  // reported where the result is waited for
      }
      gpu::destroy_stream(stream_.handle_);
    }
}

Buffer::Buffer(size_t bytes, Memory memory) : data_(nullptr, Free{memory}), bytes_(bytes) {
  if (bytes > 0) data_.reset(allocate(bytes, memory));
}

void Buffer::Free::operator()(std::byte* p) const {
  if (memory == Memory::host) return std::free(p);
  if constexpr (kHasCudaBackend) memory == Memory::pinned ? gpu::release_pinned(p) : gpu::release(p);
}

void copy(void* to, const void* from, size_t bytes, const Stream& stream) {
  if (bytes == 0) return;
  if constexpr (kHasCudaBackend)
    if (on_gpu(stream)) return gpu::copy(to, from, bytes, stream.handle());
  std::memcpy(to, from, bytes);
}

void fill(void* to, int byte, size_t bytes, const Stream& stream) {
  if (bytes == 0) return;
  if constexpr (kHasCudaBackend)
    if (on_gpu(stream)) return gpu::fill(to, byte, bytes, stream.handle());
  std::memset(to, byte, bytes);
}

void poison(void* to, size_t bytes, const Stream& stream) {
  if (bytes == 0) return;
  if constexpr (kHasCudaBackend)
    if (on_gpu(stream)) return gpu::poison(to, bytes, stream.handle());
  std::memset(to, 0xff, bytes);
}

Event::Event(const Stream& stream) {
  if constexpr (kHasCudaBackend)
    if (on_gpu(stream)) handle_ = gpu::create_event();
}
Event::~Event() {
  if constexpr (kHasCudaBackend)
    if (handle_) gpu::destroy_event(handle_);
}
void Event::record(const Stream& stream) {
  if constexpr (kHasCudaBackend)
    if (handle_) gpu::record(handle_, stream.handle());
}
void Event::wait(const Stream& stream) const {
  if constexpr (kHasCudaBackend)
    if (handle_) gpu::wait(stream.handle(), handle_);
}
void Event::synchronize() const {
  if constexpr (kHasCudaBackend)
    if (handle_) gpu::synchronize_event(handle_);
}
double Event::milliseconds_since(const Event& begin) const {
  if constexpr (kHasCudaBackend)
    if (handle_) return gpu::elapsed_ms(begin.handle_, handle_);
  return 0;
}

LaunchGraph::~LaunchGraph() {
  if constexpr (kHasCudaBackend)
    if (handle_) gpu::destroy_graph(handle_);
}
void LaunchGraph::launch(const Stream& stream) const {
  if (!handle_) throw DeviceError("graph", "expected a recorded graph, got an empty one");
  if constexpr (kHasCudaBackend) gpu::launch_graph(handle_, stream.handle());
}

LaunchGraph::Capture::Capture(const Stream& stream) : stream_(stream) {
  if (!on_gpu(stream)) throw DeviceError("graph", "expected a stream of a GPU, got one of the CPU");
  if constexpr (kHasCudaBackend) gpu::begin_capture(stream.handle());
}
// After an exception: the runtime must leave capture mode; what it recorded is thrown away.
LaunchGraph::Capture::~Capture() {
  if (!open_) return;
  try {
    end();
  } catch (const std::exception&) {
  }
}
LaunchGraph LaunchGraph::Capture::end() {
  LaunchGraph graph;
  open_ = false;
  if constexpr (kHasCudaBackend) graph.handle_ = gpu::end_capture(stream_.handle());
  return graph;
}

}  // namespace electra
