// The device layer on the host executor: launches and copies run at once; a graph is a list of them.
#include "kernels/core/gpu.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iterator>
#include <memory>
#include <vector>

#include "kernels/core/error.h"
#include "kernels/simt/simt.h"

namespace electra::gpu {
namespace {

using LaunchList = std::vector<std::function<void()>>;

// Two multiprocessors: a grid of as many blocks as the device runs at once has several, each with several pieces of work.
constexpr int kMajor = 9, kMinor = 0, kMultiprocessors = 2;
int most_capability = kNoLimit;

std::unique_ptr<simt::Recorder> recording;

// Runs the command, or keeps it for the graph that is being recorded.
void issue(std::function<void()> command) {
  if (simt::Recorder* r = simt::Recorder::active()) r->add(std::move(command));
  else command();
}

}  // namespace

std::string why_unusable(int index) {
  return index == 0 ? "" : "expected GPU 0 on the host executor, got " + std::to_string(index);
}
void select(int) {}
Properties properties(int) {
  return {.name = "host executor", .major = kMajor, .minor = kMinor, .driver = {}, .memory_bytes = 0, .multiprocessors = kMultiprocessors};
}
int compute_capability() { return std::min(most_capability, 10 * kMajor + kMinor); }
int multiprocessors() { return kMultiprocessors; }

void* allocate(size_t bytes) { return simt::allocate(bytes); }
void release(void* p) noexcept { simt::release(p); }
void* allocate_pinned(size_t bytes) {
  void* p = std::malloc(bytes);
  if (!p) throw DeviceError("memory", "expected " + std::to_string(bytes) + " bytes, the system has not that much");
  return p;
}
void release_pinned(void* p) noexcept { std::free(p); }

// Nothing is ever in flight, so streams and events have no state; a handle that is not null tells them from none.
Handle create_stream() { return &recording; }
void destroy_stream(Handle) noexcept {}
void synchronize(Handle) {}
void copy(void* to, const void* from, size_t bytes, Handle) {
  issue([=] { simt::is_device_pointer(to) ? simt::upload(to, from, bytes) : simt::download(to, from, bytes); });
}
void fill(void* to, int byte, size_t bytes, Handle) {
  issue([=] { simt::fill(to, byte, bytes); });
}
void poison(void* to, size_t bytes, Handle) {
  issue([=] { simt::poison(to, bytes); });
}

Handle create_event() { return &recording; }
void destroy_event(Handle) noexcept {}
void record(Handle, Handle) {}
void wait(Handle, Handle) {}
void synchronize_event(Handle) {}
double elapsed_ms(Handle, Handle) { return 0; }

void begin_capture(Handle) { recording = std::make_unique<simt::Recorder>(); }
Handle end_capture(Handle) {
  auto* launches = new LaunchList(recording->take());
  recording.reset();
  return launches;
}
bool is_capturing(Handle) { return simt::Recorder::active() != nullptr; }
void launch_graph(Handle graph, Handle) {
  for (const std::function<void()>& command : *static_cast<const LaunchList*>(graph)) command();
}
void destroy_graph(Handle graph) noexcept { delete static_cast<LaunchList*>(graph); }

int test_schedules() { return static_cast<int>(std::size(simt::kSchedules)); }
void use_test_schedule(int schedule) { simt::options = simt::kSchedules[schedule]; }
void limit_compute_capability(int most) { most_capability = most; }

}  // namespace electra::gpu
