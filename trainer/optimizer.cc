#include "trainer/optimizer.h"

#include "engine/dispatch.h"

namespace electra {

Optimizer::Optimizer(const ParameterStore& store, const OptimizerConfig& config, Stream stream)
    : store_(&store),
      config_(config),
      stream_(stream),
      groups_{ParameterGroup{static_cast<float>(config.weight_decay), 1}, ParameterGroup{0, 1}},
      workspace_(grad_norm_workspace(store.elements())) {}

void Optimizer::step(const StepState& state, Tensor loss) {
  dispatch(stream_, [&]<Backend B>() {
    electra::grad_norm<B>({.grad = store_->grads(),
                           .loss = loss,
                           .result = &norm_,
                           .workspace = {workspace_.data(), {static_cast<int64_t>(workspace_.bytes())}, DType::u8},
                           .clip_norm = config_.clip_norm},
                          stream_);
    adamw<B>({.param = store_->values(),
              .grad = store_->grads(),
              .m = store_->first_moments(),
              .v = store_->second_moments(),
              .group_ids = store_->group_ids().data(),
              .groups = groups_.data(),
              .grad_norm = &norm_,
              .beta1 = config_.beta1,
              .beta2 = config_.beta2,
              .eps = config_.eps,
              .bias_correction = config_.bias_correction,
              .state = &state},
             stream_);
  });
}

}  // namespace electra
