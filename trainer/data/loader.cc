#include "trainer/data/loader.h"

#include <algorithm>
#include <array>
#include <bit>
#include <limits>
#include <string>

#include "kernels/core/error.h"
#include "kernels/core/philox.h"
#include "kernels/core/thread_pool.h"

namespace electra {
namespace {

constexpr size_t kAhead = 4;  // batches built before they are asked for
constexpr int64_t kPlacesAhead = 64;    // where a batch looks for its examples: as many as LoaderState::taken has bits
constexpr int64_t kShortestExample = 3;  // tokens: [CLS], a piece, [SEP]
constexpr int kFeistelRounds = 6;
constexpr int64_t kMixture = 4096;     // examples in a row in which every index has its exact share
constexpr size_t kMostIndices = 1024;

DataError no_examples() { return DataError("loader", "expected text with at least one example, got none"); }

// Appends an example; false where it does not fit.
bool append(const ExampleStream::Place& place, const BatchShape& shape, PackedBatch& batch) {
  const int64_t length = place.index->length(place.number);
  if (batch.sequences == shape.sequences || batch.tokens + length > shape.tokens) return false;
  place.index->build(place.number, batch.ids.data() + batch.tokens, batch.segments.data() + batch.tokens);
  batch.tokens += length;
  batch.sequence_offsets[static_cast<size_t>(++batch.sequences)] = static_cast<int32_t>(batch.tokens);
  return true;
}

// Zeros behind what is used.
void finish(PackedBatch& batch) {
  std::fill(batch.ids.begin() + batch.tokens, batch.ids.end(), 0);
  std::fill(batch.segments.begin() + batch.tokens, batch.segments.end(), 0);
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

ExampleStream::ExampleStream(const ExampleIndex& index) : sources_{{&index, 0}} {}

ExampleStream::ExampleStream(const std::vector<const ExampleIndex*>& indices, const std::vector<double>& weights) {
  if (indices.size() != weights.size() || indices.empty() || indices.size() > kMostIndices)
    throw ConfigError("loader", "expected 1 to " + std::to_string(kMostIndices) + " indices with a weight each, got " + std::to_string(indices.size()) + " with " + std::to_string(weights.size()) + " weights");
  double sum = 0;
  for (size_t i = 0; i < indices.size(); ++i) {
    if (indices[i]->size() == 0) throw no_examples();
    if (!(weights[i] > 0 && weights[i] < std::numeric_limits<double>::infinity())) throw ConfigError("loader", "expected weights above 0, got " + std::to_string(weights[i]));
    sum += weights[i];
  }
  std::vector<int64_t> counts;
  std::vector<double> missing;
  int64_t left = kMixture;
  for (const double weight : weights) {
    const double exact = weight / sum * static_cast<double>(kMixture);
    counts.push_back(std::max<int64_t>(1, static_cast<int64_t>(exact)));
    missing.push_back(exact - static_cast<double>(counts.back()));
    left -= counts.back();
  }
  for (; left > 0; --left) {
    const auto most = std::max_element(missing.begin(), missing.end());
    ++counts[static_cast<size_t>(most - missing.begin())];
    *most -= 1;
  }
  for (; left < 0; ++left) --*std::max_element(counts.begin(), counts.end());  // small shares were raised to one
  int64_t first = 0;
  for (size_t i = 0; i < indices.size(); ++i) {
    sources_.push_back({indices[i], first});
    first += counts[i];
  }
}

int64_t ExampleStream::epoch_size() const { return sources_.size() == 1 ? sources_.front().index->size() : std::numeric_limits<int64_t>::max(); }

double ExampleStream::share(size_t index) const {
  if (sources_.size() == 1) return 1;
  const int64_t end = index + 1 < sources_.size() ? sources_[index + 1].first : kMixture;
  return static_cast<double>(end - sources_[index].first) / static_cast<double>(kMixture);
}

ExampleStream::Place ExampleStream::at(uint64_t seed, const LoaderState& at) const {
  if (sources_.size() == 1) return {sources_.front().index, EpochOrder(sources_.front().index->size(), seed, at.epoch)(at.next)};
  const int64_t round = at.next / kMixture;
  const int64_t place = EpochOrder(kMixture, seed ^ fnv1a64("mixture"), round)(at.next % kMixture);
  size_t i = sources_.size() - 1;
  while (sources_[i].first > place) --i;
  const int64_t each = i + 1 < sources_.size() ? sources_[i + 1].first - sources_[i].first : kMixture - sources_[i].first;
  const int64_t number = round * each + place - sources_[i].first, size = sources_[i].index->size();  // counted over the index's epochs
  return {sources_[i].index, EpochOrder(size, seed + i * 0x9E3779B97F4A7C15u, number / size)(number % size)};
}

void fill_batch(const ExampleStream& examples, const BatchShape& shape, uint64_t seed, const LoaderState& state, PackedBatch& batch) {
  batch.sequences = batch.tokens = 0;
  LoaderState& after = batch.after = state;
  const int64_t size = examples.epoch_size();
  // The place k after the next one; epochs may be shorter than that.
  const auto place_after = [&](int64_t k) {
    const int64_t left = size - after.next;
    return k < left ? LoaderState{after.epoch, after.next + k} : LoaderState{after.epoch + 1 + (k - left) / size, (k - left) % size};
  };
  const auto advance = [&] {
    const LoaderState next = place_after(1);
    after = {next.epoch, next.next, after.taken >> 1};
  };
  // In order, as long as they fit; those that filled a gap before are passed over.
  if (after.next == size) after = {after.epoch + 1, 0, after.taken};
  while (append(examples.at(seed, after), shape, batch)) {
    advance();
    while (after.taken & 1) advance();
  }
  // The next one waits: the longest of those after it that fit fill the gap.
  if (batch.sequences < shape.sequences && shape.tokens - batch.tokens >= kShortestExample) {
    std::array<ExampleStream::Place, kPlacesAhead> places;
    for (int64_t k = 1; k < kPlacesAhead; ++k) places[static_cast<size_t>(k)] = examples.at(seed, place_after(k));
    for (bool found = true; found && batch.sequences < shape.sequences;) {
      int64_t best = 0, longest = 0;
      for (int64_t k = 1; k < kPlacesAhead; ++k) {
        const auto& [index, number] = places[static_cast<size_t>(k)];
        const int64_t length = index->length(number);
        if (after.taken >> k & 1 || length <= longest || length > shape.tokens - batch.tokens) continue;
        best = k;
        longest = length;
      }
      found = best > 0 && append(places[static_cast<size_t>(best)], shape, batch);
      if (found) after.taken |= uint64_t{1} << best;
    }
  }
  finish(batch);
}

double packing_efficiency(const ExampleStream& examples, const BatchShape& shape, uint64_t seed, int64_t batches) {
  PackedBatch batch(shape);
  int64_t tokens = 0;
  for (int64_t i = 0; i < batches; ++i) {
    fill_batch(examples, shape, seed, batch.after, batch);
    tokens += batch.tokens;
  }
  return static_cast<double>(tokens) / static_cast<double>(batches * shape.tokens);
}

std::vector<PackedBatch> fixed_batches(const std::vector<const ExampleIndex*>& indices, const BatchShape& shape, int64_t max_batches) {
  std::vector<PackedBatch> batches;
  std::vector<int64_t> next(indices.size());
  for (bool more = true; more;) {
    more = false;
    for (size_t k = 0; k < indices.size(); ++k) {
      const int64_t size = indices[k]->size();
      if (next[k] == size) continue;
      if (max_batches > 0 && static_cast<int64_t>(batches.size()) == max_batches) return batches;
      more = true;
      PackedBatch& batch = batches.emplace_back(shape);
      while (next[k] < size && append({indices[k], next[k]}, shape, batch)) ++next[k];
      finish(batch);
    }
  }
  return batches;
}

std::vector<PackedBatch> fixed_batches(const ExampleIndex& examples, const BatchShape& shape, int64_t max_batches) {
  return fixed_batches(std::vector{&examples}, shape, max_batches);
}

Loader::Loader(const ExampleStream& examples, const BatchShape& shape, uint64_t seed, LoaderState start)
    : examples_(examples), shape_(shape), seed_(seed), state_(start) {
  const int64_t size = examples.epoch_size();
  if (size == 0) throw no_examples();
  if (start.next < 0 || start.next > size || start.epoch < 0)
    throw DataError("loader", "expected a place among " + std::to_string(size) + " examples, got " + std::to_string(start.next) + " of epoch " + std::to_string(start.epoch));
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
      fill_batch(examples_, shape_, seed_, state_, ring_[write_]);
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
