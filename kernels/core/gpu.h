// What the device layer asks of a GPU. One definition is linked: kernels/cuda/gpu.cc (the one file that sees the CUDA runtime)
// or kernels/simt/gpu.cc (the host executor), as ELECTRA_GPU says; none with OFF. Everything throws DeviceError.
#pragma once
#include <cstddef>
#include <optional>
#include <string>

namespace electra::gpu {

struct Properties {
  std::string name;            // "NVIDIA H200"
  int major = 0, minor = 0;    // compute capability
  std::string driver;          // "13.0", the newest CUDA version the driver knows; empty on the executor
  size_t memory_bytes = 0;
  int multiprocessors = 0;
  std::string bus_id;          // "0000:3B:00.0": which GPU it is, whatever CUDA_VISIBLE_DEVICES makes its number; empty on the executor
};

// What the driver says before any GPU is used.
struct Probe {
  int runtime = 0;      // 13000: the CUDA version this program was built with
  int driver = 0;       // the newest one that the driver knows; 0: there is no driver
  std::string failure;  // what the driver says where it cannot list GPUs
  int count = 0;        // of visible GPUs
  int major = 0, minor = 0;            // compute capability of the one asked for
  std::optional<std::string> visible;  // CUDA_VISIBLE_DEVICES, where it is set
};
// Asks about device `index` and looks at no other. Never throws.
Probe probe(int index);
// Why a CUDA device cannot be used ("expected a CUDA driver, none is installed"); empty when it can.
std::string why_unusable(const Probe& probe, int index);
// "13.0" of 13000.
std::string cuda_version(int number);
// Makes device `index` the one this process uses; no other is touched.
void select(int index);
Properties properties(int index);
// Of the selected device; cheap enough to choose kernels by at every launch.
int compute_capability();  // 10 major + minor: 90 on an H100
int multiprocessors();

void* allocate(size_t bytes);
void release(void* p) noexcept;
void* allocate_pinned(size_t bytes);  // host memory that copies run from and to without staging
void release_pinned(void* p) noexcept;

// A stream, event or recorded graph of the CUDA runtime.
using Handle = void*;

Handle create_stream();
Handle create_side_stream();  // of copies that run beside the kernels of another stream
void destroy_stream(Handle stream) noexcept;
void synchronize(Handle stream);
void copy(void* to, const void* from, size_t bytes, Handle stream);  // between any two kinds of memory
void fill(void* to, int byte, size_t bytes, Handle stream);
void poison(void* to, size_t bytes, Handle stream);  // 0xff: NaN in every floating type; the check build knows it as never written

Handle create_event();
void destroy_event(Handle event) noexcept;
void record(Handle event, Handle stream);
void wait(Handle stream, Handle event);       // what follows on the stream runs after the event
void synchronize_event(Handle event);
double elapsed_ms(Handle begin, Handle end);  // both recorded and done

void begin_capture(Handle stream);
Handle end_capture(Handle stream);            // an executable graph
bool is_capturing(Handle stream);
void launch_graph(Handle graph, Handle stream);
void destroy_graph(Handle graph) noexcept;

// For tests: the order in which the executor runs blocks and threads, and when asynchronous copies arrive. What a kernel computes
// must depend on neither. A GPU has one schedule, its own.
int test_schedules();
void use_test_schedule(int schedule);  // 0 to test_schedules() - 1
// For tests: kernels are chosen as if the compute capability were at most this.
void limit_compute_capability(int most);
constexpr int kNoLimit = 1 << 30;
// For tests: when the executor does what is issued on streams. What a program computes must not depend on it, either: events alone
// say what comes before what. A GPU has its own order.
enum class StreamOrder {
  issued,      // at once
  late,        // when somebody waits for it
  side_first,  // side streams at once, the others when somebody waits for them
};
void use_test_streams(StreamOrder order);

}  // namespace electra::gpu
