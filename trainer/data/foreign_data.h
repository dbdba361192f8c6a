// Token data that other programs wrote, read as documents of sentences of ids: TFRecords of the original's build_pretraining_dataset.py,
// Megatron's and fairseq's indexed datasets (.bin and .idx). Files are mapped.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/vocabulary.h"

namespace electra {

// Sentences as ids, laid end to end.
struct TokenDocument {
  std::vector<int32_t> ids;
  std::vector<size_t> ends;  // of the sentences, which are not empty
  void clear() {
    ids.clear();
    ends.clear();
  }
};

class ForeignData {
 public:
  virtual ~ForeignData() = default;
  // Fills the next document, which may be empty; false at the end. Throws DataError with the place for whatever is not as the
  // format says and for ids that the vocabulary does not have; after a first reading without one, another has none.
  virtual bool next(TokenDocument& document) = 0;
  virtual std::string_view format() const = 0;  // "TFRecord", "Megatron", "fairseq"
};

// What the path leads to, told by content: a .bin or .idx file or what they have in common is an indexed dataset, and its index tells whose;
// anything else a TFRecord file. An example of a TFRecord file is a document, its segments are the sentences: they have no other
// structure left. dictionary: fairseq's dict.txt, whose entries are looked up in the vocabulary by name; without one ids are lines of the
// vocabulary. vocabulary must outlive the result. Throws IoError and DataError, with everything wrong that can be told without
// reading the ids.
std::unique_ptr<ForeignData> open_foreign_data(const std::filesystem::path& path, const Vocabulary& vocabulary, const std::optional<std::filesystem::path>& dictionary);

// An example as the original stores it: message tf.Example with input_ids, input_mask and segment_ids of seq_len values each, zeros behind
// the length given ones. Without TFRecord's framing.
std::string to_tf_example(const std::vector<int32_t>& ids, const std::vector<int32_t>& segments, int64_t seq_len);

}  // namespace electra
