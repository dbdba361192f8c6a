// Vocabulary training: byte-pair merging over word pieces, as transformers' WordPiece trainer does it, with 64-bit counts and
// one result for one text, whatever the number of threads.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/word_counts.h"

namespace electra {

class CodePointMap;
class ThreadPool;

// Least and largest size of a vocabulary: the special tokens and a character; the most rows of an embedding table.
inline constexpr int64_t kMinVocabularySize = 6, kMaxVocabularySize = int64_t{1} << 24;
inline constexpr size_t kMostTopDownWords = 5000000;

// bpe: the most frequent pair of pieces is merged over and over (pair_merger.h). top_down: whole words first, then parts of them
// (top_down.h).
enum class VocabularyAlgorithm { bpe, top_down };

struct VocabularyTrainerOptions {
  VocabularyAlgorithm algorithm = VocabularyAlgorithm::bpe;
  TokenizerOptions tokenizer;
  int64_t size = 30522;           // entries of all kinds, rounded up to multiple_of
  int64_t multiple_of = 1;        // what the text does not fill up to the next multiple, [unusedN] entries do
  bool exact_size = false;        // they fill it up to the size
  int64_t min_frequency = 2;      // of a merged pair, or the least threshold of the top-down algorithm
  int64_t alphabet_limit = 1000;  // distinct characters kept, the most frequent; others are left out of their words (top down: their words are)
  std::vector<std::string> reserved;  // entries behind the special tokens, whatever the text has
  int64_t unused = 0;             // [unused0] … entries behind these
  int threads = 1;                // that count words
  // Bytes that the process may take, apart from the vocabulary and a line of text; what exceeds them lies in files without a name in
  // `folder`, which are gone when the trainer is or the process ends. It is kept from 64 MiB on.
  uint64_t memory = UINT64_MAX;
  std::filesystem::path folder = ".";
  std::function<bool()> stop;     // asked at each merge or iteration and every few thousand words; true: give up; may be empty
  std::function<void(const char* stage, double share)> progress;  // told by train how much of a stage is done; may be empty
};

class VocabularyTrainer {
 public:
  // Throws ConfigError for a size outside kMinVocabularySize … kMaxVocabularySize or without room for a character, for limits
  // below 1, and for a reserved entry that is empty, not UTF-8, has white space, or is an entry anyway.
  explicit VocabularyTrainer(const VocabularyTrainerOptions& options);
  ~VocabularyTrainer();
  // Counts the words of valid UTF-8, a megabyte a thread at once. Throws IoError where files cannot be written; so does train.
  void add(std::string text);
  // [PAD] [UNK] [CLS] [SEP] [MASK], reserved and unused entries, the alphabet in code point order (each character as first piece,
  // then those that occur inside of words as continuing pieces), the merges in order, then what fills it up. Fewer than size()
  // where the text yields no more; none where options.stop said so. Throws DataError when the text has no words.
  //
  // From the top down, the alphabet's first pieces are followed by its continuing pieces and all others in the order of their counts. The
  // threshold is the least, found by bisection, with which they fit; what room there is then gets the first ones of the threshold below.
  // Looks at the kMostTopDownWords most frequent words of at most 50 characters.
  std::vector<std::string> train();
  int64_t size() const { return size_; }  // options.size rounded up
  int64_t distinct_words() const { return distinct_words_; }  // found by train
  // Whether words or pairs went to files.
  bool spilled() const { return spilled_; }

 private:
  VocabularyTrainerOptions options_;
  int64_t size_;
  uint64_t memory_;  // options.memory less what the program takes anyway
  std::vector<std::string> fixed_;  // special, reserved and unused entries
  PreTokenizer pre_tokenizer_;
  std::unique_ptr<ThreadPool> pool_;
  std::vector<WordCounter> counters_;  // one a thread
  std::vector<std::string> pending_;   // texts to be counted
  size_t pending_bytes_ = 0;
  int64_t distinct_words_ = 0;
  bool spilled_ = false;

  void count_pending();
  void report(const char* stage, int64_t done, int64_t of) const;
  bool stopped() const { return options_.stop && options_.stop(); }
  std::vector<std::string> merge_pairs(const CodePointMap& frequency, const CodePointMap& inside);
  std::vector<std::string> learn_top_down(const CodePointMap& frequency);
};

}  // namespace electra
