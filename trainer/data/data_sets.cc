#include "trainer/data/data_sets.h"

#include <algorithm>
#include <filesystem>

#include "kernels/core/error.h"

namespace electra {

std::vector<std::string> data_directories(const std::string& data) {
  std::error_code ignored;
  if (std::filesystem::is_directory(data, ignored)) return {data};
  std::vector<std::string> directories;
  for (size_t begin = 0; begin <= data.size();) {
    const size_t end = std::min(data.find(',', begin), data.size());
    directories.push_back(data.substr(begin, end - begin));
    begin = end + 1;
  }
  return directories;
}

DataSets::DataSets(const std::vector<std::string>& directories) {
  for (const std::string& directory : directories) {
    const DataSet& set = *sets_.emplace_back(std::make_unique<DataSet>(directory));
    const ShardInfo &expected = first().train().info(), &got = set.train().info();
    const std::string where = (set.directory() / "train.json").string();
    if (got.tokenizer_sha256 != expected.tokenizer_sha256)
      throw DataError(where, "expected the vocabulary of " + first().directory().string() + ", sha256 " + expected.tokenizer_sha256 + ", got " + got.tokenizer_sha256);
    const auto settings = [](const ShardInfo& i) {
      const auto yes = [](bool b) { return b ? " yes" : " no"; };
      return "mode " + i.mode + ", lower case" + yes(i.lowercase) + ", accents stripped" + yes(i.strip_accents) + ", Chinese split" + yes(i.split_chinese);
    };
    if (settings(got) != settings(expected))
      throw DataError(where, "expected the tokenizer of " + first().directory().string() + " (" + settings(expected) + "), got " + settings(got));
  }
}

std::string DataSets::checksum() const {
  uint64_t sum = 0;
  for (const auto& set : sets_) sum = set->heldout().checksum(set->train().checksum(sum));
  return hex64(sum);
}

int64_t DataSets::heldout_tokens() const {
  int64_t n = 0;
  for (const auto& set : sets_) n += set->heldout().tokens();
  return n;
}

double DataSets::heldout_unigram_entropy() const {
  std::vector<const TokenShard*> shards;
  for (const auto& set : sets_) shards.push_back(&set->heldout());
  return unigram_entropy(shards);
}

std::vector<std::unique_ptr<ExampleIndex>> example_indices(const DataSets& sets, Side side, const ExampleOptions& options) {
  std::vector<std::unique_ptr<ExampleIndex>> indices;
  for (size_t i = 0; i < sets.count(); ++i) {
    const TokenShard& shard = side == Side::train ? sets[i].train() : sets[i].heldout();
    indices.push_back(std::make_unique<ExampleIndex>(shard, options, sets[i].special(),
                                                     plan_path(sets[i].directory(), side == Side::train ? "train" : "heldout", options)));
  }
  return indices;
}

std::vector<const ExampleIndex*> views(const std::vector<std::unique_ptr<ExampleIndex>>& indices) {
  std::vector<const ExampleIndex*> all;
  for (const auto& index : indices) all.push_back(index.get());
  return all;
}

}  // namespace electra
