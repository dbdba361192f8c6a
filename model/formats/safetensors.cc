#include "model/formats/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "kernels/core/error.h"

namespace electra {
namespace {

using nlohmann::json;

// In the order of the reference implementation's enumeration: the writer sorts by it, widest alignment first.
struct Type {
  std::string_view name;
  size_t bits;
};
constexpr std::array<Type, 21> kTypes = {{{"BOOL", 8}, {"F4", 4}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8}, {"I8", 8}, {"F8_E5M2", 8},
                                          {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16}, {"U16", 16},
                                          {"F16", 16}, {"BF16", 16}, {"I32", 32}, {"U32", 32}, {"F32", 32}, {"C64", 64}, {"F64", 64}, {"I64", 64}}};
constexpr std::array<Type, 1> kLastTypes = {{{"U64", 64}}};
constexpr uint64_t kLargestHeader = 100'000'000;  // bytes

size_t rank(std::string_view name) {
  for (size_t i = 0; i < kTypes.size(); ++i)
    if (kTypes[i].name == name) return i;
  return kTypes.size();
}

std::optional<size_t> bits_of(std::string_view name) {
  for (const Type& t : kTypes)
    if (t.name == name) return t.bits;
  for (const Type& t : kLastTypes)
    if (t.name == name) return t.bits;
  return std::nullopt;
}

// Parses a JSON text and refuses a key that stands twice in one object, of which the parser would keep the last.
json parse_without_duplicates(std::string_view text, const std::string& name) {
  std::vector<std::set<std::string>> open;  // keys of the objects around
  std::string duplicate;
  const auto watch = [&](int, json::parse_event_t event, json& value) {
    if (event == json::parse_event_t::object_start) open.emplace_back();
    if (event == json::parse_event_t::object_end) open.pop_back();
    if (event == json::parse_event_t::key && !open.back().insert(value.get<std::string>()).second) duplicate = value.get<std::string>();
    return true;
  };
  json parsed;
  try {
    parsed = json::parse(text, watch);
  } catch (const json::exception& error) {
    throw FormatError(name, std::string("expected a header in JSON, got '") + error.what() + "'");
  }
  if (!duplicate.empty()) throw FormatError(name, "expected each name once, got '" + duplicate + "' twice");
  return parsed;
}

NamedTensor parse_tensor(const std::string& key, const json& entry, std::span<const std::byte> data, const std::string& file) {
  const auto fail = [&](const std::string& expected, const std::string& got) -> FormatError {
    return FormatError(file, "tensor " + key + ": expected " + expected + ", got " + got);
  };
  if (!entry.is_object() || !entry.contains("dtype") || !entry.contains("shape") || !entry.contains("data_offsets"))
    throw fail("dtype, shape and data_offsets", entry.dump().substr(0, 80));
  const json &dtype = entry["dtype"], &shape = entry["shape"], &offsets = entry["data_offsets"];
  if (!dtype.is_string() || !bits_of(dtype.get<std::string>())) throw fail("a known type", dtype.dump().substr(0, 40));
  if (!shape.is_array()) throw fail("a shape", shape.dump().substr(0, 40));
  NamedTensor t{key, dtype.get<std::string>(), {}, {}};
  uint64_t bits = *bits_of(t.dtype);
  for (const json& extent : shape) {
    if (!extent.is_number_unsigned()) throw fail("extents of at least 0", shape.dump().substr(0, 40));
    const auto n = extent.get<uint64_t>();
    if (n > (uint64_t{1} << 56) || (n > 0 && bits > (uint64_t{1} << 60) / n)) throw fail("a size that fits in memory", shape.dump().substr(0, 80));
    bits *= n;
    t.shape.push_back(static_cast<int64_t>(n));
  }
  if (bits % 8 != 0) throw fail("a whole number of bytes", std::to_string(bits) + " bits");
  if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() || !offsets[1].is_number_unsigned())
    throw fail("two data_offsets", offsets.dump().substr(0, 40));
  const auto begin = offsets[0].get<uint64_t>(), end = offsets[1].get<uint64_t>();
  if (end < begin || end > data.size()) throw fail("offsets within " + std::to_string(data.size()) + " bytes of data", offsets.dump().substr(0, 60));
  if (end - begin != bits / 8) throw fail(std::to_string(bits / 8) + " bytes", std::to_string(end - begin));
  t.data = data.subspan(begin, end - begin);
  return t;
}

}  // namespace

int64_t NamedTensor::size() const {
  int64_t n = 1;
  for (const int64_t extent : shape) n *= extent;
  return n;
}

std::optional<size_t> safetensors_element_size(std::string_view dtype) {
  const auto bits = bits_of(dtype);
  if (!bits || *bits % 8 != 0) return std::nullopt;
  return *bits / 8;
}

Safetensors::Safetensors(std::string bytes, std::string name) : bytes_(std::move(bytes)), name_(std::move(name)) {
  if (bytes_.size() < 8) throw FormatError(name_, "expected a safetensors file, got " + std::to_string(bytes_.size()) + " bytes");
  uint64_t header_size = 0;
  std::memcpy(&header_size, bytes_.data(), 8);
  if (header_size > kLargestHeader || header_size + 8 > bytes_.size())
    throw FormatError(name_, "expected a safetensors header within " + std::to_string(bytes_.size()) + " bytes, got a length of " + std::to_string(header_size));
  const std::string_view header(bytes_.data() + 8, header_size);
  if (header.empty() || header[0] != '{') throw FormatError(name_, "expected a header that begins with '{', got other bytes");
  const json parsed = parse_without_duplicates(header, name_);
  const auto data = std::as_bytes(std::span(bytes_)).subspan(8 + header_size);
  for (const auto& [key, entry] : parsed.items()) {
    if (key != "__metadata__") {
      tensors_.push_back(parse_tensor(key, entry, data, name_));
      continue;
    }
    if (!entry.is_object()) throw FormatError(name_, "expected __metadata__ to map strings to strings, got " + entry.dump().substr(0, 40));
    for (const auto& [k, v] : entry.items()) {
      if (!v.is_string()) throw FormatError(name_, "expected __metadata__ to map strings to strings, got " + v.dump().substr(0, 40) + " for " + k);
      metadata_[k] = v.get<std::string>();
    }
  }
  std::stable_sort(tensors_.begin(), tensors_.end(), [](const NamedTensor& a, const NamedTensor& b) {
    return a.data.data() != b.data.data() ? a.data.data() < b.data.data() : a.data.size() < b.data.size();
  });
  const std::byte* expected = data.data();
  for (const NamedTensor& t : tensors_) {
    if (t.data.data() != expected) throw FormatError(name_, "tensor " + t.name + ": expected data without holes and overlaps, got them before it");
    expected += t.data.size();
  }
  if (expected != data.data() + data.size())
    throw FormatError(name_, "expected " + std::to_string(expected - data.data()) + " bytes of data, got " + std::to_string(data.size()));
  for (size_t i = 0; i < tensors_.size(); ++i) index_.emplace(tensors_[i].name, i);
}

const NamedTensor* Safetensors::find(std::string_view tensor) const {
  const auto it = index_.find(tensor);
  return it == index_.end() ? nullptr : &tensors_[it->second];
}

const NamedTensor& Safetensors::get(std::string_view tensor, std::string_view dtype, const std::vector<int64_t>& shape) const {
  const NamedTensor* t = find(tensor);
  const auto text = [](std::string_view type, const std::vector<int64_t>& extents) { return std::string(type) + " " + json(extents).dump(); };
  if (!t) throw FormatError(name_, "expected a tensor " + std::string(tensor) + ", got none of that name");
  if (t->dtype != dtype || t->shape != shape)
    throw FormatError(name_, "tensor " + std::string(tensor) + ": expected " + text(dtype, shape) + ", got " + text(t->dtype, t->shape));
  return *t;
}

std::string to_safetensors(std::vector<NamedTensor> tensors, const std::map<std::string, std::string>& metadata) {
  std::sort(tensors.begin(), tensors.end(), [](const NamedTensor& a, const NamedTensor& b) {
    const size_t ra = rank(a.dtype), rb = rank(b.dtype);
    return ra != rb ? ra > rb : a.name < b.name;
  });
  nlohmann::ordered_json header;
  if (!metadata.empty()) header["__metadata__"] = metadata;
  size_t offset = 0;
  for (const NamedTensor& t : tensors) {
    header[t.name] = {{"dtype", t.dtype}, {"shape", t.shape}, {"data_offsets", {offset, offset + t.data.size()}}};
    offset += t.data.size();
  }
  std::string text = header.is_null() ? "{}" : header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  std::string out(8, '\0');
  const uint64_t size = text.size();
  std::memcpy(out.data(), &size, 8);
  out.reserve(8 + text.size() + offset);
  out += text;
  for (const NamedTensor& t : tensors) out.append(reinterpret_cast<const char*>(t.data.data()), t.data.size());
  return out;
}

}  // namespace electra
