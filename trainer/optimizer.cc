#include "trainer/optimizer.h"

#include "kernels/dispatch.h"

namespace electra {

Optimizer::Optimizer(const ParameterStore& store, const OptimizerConfig& config, Stream stream)
    : store_(&store),
      config_(config),
      stream_(stream),
      groups_(stream, {ParameterGroup{static_cast<float>(config.weight_decay), 1}, ParameterGroup{0, 1}}),
      norm_(stream),
      state_(stream),
      group_ids_(store.group_ids().size(), memory_of(stream.backend())),
      loss_(sizeof(double), memory_of(stream.backend())),
      workspace_(dispatch(stream.backend(), [&]<Backend B>() { return grad_norm_workspace<B>(store.elements()); }),
                 memory_of(stream.backend())) {
  copy(group_ids_.data(), store.group_ids().data(), store.group_ids().size(), stream_);
}

void Optimizer::step(const StepState& state, double loss) {
  state_.set(state);
  const auto rounded = static_cast<float>(loss);
  if (store_->master_dtype() == DType::f64) copy(loss_.data(), &loss, sizeof loss, stream_);
  else copy(loss_.data(), &rounded, sizeof rounded, stream_);
  issue(state_.data(), {loss_.data(), {1}, store_->master_dtype()});
  result_ = norm_.get();
}

void Optimizer::issue(const StepState* state, const Tensor& loss) {
  dispatch(stream_, [&]<Backend B>() {
    electra::grad_norm<B>({.grad = store_->grads(),
                           .loss = loss,
                           .result = norm_.data(),
                           .workspace = {workspace_.data(), {static_cast<int64_t>(workspace_.bytes())}, DType::u8},
                           .clip_norm = config_.clip_norm},
                          stream_);
    adamw<B>({.param = store_->values(),
              .grad = store_->grads(),
              .m = store_->first_moments(),
              .v = store_->second_moments(),
              .copy = store_->copies(),
              .group_ids = reinterpret_cast<const uint8_t*>(group_ids_.data()),
              .groups = groups_.data()->data(),
              .grad_norm = norm_.data(),
              .beta1 = config_.beta1,
              .beta2 = config_.beta2,
              .eps = config_.eps,
              .bias_correction = config_.bias_correction,
              .state = state},
             stream_);
  });
}

}  // namespace electra
