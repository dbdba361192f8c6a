#include "trainer/batch_source.h"

namespace electra {
namespace {

class LoaderSource final : public BatchSource {
 public:
  LoaderSource(const ExampleStream& examples, const BatchShape& shape, uint64_t seed, LoaderState start, int64_t micro_batches)
      : loader_(examples, shape, seed, start), state_(start) {
    for (int64_t i = 0; i < micro_batches; ++i) batches_.emplace_back(shape);
    views_.resize(batches_.size());
  }
  std::span<const HostBatch> next() override {
    for (size_t i = 0; i < batches_.size(); ++i) {
      loader_.next(batches_[i]);
      views_[i] = batches_[i].view();
    }
    state_ = batches_.back().after;
    return views_;
  }
  LoaderState state() const override { return state_; }

 private:
  Loader loader_;
  LoaderState state_;
  std::vector<PackedBatch> batches_;
  std::vector<HostBatch> views_;
};

class OverfitSource final : public BatchSource {
 public:
  OverfitSource(const ExampleStream& examples, const BatchShape& shape, uint64_t seed, int64_t steps, int64_t first_step,
                int64_t micro_batches)
      : micro_batches_(static_cast<size_t>(micro_batches)), next_(static_cast<size_t>(first_step % steps)) {
    LoaderState state;
    for (int64_t i = 0; i < steps * micro_batches; ++i) {
      fill_batch(examples, shape, seed, state, batches_.emplace_back(shape));
      state = batches_.back().after;
      views_.push_back(batches_.back().view());
    }
  }
  std::span<const HostBatch> next() override {
    const auto step = std::span<const HostBatch>(views_).subspan(next_ * micro_batches_, micro_batches_);
    next_ = (next_ + 1) % (views_.size() / micro_batches_);
    return step;
  }
  LoaderState state() const override { return {}; }

 private:
  size_t micro_batches_, next_;
  std::vector<PackedBatch> batches_;
  std::vector<HostBatch> views_;
};

class SyntheticSource final : public BatchSource {
 public:
  SyntheticSource(const BatchShape& shape, int64_t vocab_size, uint64_t seed, int64_t first_step, int64_t micro_batches)
      : next_(first_step * micro_batches) {
    for (int64_t i = 0; i < micro_batches; ++i) batches_.emplace_back(shape, vocab_size, seed);
    views_.resize(batches_.size());
  }
  std::span<const HostBatch> next() override {
    for (size_t i = 0; i < batches_.size(); ++i) views_[i] = batches_[i].fill(next_++);
    return views_;
  }
  LoaderState state() const override { return {}; }

 private:
  int64_t next_;
  std::vector<SyntheticBatch> batches_;
  std::vector<HostBatch> views_;
};

}  // namespace

std::unique_ptr<BatchSource> loader_source(const ExampleStream& examples, const BatchShape& shape, uint64_t seed, LoaderState start,
                                           int64_t micro_batches) {
  return std::make_unique<LoaderSource>(examples, shape, seed, start, micro_batches);
}

std::unique_ptr<BatchSource> overfit_source(const ExampleStream& examples, const BatchShape& shape, uint64_t seed, int64_t steps,
                                            int64_t first_step, int64_t micro_batches) {
  return std::make_unique<OverfitSource>(examples, shape, seed, steps, first_step, micro_batches);
}

std::unique_ptr<BatchSource> synthetic_source(const BatchShape& shape, int64_t vocab_size, uint64_t seed, int64_t first_step,
                                              int64_t micro_batches) {
  return std::make_unique<SyntheticSource>(shape, vocab_size, seed, first_step, micro_batches);
}

}  // namespace electra
