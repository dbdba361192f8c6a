// Loader: packed batches in an order that is a function of (seed, epoch) alone, built ahead by a thread of its own.
#pragma once
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "model/encoder.h"
#include "trainer/data/examples.h"
#include "trainer/electra_program.h"

namespace electra {

// A place in a stream of examples: the next one is number `next` of the epoch's order; of several indices, of the one epoch there is.
struct LoaderState {
  int64_t epoch = 0, next = 0;
  uint64_t taken = 0;  // bit k: the example k places after the next one has been in a batch already, because it filled a gap
  bool operator==(const LoaderState&) const = default;
};

// A batch that owns its memory; arrays have the capacity of its BatchShape, zeros beyond what is used.
struct PackedBatch {
  std::vector<int32_t> ids, segments, sequence_offsets;
  int64_t sequences = 0, tokens = 0;
  LoaderState after;  // where the batch after this one begins
  explicit PackedBatch(const BatchShape& shape);
  HostBatch view() const { return {ids.data(), segments.data(), sequence_offsets.data(), sequences, tokens}; }
};

// The order of an epoch: a bijection of [0, size), a Feistel network on Philox with cycle walking, so that no table is kept.
class EpochOrder {
 public:
  EpochOrder(int64_t size, uint64_t seed, int64_t epoch);
  int64_t operator()(int64_t i) const;

 private:
  int64_t size_;
  int half_bits_;
  uint64_t key_;
  uint32_t epoch_;
};

// What batches are made of: the examples of one index, epoch after epoch, or of several in fixed shares. Which example stands at a
// place is a function of seed and place alone, so that any place is entered at once. The indices must outlive the stream.
class ExampleStream {
 public:
  ExampleStream(const ExampleIndex& index);  // not explicit: one index is a stream
  // Of each 4,096 examples in a row, every index gives its share by weight (largest remainders, at least one), in an order that the
  // seed shuffles; each goes through its own epochs without a gap. Throws DataError for an index without examples, ConfigError for
  // other weights than one above 0 for each index, and for more than 1,024 of them.
  ExampleStream(const std::vector<const ExampleIndex*>& indices, const std::vector<double>& weights);

  struct Place {
    const ExampleIndex* index;
    int64_t number;
  };
  // at.next < epoch_size().
  Place at(uint64_t seed, const LoaderState& at) const;
  int64_t epoch_size() const;  // of several: no place reaches it
  double share(size_t index) const;  // of the examples

 private:
  struct Source {
    const ExampleIndex* index;
    int64_t first;  // of its places among the 4,096
  };
  std::vector<Source> sources_;
};

// Fills a batch with the examples from state on: shape.sequences of them, fewer where the capacity in tokens is used up first. One that
// is too long for what is left waits for the next batch, of which it is the first, while the longest of the 63 after it that fit fill the gap.
// Every example of an epoch is in a batch once, and epochs follow one another without a gap.
void fill_batch(const ExampleStream& examples, const BatchShape& shape, uint64_t seed, const LoaderState& state, PackedBatch& batch);

// Share of the capacity in tokens that the first batches of a stream use; batches: how many are looked at.
double packing_efficiency(const ExampleStream& examples, const BatchShape& shape, uint64_t seed, int64_t batches);

// All examples in their own order, once: evaluation. Several indices give a batch each in turn. At most max_batches (0: all).
std::vector<PackedBatch> fixed_batches(const std::vector<const ExampleIndex*>& indices, const BatchShape& shape, int64_t max_batches);
std::vector<PackedBatch> fixed_batches(const ExampleIndex& examples, const BatchShape& shape, int64_t max_batches);

class Loader {
 public:
  // Throws DataError for a stream without examples and for a place beyond them.
  Loader(const ExampleStream& examples, const BatchShape& shape, uint64_t seed, LoaderState start);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  // Swaps the next batch into `batch`; waits for it if need be. Allocates nothing. Rethrows what the thread threw.
  void next(PackedBatch& batch);

 private:
  void work(std::stop_token stop);

  ExampleStream examples_;
  BatchShape shape_;
  uint64_t seed_;
  LoaderState state_;  // of the thread
  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::vector<PackedBatch> ring_;
  size_t ready_ = 0, read_ = 0, write_ = 0;
  std::exception_ptr failure_;
  std::jthread thread_;
};

}  // namespace electra
