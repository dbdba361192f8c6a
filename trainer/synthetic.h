// Made-up batches: full-length sequences of random ids, a function of (seed, batch number). For timing and trial runs.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels/masking.h"
#include "model/encoder.h"
#include "trainer/electra_program.h"

namespace electra {

// Special ids of a vocabulary that exists only as a size.
inline constexpr SpecialIds kSyntheticSpecialIds{.pad = 0, .unk = 1, .cls = 2, .sep = 3, .mask = 4};

class SyntheticBatch {
 public:
  // Sequences [CLS] a [SEP] b [SEP] of max_seq_len tokens; as many as fit into shape. Throws ConfigError for a vocabulary of
  // fewer than 6 ids or sequences of fewer than 5 tokens.
  SyntheticBatch(const BatchShape& shape, int64_t vocab_size, uint64_t seed);
  // Fills the arrays with batch number n. Ids follow Zipf's law, as those of text roughly do.
  const HostBatch& fill(int64_t n);

 private:
  BatchShape shape_;
  int64_t vocab_size_;
  uint64_t seed_;
  std::vector<int32_t> ids_, segments_, offsets_;
  HostBatch batch_;
};

}  // namespace electra
