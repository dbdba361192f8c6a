#include "trainer/tensorboard.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <climits>

#include "trainer/tfrecord.h"

namespace electra {
namespace {

using protobuf::append_bytes, protobuf::append_tag, protobuf::append_varint, protobuf::kFixed32, protobuf::kFixed64, protobuf::kVarint;

template <class T> void append_raw(std::string& out, T value) { out.append(reinterpret_cast<const char*>(&value), sizeof value); }

// message Event {double wall_time = 1; int64 step = 2; string file_version = 3; Summary summary =
// 5}
std::string event(double wall_time) {
  std::string out;
  append_tag(out, 1, kFixed64);
  append_raw(out, wall_time);
  return out;
}

double now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string new_file_in(const std::string& directory) {
  std::array<char, HOST_NAME_MAX + 1> host{};
  if (gethostname(host.data(), host.size() - 1) != 0 || host[0] == '\0')
    host = {'l', 'o', 'c', 'a', 'l'};
  return directory + "/" +
         tensorboard_file_name(static_cast<int64_t>(now()), host.data(), getpid());
}

}  // namespace

std::string tensorboard_header(double wall_time) {
  std::string data = event(wall_time);
  append_bytes(data, 3, "brain.Event:2");
  return tfrecord(data);
}

std::string tensorboard_scalar(double wall_time, int64_t step, const Scalar& scalar) {
  // message Summary {repeated Value value = 1}; message Value {string tag = 1; float simple_value =
  // 2}
  std::string value, summary, data = event(wall_time);
  append_bytes(value, 1, scalar.tag);
  append_tag(value, 2, kFixed32);
  append_raw(value, static_cast<float>(scalar.value));
  append_bytes(summary, 1, value);
  append_tag(data, 2, kVarint);
  append_varint(data, static_cast<uint64_t>(step));
  append_bytes(data, 5, summary);
  return tfrecord(data);
}

std::string tensorboard_file_name(int64_t seconds, std::string_view host, int64_t pid) {
  return fmt::format("events.out.tfevents.{:010d}.{}.{}.0", seconds, host, pid);
}

TensorBoardWriter::TensorBoardWriter(const std::string& directory) : file_(new_file_in(directory)) {
  file_.write(tensorboard_header(now()));
}

void TensorBoardWriter::write(int64_t step, const std::vector<Scalar>& scalars) {
  const double wall_time = now();
  std::string records;
  for (const Scalar& scalar : scalars) records += tensorboard_scalar(wall_time, step, scalar);
  file_.write(records);
}

}  // namespace electra
