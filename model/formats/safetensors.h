// safetensors files: named arrays, nothing about ELECTRA (docs/checkpoints.md).
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace electra {

// Element types by their safetensors names; foreign files may hold any, the engine reads F64, F32, BF16, F16, I64, I32 and U8.
struct NamedTensor {
  std::string name;
  std::string dtype;           // "F32"
  std::vector<int64_t> shape;  // empty: a scalar
  std::span<const std::byte> data;
  int64_t size() const;        // elements
};

// The tensors of a file whose bytes live as long as the object.
class Safetensors {
 public:
  // Parses and validates bytes of a whole file; name stands for it in messages. Throws FormatError naming what is wrong: a
  // truncated or oversized header, bad JSON, duplicate names, unknown types, holes, overlaps, sizes that do not match.
  Safetensors(std::string bytes, std::string name);
  Safetensors(const Safetensors&) = delete;
  Safetensors& operator=(const Safetensors&) = delete;

  const std::vector<NamedTensor>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::string& name() const { return name_; }
  const NamedTensor* find(std::string_view tensor) const;
  // Throws FormatError when there is none, or it has another type or shape.
  const NamedTensor& get(std::string_view tensor, std::string_view dtype, const std::vector<int64_t>& shape) const;

 private:
  std::string bytes_, name_;
  std::vector<NamedTensor> tensors_;  // by position in the file
  std::map<std::string, std::string> metadata_;
  std::map<std::string, size_t, std::less<>> index_;
};

// A whole file as the reference writer lays it out: by falling alignment, then name; header padded to 8 bytes.
std::string to_safetensors(std::vector<NamedTensor> tensors, const std::map<std::string, std::string>& metadata);

// Bytes of an element, nothing for an unknown type or one of less than a byte.
std::optional<size_t> safetensors_element_size(std::string_view dtype);

}  // namespace electra
