// Examples: [CLS] a [SEP] b [SEP] of at most seq_len tokens from the sentences of a document, as the original's ExampleBuilder
// (build_pretraining_dataset.py) makes them. No state crosses a document and every choice is a Philox draw at (document,
// number of the example in it), so any example can be found again.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string_view>

#include "kernels/masking.h"
#include "trainer/data/example_plan.h"
#include "trainer/data/token_shards.h"

namespace electra {

// fixed: what overflows an example starts the next one. google: it is thrown away.
enum class Overflow : uint8_t { fixed, google };

// Tokens of an example: [CLS], [SEP] and [SEP] with a piece in each segment; lengths are 16 bits wide.
inline constexpr int64_t kMinSeqLen = 5, kMaxSeqLen = 65535;

struct ExampleOptions {
  int64_t seq_len = 128;
  Overflow overflow = Overflow::fixed;
  uint64_t seed = 0;
  double single_segment = 0.1;  // probability of an example of one segment
  double random_length = 0.05;  // probability of a target length drawn from [kMinSeqLen, seq_len]
  double spill = 0.5;           // probability that a sentence which does not fit segment a goes there while b is empty
};

// The file of a shard's plan in its data directory: one for each length, seed and rule, such as "train-128-0.plan".
std::filesystem::path plan_path(const std::filesystem::path& directory, std::string_view shard, const ExampleOptions& options);

class ExampleIndex {
 public:
  // All examples of a shard, from the plan in a file; where there is none, or a damaged one, or one of another shard or other options,
  // it is made. Without a path, and where the folder cannot be written, the plan is a file without a name that goes with the index. The
  // shard must outlive the index. Throws ConfigError for seq_len outside kMinSeqLen … kMaxSeqLen, DataError for a document of 2^32 tokens
  // or more, IoError.
  ExampleIndex(const TokenShard& shard, const ExampleOptions& options, const SpecialIds& special, const std::filesystem::path& plan = {});

  int64_t size() const { return static_cast<int64_t>(examples_.size()); }
  const Example& operator[](int64_t i) const { return examples_[static_cast<size_t>(i)]; }
  int64_t length(int64_t i) const { return (*this)[i].tokens(); }
  int64_t tokens() const { return plan_->tokens(); }  // of all examples, with [CLS] and [SEP]
  // Writes length(i) ids and segment numbers.
  void build(int64_t i, int32_t* ids, int32_t* segments) const;
  // Share of the shard's pieces that stand in an example.
  double share_kept() const;

 private:
  uint64_t key() const;
  void make(const std::filesystem::path& file);
  void open(MappedFile file, const std::filesystem::path& name);
  void plan_fixed(int64_t document, ExamplePlanWriter& writer) const;
  void plan_google(int64_t document, ExamplePlanWriter& writer) const;
  double draw(int64_t document, int64_t number, uint32_t index) const;
  int64_t target_length(int64_t document, int64_t number) const;

  const TokenShard* shard_;
  ExampleOptions options_;
  SpecialIds special_;
  std::optional<ExamplePlan> plan_;
  std::span<const Example> examples_;  // of the plan
};

}  // namespace electra
