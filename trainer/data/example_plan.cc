#include "trainer/data/example_plan.h"

#include <algorithm>
#include <cstring>

#include "kernels/core/error.h"

namespace electra {
namespace {

constexpr size_t kBlock = 1 << 20;  // bytes hashed at once
constexpr uint32_t kVersion = 1;

struct Header {
  char magic[8] = {'E', 'L', 'E', 'C', 'P', 'L', 'A', 'N'};
  uint32_t version = kVersion, record_bytes = sizeof(Example);
  uint64_t key = 0;
  int64_t examples = 0, pieces = 0, tokens = 0;
  uint64_t records_xxh64 = 0, header_xxh64 = 0;

  std::string_view bytes() const { return {reinterpret_cast<const char*>(this), sizeof *this}; }
  uint64_t checksum() const { return xxh64(bytes().substr(0, offsetof(Header, header_xxh64))); }
};
static_assert(sizeof(Header) == 64);

Header header_of(const MappedFile& file) {
  Header header;
  std::memcpy(&header, file.bytes().data(), sizeof header);
  return header;
}

}  // namespace

ExamplePlan::ExamplePlan(MappedFile file, const std::filesystem::path& name, uint64_t key) : file_(std::move(file)) {
  const auto bad = [&](const std::string& expected, const std::string& got) { throw DataError(name.string(), "expected " + expected + ", got " + got); };
  const auto bytes = file_.bytes();
  if (bytes.size() < sizeof(Header)) bad("the header of a plan of examples", std::to_string(bytes.size()) + " bytes");
  const Header header = header_of(file_), ours;
  if (std::memcmp(header.magic, ours.magic, sizeof ours.magic) != 0) bad("a plan of examples", "a file of " + std::to_string(bytes.size()) + " bytes without its magic number");
  if (header.version != ours.version || header.record_bytes != ours.record_bytes)
    bad("version " + std::to_string(ours.version) + " of a plan with " + std::to_string(ours.record_bytes) + " bytes an example",
        "version " + std::to_string(header.version) + " with " + std::to_string(header.record_bytes));
  if (header.header_xxh64 != header.checksum()) bad("header checksum " + hex64(header.header_xxh64), hex64(header.checksum()));
  if (header.key != key) bad("a plan of these shards and options, " + hex64(key), "another's, " + hex64(header.key));
  const size_t records = bytes.size() - sizeof(Header);
  if (records % sizeof(Example) != 0 || static_cast<uint64_t>(header.examples) != records / sizeof(Example))
    bad(std::to_string(header.examples) + " examples of 16 bytes", std::to_string(records) + " bytes");
  uint64_t checksum = 0;
  for (size_t at = 0; at < records; at += kBlock) checksum = xxh64(bytes.subspan(sizeof(Header) + at, std::min(kBlock, records - at)), checksum);
  if (checksum != header.records_xxh64) bad("checksum " + hex64(header.records_xxh64), hex64(checksum));
}

std::span<const Example> ExamplePlan::examples() const {
  const auto records = file_.bytes().subspan(sizeof(Header));
  return {reinterpret_cast<const Example*>(records.data()), records.size() / sizeof(Example)};
}

int64_t ExamplePlan::pieces() const { return header_of(file_).pieces; }
int64_t ExamplePlan::tokens() const { return header_of(file_).tokens; }

ExamplePlanWriter::ExamplePlanWriter(const std::filesystem::path& path, uint64_t key) : file_(path), key_(key) {
  pending_.reserve(kBlock);
  file_.write(Header().bytes());
}

void ExamplePlanWriter::add(const Example& example) {
  pending_.append(reinterpret_cast<const char*>(&example), sizeof example);
  ++examples_;
  pieces_ += example.pieces();
  tokens_ += example.tokens();
  if (pending_.size() == kBlock) flush();
}

void ExamplePlanWriter::flush() {
  if (pending_.empty()) return;
  checksum_ = xxh64(pending_, checksum_);
  file_.write(pending_);
  pending_.clear();
}

MappedFile ExamplePlanWriter::finish() {
  flush();
  Header header;
  header.key = key_;
  header.examples = examples_;
  header.pieces = pieces_;
  header.tokens = tokens_;
  header.records_xxh64 = checksum_;
  header.header_xxh64 = header.checksum();
  file_.write_at(0, header.bytes());
  return file_.publish();
}

bool is_plan_name(std::string_view name) {
  return (name.starts_with("train-") || name.starts_with("heldout-")) && (name.ends_with(".plan") || name.find(".plan.tmp-") != name.npos);
}

}  // namespace electra
