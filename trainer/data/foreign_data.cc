#include "trainer/data/foreign_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <span>

#include "kernels/core/error.h"
#include "trainer/files.h"
#include "trainer/tfrecord.h"

namespace electra {
namespace {

namespace fs = std::filesystem;

template <class T> T read(std::span<const std::byte> bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

// tf.Example: message Example {Features features = 1;} Features {map<string, Feature> feature = 1;} Feature {oneof {BytesList 1,
// FloatList 2, Int64List 3}} Int64List {repeated int64 value = 1;}, packed or not.
constexpr std::array<std::string_view, 3> kFeatures = {"input_ids", "input_mask", "segment_ids"};

using Features = std::array<std::vector<int64_t>, kFeatures.size()>;

void read_int64_list(std::string_view message, std::vector<int64_t>& values) {
  using namespace protobuf;
  for (Reader list(message); list.next();) {
    if (list.field() != 1) continue;
    if (list.type() == kVarint) values.push_back(static_cast<int64_t>(list.varint()));
    if (list.type() != kBytes) continue;
    for (std::string_view packed = list.bytes(); !packed.empty();) values.push_back(static_cast<int64_t>(take_varint(packed)));
  }
}

// Features of other names are not looked at.
void read_example(std::string_view message, Features& features) {
  using namespace protobuf;
  for (std::vector<int64_t>& f : features) f.clear();
  for (Reader example(message); example.next();) {
    if (example.field() != 1 || example.type() != kBytes) continue;
    for (Reader map(example.bytes()); map.next();) {
      if (map.field() != 1 || map.type() != kBytes) continue;
      std::string_view key, feature;
      for (Reader entry(map.bytes()); entry.next();) {
        if (entry.type() != kBytes) continue;
        if (entry.field() == 1) key = entry.bytes();
        if (entry.field() == 2) feature = entry.bytes();
      }
      const auto known = std::find(kFeatures.begin(), kFeatures.end(), key);
      if (known == kFeatures.end()) continue;
      std::vector<int64_t>& values = features[static_cast<size_t>(known - kFeatures.begin())];
      values.clear();  // the last of a name counts
      for (Reader kind(feature); kind.next();)
        if (kind.field() == 3 && kind.type() == kBytes) read_int64_list(kind.bytes(), values);
    }
  }
}

class TfRecordData : public ForeignData {
 public:
  TfRecordData(const fs::path& path, const Vocabulary& vocabulary) : file_(path), records_(file_.bytes(), path.string()), vocabulary_(vocabulary) {
    if (file_.bytes().empty()) throw DataError(path.string(), "expected TFRecords, got an empty file");
  }
  std::string_view format() const override { return "TFRecord"; }

  bool next(TokenDocument& document) override {
    document.clear();
    std::string_view record;
    if (!records_.next(record)) return false;
    try {
      read_example(record, features_);
    } catch (const protobuf::Damaged& damage) {
      bad("a tf.Example", damage.what());
    }
    const auto& [ids, mask, segments] = features_;
    if (ids.empty()) bad("a tf.Example with input_ids", "one without");
    for (size_t f = 1; f < kFeatures.size(); ++f)
      if (features_[f].size() != ids.size()) bad(fmt::format("{} values of {}, as of input_ids", ids.size(), kFeatures[f]), std::to_string(features_[f].size()));
    // [CLS] a [SEP], or [CLS] a [SEP] b [SEP], and nothing behind.
    const auto length = static_cast<size_t>(std::find(mask.begin(), mask.end(), 0) - mask.begin());
    const auto at = [&](const char* feature, size_t i, const std::string& expected, int64_t got) { bad(expected, fmt::format("{} in {}[{}]", got, feature, i)); };
    for (size_t i = 0; i < ids.size(); ++i) {
      if (mask[i] != (i < length ? 1 : 0)) at("input_mask", i, "ones and then zeros", mask[i]);
      if (segments[i] != 0 && (segments[i] != 1 || i >= length)) at("segment_ids", i, i < length ? "segment 0 or 1" : "zeros behind the example", segments[i]);
      if (ids[i] < 0 || ids[i] >= vocabulary_.size()) at("input_ids", i, fmt::format("ids 0 to {}, the vocabulary's", vocabulary_.size() - 1), ids[i]);
      if (i >= length && ids[i] != 0 && ids[i] != vocabulary_.pad()) at("input_ids", i, "zeros behind the example", ids[i]);
    }
    if (length < 3) bad("an example of at least three tokens", std::to_string(length));
    const auto special = [&](size_t i, int32_t id) {
      if (ids[i] != id) at("input_ids", i, fmt::format("{} ({})", vocabulary_.token(id), id), ids[i]);
    };
    const auto second = static_cast<size_t>(std::find(segments.begin(), segments.begin() + static_cast<ptrdiff_t>(length), 1) - segments.begin());
    for (size_t i = second; i < length; ++i)
      if (segments[i] != 1) at("segment_ids", i, "one behind ones", segments[i]);
    special(0, vocabulary_.cls());
    const auto add = [&](size_t begin, size_t end) {  // with its [SEP]
      if (end < begin + 2) bad("segments of at least one token", "an empty one");
      special(end - 1, vocabulary_.sep());
      for (size_t i = begin; i + 1 < end; ++i) document.ids.push_back(static_cast<int32_t>(ids[i]));
      document.ends.push_back(document.ids.size());
    };
    add(1, second);
    if (second < length) add(second, length);
    return true;
  }

 private:
  [[noreturn]] void bad(const std::string& expected, const std::string& got) const { throw DataError(records_.place(), "expected " + expected + ", got " + got); }

  MappedFile file_;
  TfRecordReader records_;
  const Vocabulary& vocabulary_;
  Features features_;
};

// Integer types by their code in the index, which the two share as far as both have them; the others are floats.
enum class IdType : uint8_t { u8 = 1, i8 = 2, i16 = 3, i32 = 4, i64 = 5, u16 = 8, u32 = 9, u64 = 10 };

size_t width_of(IdType type) {
  switch (type) {
    case IdType::u8:
    case IdType::i8: return 1;
    case IdType::i16:
    case IdType::u16: return 2;
    case IdType::i32:
    case IdType::u32: return 4;
    case IdType::i64:
    case IdType::u64: return 8;
  }
  return 0;
}

constexpr char kMagic[9] = {'M', 'M', 'I', 'D', 'I', 'D', 'X', 0, 0};
constexpr size_t kFairseqHeader = 26, kMegatronHeader = 34;  // bytes before the lengths

fs::path with(const fs::path& stem, const char* extension) { return stem.string() + extension; }

class IndexedData : public ForeignData {
 public:
  IndexedData(const fs::path& stem, const Vocabulary& vocabulary, const std::optional<fs::path>& dictionary)
      : idx_path_(with(stem, ".idx").string()), bin_path_(with(stem, ".bin").string()), idx_(idx_path_), bin_(bin_path_), vocabulary_(vocabulary) {
    read_index();
    if (dictionary && is_megatron_) throw ConfigError("--dictionary", "expected none for " + idx_path_ + ", which Megatron wrote, got one");
    if (dictionary) read_dictionary(*dictionary);
  }
  std::string_view format() const override { return is_megatron_ ? "Megatron" : "fairseq"; }

  bool next(TokenDocument& document) override {
    document.clear();
    if (is_megatron_) {
      if (document_ + 1 >= table_) return false;
      const auto end = static_cast<size_t>(boundary(++document_));
      while (sequence_ < end) add_sequence(document);
      return true;
    }
    if (sequence_ == sequences_) return false;
    // An empty line, which is an empty sequence or [end of sentence] alone, ends a document.
    while (sequence_ < sequences_ && add_sequence(document)) {}
    return true;
  }

 private:
  [[noreturn]] static void bad(const std::string& path, const std::string& expected, const std::string& got) { throw DataError(path, "expected " + expected + ", got " + got); }

  int32_t length(size_t s) const { return read<int32_t>(idx_.bytes(), header_ + 4 * s); }
  int64_t offset(size_t s) const { return read<int64_t>(idx_.bytes(), header_ + 4 * sequences_ + 8 * s); }
  int64_t boundary(size_t d) const { return read<int64_t>(idx_.bytes(), header_ + 12 * sequences_ + 8 * d); }

  void read_index() {
    const auto idx = idx_.bytes();
    if (idx.size() >= 8 && std::memcmp(idx.data(), "TNTIDX\0\0", 8) == 0) bad(idx_path_, "a memory-mapped index (MMIDIDX; fairseq: --dataset-impl mmap)", "the older format TNTIDX");
    if (idx.size() < kFairseqHeader || std::memcmp(idx.data(), kMagic, sizeof kMagic) != 0)
      bad(idx_path_, "the index of a Megatron or fairseq dataset", fmt::format("a file of {} bytes without its magic number", idx.size()));
    if (const auto version = read<uint64_t>(idx, 9); version != 1) bad(idx_path_, "version 1", std::to_string(version));
    const auto code = read<uint8_t>(idx, 17);
    const auto sequences = read<uint64_t>(idx, 18), table = idx.size() >= kMegatronHeader ? read<uint64_t>(idx, 26) : 0;
    const uint64_t size = idx.size();
    const bool sane = sequences <= size / 12 && table <= size / 8;  // what follows does not overflow
    const uint64_t fairseq = sequences <= size / 12 ? kFairseqHeader + 12 * sequences : 0, megatron = sane ? kMegatronHeader + 12 * sequences + 8 * table : 0;
    is_megatron_ = size != fairseq;
    if (is_megatron_ && size != megatron && (!sane || size != megatron + sequences))
      bad(idx_path_, fmt::format("the size of a Megatron index of {} sequences and {} document boundaries, or of a fairseq index of {} sequences", sequences, table, sequences), fmt::format("{} bytes", size));
    type_ = static_cast<IdType>(code);
    if (width_of(type_) == 0 || (is_megatron_ && code > 8)) bad(idx_path_, "ids of an integer type", fmt::format("type code {}", code));
    header_ = is_megatron_ ? kMegatronHeader : kFairseqHeader;
    sequences_ = static_cast<size_t>(sequences);
    table_ = is_megatron_ ? static_cast<size_t>(table) : 0;
    const size_t width = width_of(type_);
    int64_t last = 0;
    for (size_t s = 0; s < sequences_; ++s) {
      const int32_t n = length(s);
      const int64_t begin = offset(s);
      if (n < 0 || begin < last || static_cast<uint64_t>(begin) % width != 0 || static_cast<uint64_t>(begin) > bin_.bytes().size() ||
          static_cast<uint64_t>(n) > (bin_.bytes().size() - static_cast<uint64_t>(begin)) / width)
        bad(fmt::format("{}: sequence {}", idx_path_, s), fmt::format("ids in order within the {} bytes of {}", bin_.bytes().size(), bin_path_), fmt::format("{} of {} bytes from byte {} on", n, width, begin));
      last = begin;
    }
    if (!is_megatron_) return;
    const auto bad_boundary = [&](size_t d) { bad(fmt::format("{}: document boundary {}", idx_path_, d), fmt::format("boundaries rising from 0 to {}", sequences_), std::to_string(boundary(d))); };
    if (table_ == 0) bad(idx_path_, "at least one document boundary", "none");
    if (boundary(0) != 0) bad_boundary(0);
    for (size_t d = 1; d < table_; ++d)
      if (boundary(d) < boundary(d - 1)) bad_boundary(d);
    if (boundary(table_ - 1) != static_cast<int64_t>(sequences_)) bad_boundary(table_ - 1);
    for (size_t s = 0; size != megatron && s < sequences_; ++s)
      if (const auto mode = read<int8_t>(idx, static_cast<size_t>(megatron) + s); mode != 0) bad(fmt::format("{}: sequence {}", idx_path_, s), "text (mode 0)", fmt::format("mode {}", mode));
  }

  // dict.txt: "token count" a line, behind the four that fairseq has itself.
  void read_dictionary(const fs::path& path) {
    const std::string text = read_file(path);
    size_t line = 0;
    for (size_t at = 0; at < text.size();) {
      const size_t end = std::min(text.find('\n', at), text.size());
      std::string_view entry = std::string_view(text).substr(at, end - at);
      ++line;
      if (entry.ends_with(" #fairseq:overwrite")) entry.remove_suffix(std::strlen(" #fairseq:overwrite"));
      const size_t space = entry.rfind(' ');
      if (space == 0 || space == std::string_view::npos) bad(fmt::format("{}:{}", path.string(), line), "'token count'", "'" + std::string(entry) + "'");
      dictionary_.emplace_back(entry.substr(0, space));
      at = end + 1;
    }
    if (dictionary_.empty()) bad(path.string(), "a token a line", "an empty file");
  }

  int64_t raw_id(size_t at) const {
    const auto bytes = bin_.bytes();
    switch (type_) {
      case IdType::u8: return read<uint8_t>(bytes, at);
      case IdType::i8: return read<int8_t>(bytes, at);
      case IdType::i16: return read<int16_t>(bytes, at);
      case IdType::i32: return read<int32_t>(bytes, at);
      case IdType::i64: return read<int64_t>(bytes, at);
      case IdType::u16: return read<uint16_t>(bytes, at);
      case IdType::u32: return read<uint32_t>(bytes, at);
      case IdType::u64: return static_cast<int64_t>(read<uint64_t>(bytes, at));
    }
    return -1;
  }

  // Appends the next sequence; false: it was empty.
  bool add_sequence(TokenDocument& document) {
    const size_t s = sequence_++, width = width_of(type_), before = document.ids.size();
    const auto begin = static_cast<size_t>(offset(s));
    for (size_t i = 0; i < static_cast<size_t>(length(s)); ++i) {
      const int64_t id = raw_id(begin + i * width);
      const auto bad_id = [&](int64_t largest, const std::string& whose, const std::string& got) {
        bad(fmt::format("{}: sequence {}, element {}", bin_path_, s, i), fmt::format("ids 0 to {}, {}", largest, whose), got);
      };
      if (dictionary_.empty()) {
        if (id < 0 || id >= vocabulary_.size()) bad_id(vocabulary_.size() - 1, "the vocabulary's", std::to_string(id));
        document.ids.push_back(static_cast<int32_t>(id));
        continue;
      }
      constexpr int64_t kBegin = 0, kPad = 1, kEnd = 2, kUnknown = 3, kOwn = 4;
      const auto entries = static_cast<int64_t>(dictionary_.size());
      if (id < 0 || id == kPad || id >= kOwn + entries) bad_id(kOwn + entries - 1, "the dictionary's, without padding", std::to_string(id));
      if (id == kBegin || id == kEnd) continue;
      if (id == kUnknown) {
        document.ids.push_back(vocabulary_.unk());
        continue;
      }
      const std::string& token = dictionary_[static_cast<size_t>(id - kOwn)];
      const auto found = vocabulary_.find(token);
      if (!found) bad_id(kOwn + entries - 1, "the dictionary's, of tokens that the vocabulary has", "'" + token + "'");
      document.ids.push_back(*found);
    }
    if (document.ids.size() == before) return false;
    document.ends.push_back(document.ids.size());
    return true;
  }

  std::string idx_path_, bin_path_;
  MappedFile idx_, bin_;
  const Vocabulary& vocabulary_;
  std::vector<std::string> dictionary_;
  bool is_megatron_ = false;
  IdType type_ = IdType::u16;
  size_t header_ = 0, sequences_ = 0, table_ = 0;  // table: of document boundaries
  size_t sequence_ = 0, document_ = 0;             // next
};

}  // namespace

std::unique_ptr<ForeignData> open_foreign_data(const fs::path& path, const Vocabulary& vocabulary, const std::optional<fs::path>& dictionary) {
  fs::path stem = path;
  if (path.extension() == ".bin" || path.extension() == ".idx") stem.replace_extension();
  std::error_code error;
  if (stem != path || fs::exists(with(stem, ".idx"), error)) return std::make_unique<IndexedData>(stem, vocabulary, dictionary);
  if (dictionary) throw ConfigError("--dictionary", "expected none for " + path.string() + ", which is no indexed dataset, got one");
  return std::make_unique<TfRecordData>(path, vocabulary);
}

std::string to_tf_example(const std::vector<int32_t>& ids, const std::vector<int32_t>& segments, int64_t seq_len) {
  using namespace protobuf;
  std::string features;
  for (size_t f = 0; f < kFeatures.size(); ++f) {
    std::string values, list, feature, entry;
    for (size_t i = 0; i < static_cast<size_t>(seq_len); ++i) append_varint(values, i >= ids.size() ? 0 : f == 1 ? 1 : static_cast<uint64_t>(f == 0 ? ids[i] : segments[i]));
    append_bytes(list, 1, values);
    append_bytes(feature, 3, list);
    append_bytes(entry, 1, kFeatures[f]);
    append_bytes(entry, 2, feature);
    append_bytes(features, 1, entry);
  }
  std::string example;
  append_bytes(example, 1, features);
  return example;
}

}  // namespace electra
