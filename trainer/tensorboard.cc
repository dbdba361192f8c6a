#include "trainer/tensorboard.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <chrono>
#include <climits>

namespace electra {
namespace {

static_assert(std::endian::native == std::endian::little);

// CRC-32C: Castagnoli's polynomial, reflected (RFC 3720, appendix B.4).
constexpr std::array<uint32_t, 256> kCrcTable = [] {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
    table[i] = crc;
  }
  return table;
}();

uint32_t crc32c(std::string_view bytes) {
  uint32_t crc = ~0u;
  for (const char c : bytes)
    crc = crc >> 8 ^ kCrcTable[(crc ^ static_cast<unsigned char>(c)) & 0xff];
  return ~crc;
}

// TFRecord stores checksums rotated and offset, so that a checksum of checksums is no special
// value.
uint32_t masked_crc32c(std::string_view bytes) {
  return std::rotr(crc32c(bytes), 15) + 0xa282ead8u;
}

template <class T> void append_raw(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void append_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}

// Protobuf wire types.
enum WireType : uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

void append_tag(std::string& out, uint32_t field, WireType type) {
  append_varint(out, field << 3 | type);
}

void append_bytes(std::string& out, uint32_t field, std::string_view bytes) {
  append_tag(out, field, kBytes);
  append_varint(out, bytes.size());
  out += bytes;
}

// u64 length | masked crc of it | data | masked crc of it
std::string record(std::string_view data) {
  std::string out;
  append_raw(out, static_cast<uint64_t>(data.size()));
  append_raw(out, masked_crc32c(out));
  out += data;
  append_raw(out, masked_crc32c(data));
  return out;
}

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
  return record(data);
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
  return record(data);
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
