// The data sets of a run: one directory, or several of the same vocabulary.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "trainer/data/data_set.h"
#include "trainer/data/examples.h"

namespace electra {

// The directories of the key data: separated by commas, unless one of that whole name exists.
std::vector<std::string> data_directories(const std::string& data);

class DataSets {
 public:
  // Opens and validates, as DataSet does. Throws DataError, too, where vocabulary or tokenizer are not those of the first.
  explicit DataSets(const std::vector<std::string>& directories);
  size_t count() const { return sets_.size(); }
  const DataSet& operator[](size_t i) const { return *sets_[i]; }
  const DataSet& first() const { return *sets_.front(); }
  // Ids, sentences and documents of all: what two builds of the same data have in common. 16 digits.
  std::string checksum() const;
  int64_t heldout_tokens() const;
  // Of the held-out pieces of all, in nats.
  double heldout_unigram_entropy() const;

 private:
  std::vector<std::unique_ptr<DataSet>> sets_;
};

// The examples of each set: of its training or its held-out side, from the plans in its directory.
enum class Side : uint8_t { train, heldout };
std::vector<std::unique_ptr<ExampleIndex>> example_indices(const DataSets& sets, Side side, const ExampleOptions& options);
std::vector<const ExampleIndex*> views(const std::vector<std::unique_ptr<ExampleIndex>>& indices);

}  // namespace electra
