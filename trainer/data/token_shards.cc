#include "trainer/data/token_shards.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <tuple>

#include "kernels/core/error.h"

namespace electra {
namespace {

namespace fs = std::filesystem;

constexpr char kMagic[9] = {'M', 'M', 'I', 'D', 'I', 'D', 'X', 0, 0};
constexpr uint8_t kI32 = 4, kU16 = 8;   // Megatron's codes
constexpr int64_t kU16Vocabulary = 65500;
constexpr size_t kBlock = 1 << 20;      // bytes a checksum covers
constexpr size_t kHeader = 34;          // bytes before the lengths

fs::path with(const fs::path& stem, const char* extension) { return stem.string() + extension; }

template <class T> void append(std::string& out, T value) { out.append(reinterpret_cast<const char*>(&value), sizeof value); }

template <class T> T read(std::span<const std::byte> bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

std::string_view text_of(const MappedFile& file) { return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()}; }

int64_t token_bytes(int64_t vocab_size) { return vocab_size < kU16Vocabulary ? 2 : 4; }

// Bytes of the files that a writer has written at a place.
struct PartSizes {
  uint64_t bin, lengths, documents, blocks;
};

PartSizes part_sizes(const ShardProgress& at, int64_t vocab_size) {
  const auto bin = static_cast<uint64_t>(at.tokens * token_bytes(vocab_size));
  return {bin, 4 * static_cast<uint64_t>(at.sentences), 8 * static_cast<uint64_t>(at.documents), bin / kBlock * 8};
}

[[noreturn]] void bad(const fs::path& path, const std::string& expected, const std::string& got) {
  throw DataError(path.string(), "expected " + expected + ", got " + got);
}

std::string to_json(const ShardInfo& info) {
  const nlohmann::ordered_json json = {{"format", "electra-shard"}, {"version", 1},
                                       {"tokenizer_sha256", info.tokenizer_sha256}, {"vocab_size", info.vocab_size},
                                       {"mode", info.mode}, {"lowercase", info.lowercase}, {"strip_accents", info.strip_accents},
                                       {"split_chinese", info.split_chinese}, {"split_unit", info.split_unit},
                                       {"tokens", info.tokens}, {"sentences", info.sentences}, {"documents", info.documents},
                                       {"corpus_xxh64", info.corpus_xxh64}, {"block_bytes", kBlock}, {"block_xxh64", info.block_xxh64}};
  return json.dump(1) + "\n";
}

ShardInfo from_json(const fs::path& path) {
  try {
    const auto json = nlohmann::json::parse(read_file(path));
    if (json.at("format") != "electra-shard" || json.at("version") != 1) bad(path, "format electra-shard, version 1", json.value("format", "another"));
    ShardInfo info;
    json.at("tokenizer_sha256").get_to(info.tokenizer_sha256);
    json.at("vocab_size").get_to(info.vocab_size);
    json.at("mode").get_to(info.mode);
    if (info.mode != "hf" && info.mode != "google") bad(path, "mode hf or google", "'" + info.mode + "'");
    json.at("lowercase").get_to(info.lowercase);
    json.at("strip_accents").get_to(info.strip_accents);
    json.at("split_chinese").get_to(info.split_chinese);
    json.at("split_unit").get_to(info.split_unit);
    json.at("tokens").get_to(info.tokens);
    json.at("sentences").get_to(info.sentences);
    json.at("documents").get_to(info.documents);
    json.at("corpus_xxh64").get_to(info.corpus_xxh64);
    json.at("block_xxh64").get_to(info.block_xxh64);
    return info;
  } catch (const nlohmann::json::exception& error) {
    bad(path, "the sidecar of a token shard", std::string("'") + error.what() + "'");
  }
}

}  // namespace

TokenShardWriter::TokenShardWriter(const fs::path& stem, int64_t vocab_size, const fs::path& parts, const ShardProgress& at)
    : stem_(stem),
      parts_(parts.empty() ? stem : parts),
      keep_parts_(!parts.empty()),
      vocab_size_(vocab_size),
      at_(at),
      document_end_(at.sentences),
      bin_(with(stem_, ".bin"), part_sizes(at, vocab_size).bin),
      lengths_(with(parts_, ".lengths"), part_sizes(at, vocab_size).lengths),
      documents_(with(parts_, ".documents"), part_sizes(at, vocab_size).documents),
      blocks_(with(parts_, ".blocks"), part_sizes(at, vocab_size).blocks) {
  if (at.tokens == 0) return;
  const MappedFile written(with(stem_, ".bin"));
  const auto tail = written.bytes().subspan(written.bytes().size() / kBlock * kBlock);
  block_.assign(reinterpret_cast<const char*>(tail.data()), tail.size());
}

bool TokenShardWriter::can_resume(const fs::path& stem, int64_t vocab_size, const fs::path& parts, const ShardProgress& at) {
  if (at.tokens < 0 || at.sentences < 0 || at.documents < 0) return false;
  const PartSizes sizes = part_sizes(at, vocab_size);
  const auto holds = [](const fs::path& path, uint64_t bytes) {
    std::error_code error;
    const uint64_t size = fs::file_size(path, error);
    return !error && size >= bytes;
  };
  return holds(with(stem, ".bin"), sizes.bin) && holds(with(parts, ".lengths"), sizes.lengths) && holds(with(parts, ".documents"), sizes.documents) &&
         holds(with(parts, ".blocks"), sizes.blocks);
}

void TokenShardWriter::add_sentence(std::span<const int32_t> ids) {
  if (ids.empty()) return;
  const size_t before = block_.size();
  for (const int32_t id : ids) {
    if (vocab_size_ < kU16Vocabulary) append(block_, static_cast<uint16_t>(id));
    else append(block_, id);
  }
  bin_.append(std::string_view(block_).substr(before));
  lengths_.append_value(static_cast<int32_t>(ids.size()));
  at_.tokens += static_cast<int64_t>(ids.size());
  ++at_.sentences;
  while (block_.size() >= kBlock) end_block(kBlock);
}

void TokenShardWriter::end_document() {
  if (at_.sentences == document_end_) return;
  document_end_ = at_.sentences;
  documents_.append_value(document_end_);
  ++at_.documents;
}

void TokenShardWriter::end_block(size_t bytes) {
  blocks_.append_value(xxh64(std::string_view(block_).substr(0, bytes)));
  block_.erase(0, bytes);
}

void TokenShardWriter::sync() {
  for (OutputFile* file : {&bin_, &lengths_, &documents_, &blocks_}) file->sync();
}

void TokenShardWriter::finish(ShardInfo info) {
  end_document();
  if (!block_.empty()) end_block(block_.size());
  bin_.sync();
  for (OutputFile* file : {&lengths_, &documents_, &blocks_}) file->flush();
  {
    OutputFile idx(with(stem_, ".idx"));
    const MappedFile lengths(with(parts_, ".lengths")), documents(with(parts_, ".documents")), blocks(with(parts_, ".blocks"));
    const int64_t bytes_per_token = token_bytes(vocab_size_);
    idx.append({kMagic, sizeof kMagic});
    idx.append_value<uint64_t>(1);
    idx.append_value(bytes_per_token == 2 ? kU16 : kI32);
    idx.append_value(static_cast<uint64_t>(at_.sentences));
    idx.append_value(static_cast<uint64_t>(at_.documents + 1));
    idx.append(text_of(lengths));
    int64_t offset = 0;
    for (size_t s = 0; s < static_cast<size_t>(at_.sentences); ++s) {
      idx.append_value(offset);
      offset += read<int32_t>(lengths.bytes(), 4 * s) * bytes_per_token;
    }
    idx.append_value<int64_t>(0);
    idx.append(text_of(documents));
    idx.sync();
    info.block_xxh64.clear();
    for (size_t at = 0; at < blocks.bytes().size(); at += sizeof(uint64_t)) info.block_xxh64.push_back(hex64(read<uint64_t>(blocks.bytes(), at)));
  }
  info.vocab_size = vocab_size_;
  info.tokens = at_.tokens;
  info.sentences = at_.sentences;
  info.documents = at_.documents;
  write_file(with(stem_, ".json"), to_json(info));
  if (keep_parts_) return;
  for (const char* part : {".lengths", ".documents", ".blocks"}) fs::remove(with(parts_, part));
}

TokenShard::TokenShard(const fs::path& stem) : bin_(with(stem, ".bin")), idx_(with(stem, ".idx")), info_(from_json(with(stem, ".json"))) {
  const fs::path idx_path = with(stem, ".idx"), bin_path = with(stem, ".bin");
  const auto idx = idx_.bytes(), bytes = bin_.bytes();
  if (idx.size() < kHeader || std::memcmp(idx.data(), kMagic, sizeof kMagic) != 0) bad(idx_path, "a Megatron index", "a file of " + std::to_string(idx.size()) + " bytes without its magic number");
  const auto version = read<uint64_t>(idx, 9);
  const auto code = read<uint8_t>(idx, 17);
  const auto sentences = read<uint64_t>(idx, 18), table = read<uint64_t>(idx, 26);
  if (version != 1) bad(idx_path, "version 1", std::to_string(version));
  if (code != kU16 && code != kI32) bad(idx_path, "ids of type u16 (8) or i32 (4)", "code " + std::to_string(code));
  if (sentences > idx.size() || table > idx.size() || idx.size() != kHeader + 12 * sentences + 8 * table)
    bad(idx_path, std::to_string(kHeader + 12 * sentences + 8 * table) + " bytes for " + std::to_string(sentences) + " sentences and " + std::to_string(table) + " document boundaries", std::to_string(idx.size()));
  wide_ = code == kI32;
  const int64_t width = wide_ ? 4 : 2;
  int64_t tokens = 0;
  for (uint64_t s = 0; s < sentences; ++s) {
    const auto length = read<int32_t>(idx, kHeader + 4 * s);
    const auto offset = read<int64_t>(idx, kHeader + 4 * sentences + 8 * s);
    if (length <= 0 || offset != tokens * width)
      bad(idx_path, "sentence " + std::to_string(s) + " at byte " + std::to_string(tokens * width) + " with at least one token", "length " + std::to_string(length) + " at byte " + std::to_string(offset));
    tokens += length;
  }
  if (static_cast<int64_t>(bytes.size()) != tokens * width)
    bad(bin_path, std::to_string(tokens * width) + " bytes for " + std::to_string(tokens) + " tokens", std::to_string(bytes.size()));
  const auto boundary = [&](uint64_t d) { return read<int64_t>(idx, kHeader + 12 * sentences + 8 * d); };
  bool rising = table > 0 && boundary(0) == 0 && boundary(table - 1) == static_cast<int64_t>(sentences);
  for (uint64_t d = 1; rising && d < table; ++d) rising = boundary(d - 1) <= boundary(d);
  if (!rising) bad(idx_path, "document boundaries rising from 0 to " + std::to_string(sentences), "others");
  for (const auto& [noun, said, is] : {std::tuple{"tokens", info_.tokens, tokens}, {"sentences", info_.sentences, static_cast<int64_t>(sentences)}, {"documents", info_.documents, static_cast<int64_t>(table) - 1}})
    if (said != is) bad(with(stem, ".json"), std::to_string(is) + " " + noun + " as in the index", std::to_string(said));
  const size_t blocks = (bytes.size() + kBlock - 1) / kBlock;
  if (info_.block_xxh64.size() != blocks) bad(with(stem, ".json"), std::to_string(blocks) + " checksums", std::to_string(info_.block_xxh64.size()));
  for (size_t b = 0; b < blocks; ++b) {
    const auto block = bytes.subspan(b * kBlock, std::min(kBlock, bytes.size() - b * kBlock));
    if (const std::string got = hex64(xxh64(block)); got != info_.block_xxh64[b])
      bad(bin_path, "checksum " + info_.block_xxh64[b] + " of MiB " + std::to_string(b), got);
  }
  for (int64_t i = 0; i < tokens; ++i)
    if (token(i) < 0 || token(i) >= info_.vocab_size)
      bad(bin_path, "ids 0 to " + std::to_string(info_.vocab_size - 1), std::to_string(token(i)) + " at token " + std::to_string(i));
}

uint64_t TokenShard::checksum(uint64_t seed) const {
  for (const std::string& block : info_.block_xxh64) seed = xxh64(block, seed);
  return xxh64(idx_.bytes(), seed);
}

int64_t TokenShard::first_sentence(int64_t document) const {
  return read<int64_t>(idx_.bytes(), kHeader + 12 * static_cast<size_t>(info_.sentences) + 8 * static_cast<size_t>(document));
}

int64_t TokenShard::start(int64_t sentence) const {
  if (sentence == info_.sentences) return info_.tokens;
  return read<int64_t>(idx_.bytes(), kHeader + 4 * static_cast<size_t>(info_.sentences) + 8 * static_cast<size_t>(sentence)) / (wide_ ? 4 : 2);
}

int32_t TokenShard::token(int64_t i) const {
  const auto at = static_cast<size_t>(i);
  return wide_ ? read<int32_t>(bin_.bytes(), 4 * at) : read<uint16_t>(bin_.bytes(), 2 * at);
}

void TokenShard::copy(int64_t first, int64_t count, int32_t* out) const {
  if (wide_) {
    if (count > 0) std::memcpy(out, bin_.bytes().data() + 4 * first, 4 * static_cast<size_t>(count));
    return;
  }
  const std::byte* const from = bin_.bytes().data() + 2 * first;
  for (int64_t i = 0; i < count; ++i) {
    uint16_t id;
    std::memcpy(&id, from + 2 * i, sizeof id);
    out[i] = id;
  }
}

}  // namespace electra
