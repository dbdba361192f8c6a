// Where kernels run and the memory they run on.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "kernels/core/backend.h"
#include "kernels/core/thread_pool.h"

namespace electra {

// The order in which kernels run. On the CPU a stream is a thread pool: a launch returns when the kernel has finished. On a
// GPU it also names a CUDA stream, and a launch returns at once. A view: pool and device outlive it.
class Stream {
 public:
  explicit Stream(ThreadPool& pool) : pool_(&pool) {}
  ThreadPool& pool() const { return *pool_; }
  Backend backend() const { return backend_; }
  void* handle() const { return handle_; }  // of the CUDA stream; nullptr on the CPU
  // Returns when everything issued so far is done; throws DeviceError for a kernel that failed.
  void synchronize() const;

 private:
  friend class Device;
  friend class SideStream;
  Stream(ThreadPool& pool, void* handle) : pool_(&pool), backend_(Backend::cuda), handle_(handle) {}
  ThreadPool* pool_;
  Backend backend_ = Backend::cpu;
  void* handle_ = nullptr;
};

// Why a kind of device cannot be used here; empty when it can.
std::string why_unusable(DeviceKind kind, int index = 0);

// A device in use: the CPU, one GPU, or the host executor that stands for one.
class Device {
 public:
  // Throws DeviceError with the reason where it cannot be used. index: of the GPU.
  Device(DeviceKind kind, ThreadPool& pool, int index = 0);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  DeviceKind kind() const { return kind_; }
  int index() const { return index_; }  // of the GPU
  Stream stream() const { return kind_ == DeviceKind::cpu ? Stream(*pool_) : Stream(*pool_, handle_); }

 private:
  DeviceKind kind_;
  ThreadPool* pool_;
  int index_;
  void* handle_ = nullptr;
};

enum class Memory : uint8_t {
  host,
  pinned,  // host memory that a GPU copies from and to by itself
  device,
};

// The memory that kernels on a stream read and write.
constexpr Memory memory_of(Backend backend) { return backend == Backend::cpu ? Memory::host : Memory::device; }

// A second stream of the same device, for copies that run beside kernels; events order the two. On the CPU it is the first one.
class SideStream {
 public:
  explicit SideStream(const Stream& of);
  ~SideStream();  // waits for what is in flight
  SideStream(const SideStream&) = delete;
  SideStream& operator=(const SideStream&) = delete;
  const Stream& get() const { return stream_; }

 private:
  Stream stream_;
};

// Host memory that takes part in copies to and from it.
constexpr Memory host_memory_of(Backend backend) { return backend == Backend::cpu ? Memory::host : Memory::pinned; }

// Owned memory, zeroed, aligned to 64 bytes (host) or 256 (device); throws DeviceError when there is not enough.
class Buffer {
 public:
  static constexpr size_t kAlignment = 64;  // bytes
  Buffer() : Buffer(0) {}
  explicit Buffer(size_t bytes, Memory memory = Memory::host);
  std::byte* data() const { return data_.get(); }
  size_t bytes() const { return bytes_; }

 private:
  struct Free {
    Memory memory;
    void operator()(std::byte* p) const;
  };
  std::unique_ptr<std::byte[], Free> data_;
  size_t bytes_ = 0;
};

// Copies between host and device memory in the stream's order. The host's side may be read or reused after the stream is
// synchronised, and at once when it is ordinary memory that is copied from.
void copy(void* to, const void* from, size_t bytes, const Stream& stream);
// Sets every byte.
void fill(void* to, int byte, size_t bytes, const Stream& stream);

// Sets every byte to 0xff, NaN in every floating type: memory whose contents nobody may read.
void poison(void* to, size_t bytes, const Stream& stream);

// One T in the memory of a stream's kernels.
template <class T> class DeviceValue {
 public:
  explicit DeviceValue(Stream stream, const T& value = {}) : stream_(stream), buffer_(sizeof(T), memory_of(stream.backend())) {
    set(value);
  }
  void set(const T& value) { copy(buffer_.data(), &value, sizeof(T), stream_); }
  // Waits for the stream.
  T get() const {
    T value;
    copy(&value, buffer_.data(), sizeof(T), stream_);
    stream_.synchronize();
    return value;
  }
  T* data() const { return reinterpret_cast<T*>(buffer_.data()); }

 private:
  Stream stream_;
  Buffer buffer_;
};

// A point in a GPU stream. On the CPU a launch is over when it returns, and an event is nothing.
class Event {
 public:
  explicit Event(const Stream& stream);
  ~Event();
  Event(Event&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Event& operator=(Event&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  void record(const Stream& stream);
  void wait(const Stream& stream) const;   // what is issued on the stream from now on runs after the event; nothing where it was not recorded
  void synchronize() const;                // waits on the host
  double milliseconds_since(const Event& begin) const;  // on the GPU's clock; both synchronised. 0 on the CPU

 private:
  void* handle_ = nullptr;
};

// The launches of a step recorded once and issued by one call: a CUDA graph. Only for streams of Backend::cuda.
class LaunchGraph {
 public:
  LaunchGraph() = default;
  ~LaunchGraph();
  LaunchGraph(LaunchGraph&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  LaunchGraph& operator=(LaunchGraph&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  // Records what issue() launches on the stream; runs nothing. What issue throws leaves the graph empty.
  template <class Issue> static LaunchGraph capture(const Stream& stream, Issue&& issue) {
    Capture capture(stream);
    issue();
    return capture.end();
  }
  explicit operator bool() const { return handle_ != nullptr; }
  void launch(const Stream& stream) const;

 private:
  class Capture {
   public:
    explicit Capture(const Stream& stream);
    ~Capture();
    Capture(const Capture&) = delete;
    Capture& operator=(const Capture&) = delete;
    LaunchGraph end();

   private:
    Stream stream_;
    bool open_ = true;
  };
  void* handle_ = nullptr;
};

// Launches that are issued again and again. The first time they are issued as they are, so that kernels get loaded and algorithms
// chosen; the second time they are recorded, and from then on replayed by one call.
class Recording {
 public:
  template <class Issue> void run(const Stream& stream, Issue&& issue) {
    if (!std::exchange(warm_, true)) return issue();
    if (!graph_) graph_ = LaunchGraph::capture(stream, issue);
    graph_.launch(stream);
    ++replays_;
  }
  int64_t replays() const { return replays_; }

 private:
  LaunchGraph graph_;
  bool warm_ = false;
  int64_t replays_ = 0;
};

}  // namespace electra
