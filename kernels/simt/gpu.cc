// The device layer on the host executor. What is issued on a stream runs at once, or, where a test asks for another order, when
// somebody waits for it; a graph is a list of launches.
#include "kernels/core/gpu.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "kernels/core/error.h"
#include "kernels/simt/simt.h"

namespace electra::gpu {
namespace {

using Command = std::function<void()>;
using LaunchList = std::vector<Command>;

struct WorkStream {
  bool side = false;
  std::deque<Command> pending;
  uint64_t issued = 0, done = 0;  // commands
};
// An event: done when its stream has done that many commands.
struct Mark {
  WorkStream* stream = nullptr;
  uint64_t commands = 0;
};

// Two multiprocessors: a grid of as many blocks as the device runs at once has several, each with several pieces of work.
constexpr int kMajor = 9, kMinor = 0, kMultiprocessors = 2;
int most_capability = kNoLimit;

std::unique_ptr<simt::Recorder> recording;
int running = 0;  // commands that are being done, one within another
StreamOrder order = StreamOrder::issued;
std::set<WorkStream*>& streams() {
  static auto& all = *new std::set<WorkStream*>;
  return all;
}
std::map<const std::byte*, size_t>& pinned() {
  static auto& all = *new std::map<const std::byte*, size_t>;
  return all;
}

WorkStream* stream_of(Handle stream) { return static_cast<WorkStream*>(stream); }
bool is_late(const WorkStream& s) { return order == StreamOrder::late || (order == StreamOrder::side_first && !s.side); }

// Does the stream's first `commands` commands. One of them may wait for another stream and so do that one's.
void run_until(WorkStream& s, uint64_t commands) {
  while (s.done < commands) {
    const Command next = std::move(s.pending.front());
    s.pending.pop_front();
    ++s.done;
    ++running;
    struct Done {
      ~Done() { --running; }
    } const done;
    next();
  }
}
void run_all(bool side_streams) {
  for (WorkStream* s : streams())
    if (side_streams || !s->side) run_until(*s, s->issued);
}

// Does the command, or keeps it for the graph that is being recorded or for later. Without a stream: at once.
void issue(Handle stream, Command command) {
  if (simt::Recorder* r = simt::Recorder::active()) return r->add(std::move(command));
  WorkStream* const s = stream_of(stream);
  if (!s) return command();
  s->pending.push_back(std::move(command));
  ++s->issued;
  if (!is_late(*s)) run_until(*s, s->issued);
}

bool is_pageable(const void* p) {
  if (simt::is_device_pointer(p)) return false;
  const auto* const address = static_cast<const std::byte*>(p);
  const auto after = pinned().upper_bound(address);
  return after == pinned().begin() || address >= std::prev(after)->first + std::prev(after)->second;
}

void copy_now(void* to, const void* from, size_t bytes) {
  simt::is_device_pointer(to) ? simt::upload(to, from, bytes) : simt::download(to, from, bytes);
}

}  // namespace

Probe probe(int) { return {}; }
// Kernels that are launched by themselves run at once, and so after everything issued before them.
void select(int) {
  simt::before_launch = [] {
    if (running == 0) run_all(false);
  };
}
Properties properties(int) {
  return {.name = "host executor", .major = kMajor, .minor = kMinor, .driver = {}, .memory_bytes = 0, .multiprocessors = kMultiprocessors, .bus_id = {}};
}
int compute_capability() { return std::min(most_capability, 10 * kMajor + kMinor); }
int multiprocessors() { return kMultiprocessors; }

void* allocate(size_t bytes) { return simt::allocate(bytes); }
void release(void* p) noexcept {
  run_all(true);
  simt::release(p);
}
void* allocate_pinned(size_t bytes) {
  void* p = std::malloc(bytes);
  if (!p) throw DeviceError("memory", "expected " + std::to_string(bytes) + " bytes, the system has not that much");
  pinned().emplace(static_cast<const std::byte*>(p), bytes);
  return p;
}
void release_pinned(void* p) noexcept {
  run_all(true);
  pinned().erase(static_cast<const std::byte*>(p));
  std::free(p);
}

Handle create_stream() {
  auto* const s = new WorkStream;
  streams().insert(s);
  return s;
}
Handle create_side_stream() {
  const Handle s = create_stream();
  stream_of(s)->side = true;
  return s;
}
void destroy_stream(Handle stream) noexcept {
  run_until(*stream_of(stream), stream_of(stream)->issued);
  streams().erase(stream_of(stream));
  delete stream_of(stream);
}
void synchronize(Handle stream) {
  if (stream) run_until(*stream_of(stream), stream_of(stream)->issued);
}
// As the CUDA runtime: a copy from ordinary host memory takes its bytes at once, one to it is done when the call returns.
void copy(void* to, const void* from, size_t bytes, Handle stream) {
  if (stream && is_late(*stream_of(stream)) && is_pageable(from) && !simt::Recorder::active()) {
    const auto* const begin = static_cast<const std::byte*>(from);
    return issue(stream, [to, kept = std::vector<std::byte>(begin, begin + bytes)] { copy_now(to, kept.data(), kept.size()); });
  }
  issue(stream, [=] { copy_now(to, from, bytes); });
  if (is_pageable(to) && !simt::Recorder::active()) synchronize(stream);
}
void fill(void* to, int byte, size_t bytes, Handle stream) {
  issue(stream, [=] { simt::fill(to, byte, bytes); });
}
void poison(void* to, size_t bytes, Handle stream) {
  issue(stream, [=] { simt::poison(to, bytes); });
}

Handle create_event() { return new Mark; }
void destroy_event(Handle event) noexcept { delete static_cast<Mark*>(event); }
void record(Handle event, Handle stream) { *static_cast<Mark*>(event) = {stream_of(stream), stream ? stream_of(stream)->issued : 0}; }
void wait(Handle stream, Handle event) {
  const Mark mark = *static_cast<Mark*>(event);
  issue(stream, [mark] {
    if (streams().count(mark.stream)) run_until(*mark.stream, mark.commands);
  });
}
void synchronize_event(Handle event) {
  const Mark mark = *static_cast<Mark*>(event);
  if (streams().count(mark.stream)) run_until(*mark.stream, mark.commands);
}
double elapsed_ms(Handle, Handle) { return 0; }

void begin_capture(Handle) { recording = std::make_unique<simt::Recorder>(); }
Handle end_capture(Handle) {
  auto* launches = new LaunchList(recording->take());
  recording.reset();
  return launches;
}
bool is_capturing(Handle) { return simt::Recorder::active() != nullptr; }
void launch_graph(Handle graph, Handle stream) {
  issue(stream, [launches = static_cast<const LaunchList*>(graph)] {
    for (const Command& command : *launches) command();
  });
}
void destroy_graph(Handle graph) noexcept {
  run_all(true);
  delete static_cast<LaunchList*>(graph);
}

// The builds that watch every access have one: what they look for does not depend on it, and they are slow.
int test_schedules() { return simt::is_check_build() || simt::is_asan_build() ? 1 : static_cast<int>(std::size(simt::kSchedules)); }
void use_test_schedule(int schedule) { simt::options = simt::kSchedules[schedule]; }
void limit_compute_capability(int most) { most_capability = most; }
void use_test_streams(StreamOrder value) {
  run_all(true);
  order = value;
}

}  // namespace electra::gpu
