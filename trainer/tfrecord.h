// TFRecord files, which TensorBoard's events and the original's examples are stored in, and the little of protobuf's encoding that
// both need.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

namespace electra {

// CRC-32C as TFRecord stores it: rotated and offset, so that a checksum of checksums is no special value.
uint32_t masked_crc32c(std::string_view bytes);

// u64 length | masked crc of it | data | masked crc of it
std::string tfrecord(std::string_view data);

// Reads the records of a mapped file in order. Throws DataError naming the file, the record and its first byte for one that is cut
// short or whose checksums do not match.
class TfRecordReader {
 public:
  // bytes must outlive the reader; name: of the file, in messages.
  TfRecordReader(std::span<const std::byte> bytes, std::string name);
  // A view into bytes; false at the end.
  bool next(std::string_view& data);
  // "name: record 3 at byte 182", of what next gave last.
  std::string place() const;

 private:
  std::string_view bytes_;
  std::string name_;
  size_t begin_ = 0, end_ = 0;  // of the last record
  int64_t record_ = -1;
};

namespace protobuf {

enum WireType : uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

void append_varint(std::string& out, uint64_t value);
void append_tag(std::string& out, uint32_t field, WireType type);
void append_bytes(std::string& out, uint32_t field, std::string_view bytes);

// What is wrong with a message; whoever knows the place adds it.
struct Damaged : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The fields of a message, one after the other. Throws Damaged.
class Reader {
 public:
  explicit Reader(std::string_view message) : left_(message) {}
  // False at the end. Groups and unknown wire types are damage.
  bool next();
  uint32_t field() const { return field_; }
  WireType type() const { return type_; }
  uint64_t varint() const { return varint_; }        // of kVarint
  std::string_view bytes() const { return bytes_; }  // of kBytes

 private:
  std::string_view left_, bytes_;
  uint64_t varint_ = 0;
  uint32_t field_ = 0;
  WireType type_ = kVarint;
};

// Takes a varint off the front. Throws Damaged.
uint64_t take_varint(std::string_view& bytes);

}  // namespace protobuf
}  // namespace electra
