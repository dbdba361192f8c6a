#include "trainer/data/loader.h"

#include <algorithm>
#include <bit>

#include "kernels/core/error.h"
#include "kernels/core/philox.h"
#include "kernels/core/thread_pool.h"

namespace electra {
namespace {

constexpr size_t kAhead = 4;  // batches built before they are asked for
constexpr int kFeistelRounds = 6;

void clear(PackedBatch& batch) {
  std::fill(batch.ids.begin(), batch.ids.end(), 0);
  std::fill(batch.segments.begin(), batch.segments.end(), 0);
  batch.sequences = batch.tokens = 0;
}

// Appends example i; false where it does not fit.
bool append(const ExampleIndex& examples, int64_t i, const BatchShape& shape, PackedBatch& batch) {
  const int64_t length = examples.length(i);
  if (batch.sequences == shape.sequences || batch.tokens + length > shape.tokens) return false;
  examples.build(i, batch.ids.data() + batch.tokens, batch.segments.data() + batch.tokens);
  batch.tokens += length;
  batch.sequence_offsets[static_cast<size_t>(++batch.sequences)] = static_cast<int32_t>(batch.tokens);
  return true;
}

void finish(PackedBatch& batch) {
  std::fill(batch.sequence_offsets.begin() + batch.sequences + 1, batch.sequence_offsets.end(), static_cast<int32_t>(batch.tokens));
}

}  // namespace

PackedBatch::PackedBatch(const BatchShape& shape)
    : ids(static_cast<size_t>(shape.tokens)), segments(static_cast<size_t>(shape.tokens)),
      sequence_offsets(static_cast<size_t>(shape.sequences) + 1) {}

EpochOrder::EpochOrder(int64_t size, uint64_t seed, int64_t epoch)
    : size_(size), half_bits_((std::bit_width(static_cast<uint64_t>(std::max<int64_t>(size - 1, 1))) + 1) / 2),
      key_(seed ^ fnv1a64("order")), epoch_(static_cast<uint32_t>(epoch)) {}

int64_t EpochOrder::operator()(int64_t i) const {
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  auto x = static_cast<uint64_t>(i);
  do {  // a permutation of [0, 4^half_bits): walk along its cycle until it comes back into [0, size)
    uint64_t left = x >> half_bits_, right = x & mask;
    for (uint32_t round = 0; round < kFeistelRounds; ++round) {
      const uint64_t mixed = philox(key_, {epoch_, round, static_cast<uint32_t>(right), static_cast<uint32_t>(right >> 32)}).word[0];
      left ^= mixed & mask;
      std::swap(left, right);
    }
    x = left << half_bits_ | right;
  } while (x >= static_cast<uint64_t>(size_));
  return static_cast<int64_t>(x);
}

void fill_batch(const ExampleIndex& examples, const BatchShape& shape, uint64_t seed, const LoaderState& state, PackedBatch& batch) {
  clear(batch);
  batch.after = state;
  for (;;) {
    const EpochOrder order(examples.size(), seed, batch.after.epoch);
    while (batch.after.next < examples.size()) {
      if (!append(examples, order(batch.after.next), shape, batch)) {
        finish(batch);
        return;
      }
      ++batch.after.next;
    }
    batch.after = {batch.after.epoch + 1, 0};
  }
}

std::vector<PackedBatch> fixed_batches(const ExampleIndex& examples, const BatchShape& shape, int64_t max_batches) {
  std::vector<PackedBatch> batches;
  for (int64_t i = 0; i < examples.size();) {
    if (max_batches > 0 && static_cast<int64_t>(batches.size()) == max_batches) break;
    PackedBatch& batch = batches.emplace_back(shape);
    while (i < examples.size() && append(examples, i, shape, batch)) ++i;
    finish(batch);
  }
  return batches;
}

Loader::Loader(const ExampleIndex& examples, const BatchShape& shape, uint64_t seed, LoaderState start)
    : examples_(&examples), shape_(shape), seed_(seed), state_(start) {
  if (examples.size() == 0) throw DataError("loader", "expected text with at least one example, got none");
  if (start.next < 0 || start.next > examples.size())
    throw DataError("loader", "expected a place among " + std::to_string(examples.size()) + " examples, got " + std::to_string(start.next));
  for (size_t i = 0; i < kAhead; ++i) ring_.emplace_back(shape);
  const SignalsBlocked blocked;
  thread_ = std::jthread([this](std::stop_token stop) { work(stop); });
}

Loader::~Loader() = default;  // jthread stops and joins

void Loader::work(std::stop_token stop) {
  try {
    for (;;) {
      {
        std::unique_lock lock(mutex_);
        if (!changed_.wait(lock, stop, [&] { return ready_ < kAhead; })) return;
      }
      // Only this thread touches ring_[write_] while it is not ready.
      fill_batch(*examples_, shape_, seed_, state_, ring_[write_]);
      state_ = ring_[write_].after;
      {
        const std::lock_guard lock(mutex_);
        write_ = (write_ + 1) % kAhead;
        ++ready_;
      }
      changed_.notify_all();
    }
  } catch (...) {
    const std::lock_guard lock(mutex_);
    failure_ = std::current_exception();
    changed_.notify_all();
  }
}

void Loader::next(PackedBatch& batch) {
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return ready_ > 0 || failure_; });
    if (ready_ == 0) std::rethrow_exception(failure_);
    std::swap(batch, ring_[read_]);
    read_ = (read_ + 1) % kAhead;
    --ready_;
  }
  changed_.notify_all();
}

}  // namespace electra
