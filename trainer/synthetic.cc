#include "trainer/synthetic.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "kernels/core/error.h"
#include "kernels/core/philox.h"

namespace electra {

SyntheticBatch::SyntheticBatch(const BatchShape& shape, int64_t vocab_size, uint64_t seed)
    : shape_(shape), vocab_size_(vocab_size), seed_(seed ^ fnv1a64("synthetic")) {
  if (vocab_size < 6) throw ConfigError("synthetic", "expected a vocabulary of at least 6 ids, got " + std::to_string(vocab_size));
  if (shape.max_seq_len < 5) throw ConfigError("synthetic", "expected seq_len of at least 5, got " + std::to_string(shape.max_seq_len));
  const int64_t length = shape.max_seq_len, sequences = std::min(shape.sequences, shape.tokens / length);
  ids_.assign(static_cast<size_t>(shape.tokens), kSyntheticSpecialIds.pad);
  segments_.assign(static_cast<size_t>(shape.tokens), 0);
  for (int64_t s = 0; s <= shape.sequences; ++s) offsets_.push_back(static_cast<int32_t>(std::min(s, sequences) * length));
  batch_ = {ids_.data(), segments_.data(), offsets_.data(), sequences, sequences * length};
}

const HostBatch& SyntheticBatch::fill(int64_t n) {
  const int64_t length = shape_.max_seq_len, ordinary = vocab_size_ - 5;
  for (int64_t row = 0; row < batch_.tokens; ++row) {
    const int64_t position = row % length;
    const bool second = position > length / 2;
    const Bits128 bits = philox(seed_, {static_cast<uint32_t>(n), static_cast<uint32_t>(row), 0, 0});
    // Rank r with probability about 1 / r: exp of a uniform logarithm.
    const double u = (static_cast<double>(bits.word[0]) + 0.5) * 0x1p-32;
    const auto rank = static_cast<int64_t>(std::exp(u * std::log(static_cast<double>(ordinary)))) - 1;
    int32_t id = 5 + static_cast<int32_t>(std::clamp<int64_t>(rank, 0, ordinary - 1));
    if (position == 0) id = kSyntheticSpecialIds.cls;
    if (position == length / 2 || position == length - 1) id = kSyntheticSpecialIds.sep;
    ids_[static_cast<size_t>(row)] = id;
    segments_[static_cast<size_t>(row)] = second;
  }
  return batch_;
}

}  // namespace electra
