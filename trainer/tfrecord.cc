#include "trainer/tfrecord.h"

#include <fmt/format.h>

#include <array>
#include <bit>
#include <cstring>

#include "kernels/core/error.h"

namespace electra {
namespace {

static_assert(std::endian::native == std::endian::little);

// CRC-32C: Castagnoli's polynomial, reflected (RFC 3720, appendix B.4). Table k has the checksums of a byte that k zeros follow.
constexpr size_t kSlices = 8;
constexpr std::array<std::array<uint32_t, 256>, kSlices> kCrcTables = [] {
  std::array<std::array<uint32_t, 256>, kSlices> tables{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
    tables[0][i] = crc;
  }
  for (size_t k = 1; k < kSlices; ++k)
    for (uint32_t i = 0; i < 256; ++i) tables[k][i] = tables[k - 1][i] >> 8 ^ tables[0][tables[k - 1][i] & 0xff];
  return tables;
}();

uint32_t crc32c(std::string_view bytes) {
  uint32_t crc = ~0u;
  for (; bytes.size() >= kSlices; bytes.remove_prefix(kSlices)) {
    uint64_t next;
    std::memcpy(&next, bytes.data(), sizeof next);
    next ^= crc;
    crc = 0;
    for (size_t k = 0; k < kSlices; ++k) crc ^= kCrcTables[kSlices - 1 - k][next >> 8 * k & 0xff];
  }
  for (const char c : bytes) crc = crc >> 8 ^ kCrcTables[0][(crc ^ static_cast<unsigned char>(c)) & 0xff];
  return ~crc;
}

template <class T> void append_raw(std::string& out, T value) { out.append(reinterpret_cast<const char*>(&value), sizeof value); }

template <class T> T read_raw(std::string_view bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

constexpr size_t kHeader = 12, kFooter = 4;  // bytes around a record's data

}  // namespace

uint32_t masked_crc32c(std::string_view bytes) { return std::rotr(crc32c(bytes), 15) + 0xa282ead8u; }

std::string tfrecord(std::string_view data) {
  std::string out;
  append_raw(out, static_cast<uint64_t>(data.size()));
  append_raw(out, masked_crc32c(out));
  out += data;
  append_raw(out, masked_crc32c(data));
  return out;
}

TfRecordReader::TfRecordReader(std::span<const std::byte> bytes, std::string name) : bytes_(reinterpret_cast<const char*>(bytes.data()), bytes.size()), name_(std::move(name)) {}

std::string TfRecordReader::place() const { return fmt::format("{}: record {} at byte {}", name_, record_, begin_); }

bool TfRecordReader::next(std::string_view& data) {
  begin_ = end_;
  ++record_;
  const std::string_view left = bytes_.substr(begin_);
  if (left.empty()) return false;
  const auto check = [&](const char* what, uint32_t said, uint32_t is) {
    if (said == is) return;
    const bool gzip = record_ == 0 && left.starts_with("\x1f\x8b");
    throw DataError(place(), gzip ? "expected a TFRecord file that is not compressed, got gzip" : fmt::format("expected checksum {:08x} of its {}, got {:08x}", is, what, said));
  };
  if (left.size() < kHeader) throw DataError(place(), fmt::format("expected {} bytes of a record's header, got the end of the file after {}", kHeader, left.size()));
  check("length", read_raw<uint32_t>(left, 8), masked_crc32c(left.substr(0, 8)));
  const auto length = read_raw<uint64_t>(left, 0);
  if (length > left.size() - kHeader || left.size() - kHeader - length < kFooter)
    throw DataError(place(), fmt::format("expected {} bytes of data and {} of checksum, got the end of the file after {}", length, kFooter, left.size() - kHeader));
  data = left.substr(kHeader, static_cast<size_t>(length));
  check("data", read_raw<uint32_t>(left, kHeader + data.size()), masked_crc32c(data));
  end_ = begin_ + kHeader + data.size() + kFooter;
  return true;
}

namespace protobuf {

void append_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}

void append_tag(std::string& out, uint32_t field, WireType type) { append_varint(out, field << 3 | type); }

void append_bytes(std::string& out, uint32_t field, std::string_view bytes) {
  append_tag(out, field, kBytes);
  append_varint(out, bytes.size());
  out += bytes;
}

uint64_t take_varint(std::string_view& bytes) {
  uint64_t value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    if (bytes.empty()) throw Damaged("a number that is cut short");
    const auto byte = static_cast<unsigned char>(bytes.front());
    bytes.remove_prefix(1);
    value |= uint64_t{byte & 0x7fu} << shift;
    if (byte < 0x80) return value;
  }
  throw Damaged("a number of more than ten bytes");
}

bool Reader::next() {
  if (left_.empty()) return false;
  const uint64_t tag = take_varint(left_);
  field_ = static_cast<uint32_t>(tag >> 3);
  if (tag >> 3 == 0 || tag >> 32 != 0) throw Damaged(fmt::format("a field numbered {}", tag >> 3));
  const auto take = [&](uint64_t n) {
    if (n > left_.size()) throw Damaged(fmt::format("field {} of {} bytes where {} are left", field_, n, left_.size()));
    const std::string_view taken = left_.substr(0, static_cast<size_t>(n));
    left_.remove_prefix(taken.size());
    return taken;
  };
  switch (tag & 7) {
    case kVarint: varint_ = take_varint(left_); break;
    case kFixed64: take(8); break;
    case kBytes: bytes_ = take(take_varint(left_)); break;
    case kFixed32: take(4); break;
    default: throw Damaged(fmt::format("field {} of wire type {}", field_, tag & 7));
  }
  type_ = static_cast<WireType>(tag & 7);
  return true;
}

}  // namespace protobuf
}  // namespace electra
