// A plan: where the tokens of every example stand, in a file that is mapped, so that memory does not grow with the number of examples.
//
// Little-endian: a header of 64 bytes, then 16 bytes an example. The header: "ELECPLAN", u32 version, u32 bytes an example, u64 key of
// what the examples are a function of, i64 examples, i64 pieces in them, i64 tokens with [CLS] and [SEP], u64 xxh64 of the records
// (over pieces of 1 MiB, each seeded with the sum so far), u64 xxh64 of the 56 bytes before.
#pragma once
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "trainer/files.h"

namespace electra {

// Where an example's tokens stand.
struct Example {
  uint32_t document = 0;
  uint32_t number = 0;  // of the example in its document
  uint32_t begin = 0;   // fixed: first token, google: first sentence, counted from the document's first
  uint16_t first = 0, second = 0;  // lengths of the segments, in tokens
  int64_t pieces() const { return first + second; }
  int64_t tokens() const { return pieces() + (second > 0 ? 3 : 2); }  // with [CLS] and [SEP]
};
static_assert(sizeof(Example) == 16);

class ExamplePlan {
 public:
  // Throws DataError, naming the file, for anything but a whole plan of this key.
  ExamplePlan(MappedFile file, const std::filesystem::path& name, uint64_t key);
  std::span<const Example> examples() const;
  int64_t pieces() const;
  int64_t tokens() const;

 private:
  MappedFile file_;
};

class ExamplePlanWriter {
 public:
  // Without a path: a plan that has no name. Throws IoError.
  ExamplePlanWriter(const std::filesystem::path& path, uint64_t key);
  void add(const Example& example);
  // Writes what is left, then the header.
  MappedFile finish();

 private:
  void flush();
  StagedFile file_;
  std::string pending_;
  uint64_t key_, checksum_ = 0;
  int64_t examples_ = 0, pieces_ = 0, tokens_ = 0;
};

// Whether a name is that of a plan, or of one that a killed process left half-written.
bool is_plan_name(std::string_view name);

}  // namespace electra
