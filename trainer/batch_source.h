// Where a run's batches come from: the loader, the same few batches again and again, or made-up ones.
#pragma once
#include <memory>
#include <span>
#include <vector>

#include "trainer/data/loader.h"
#include "trainer/synthetic.h"

namespace electra {

class BatchSource {
 public:
  virtual ~BatchSource() = default;
  // The micro-batches of the next step; valid until the next call. Allocates nothing in steady state.
  virtual std::span<const HostBatch> next() = 0;
  // Where the data goes on after the batches handed out.
  virtual LoaderState state() const = 0;
};

// micro_batches of each step from examples, beginning at start.
std::unique_ptr<BatchSource> loader_source(const ExampleStream& examples, const BatchShape& shape, uint64_t seed, LoaderState start,
                                           int64_t micro_batches);
// The first `steps` steps of another source, in turn.
std::unique_ptr<BatchSource> overfit_source(const ExampleStream& examples, const BatchShape& shape, uint64_t seed, int64_t steps,
                                            int64_t first_step, int64_t micro_batches);
// Made-up batches, from step first_step on.
std::unique_ptr<BatchSource> synthetic_source(const BatchShape& shape, int64_t vocab_size, uint64_t seed, int64_t first_step,
                                              int64_t micro_batches);

}  // namespace electra
