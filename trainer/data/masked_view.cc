#include "trainer/data/masked_view.h"

#include <algorithm>

#include "kernels/core/philox.h"
#include "kernels/core/step_state.h"
#include "kernels/core/thread_pool.h"
#include "kernels/dispatch.h"

namespace electra {

MaskedView masked_view(std::vector<int32_t> ids, const SpecialIds& special, double mask_prob, uint64_t seed) {
  const auto length = static_cast<int64_t>(ids.size());
  const int64_t slots = std::max<int64_t>(1, length);
  std::vector<int32_t> offsets = {0, static_cast<int32_t>(length)}, rows(static_cast<size_t>(slots)), targets(rows.size());
  std::vector<float> weights(rows.size());
  MaskedView view{.generator_ids = std::vector<int32_t>(ids.size()), .positions = {}};
  const StepState state{.seed = seed};
  const auto tensor = []<class T>(std::vector<T>& values) { return Tensor{values.data(), {static_cast<int64_t>(values.size())}, dtype_of<T>}; };
  ThreadPool pool(1);
  Stream stream(pool);
  mask_tokens<Backend::cpu>({.ids = tensor(ids),
                             .sequence_offsets = tensor(offsets),
                             .masked_ids = tensor(view.generator_ids),
                             .masked_rows = tensor(rows),
                             .masked_weights = tensor(weights),
                             .masked_targets = tensor(targets),
                             .special = special,
                             .max_predictions = slots,
                             .mask_prob = mask_prob,
                             .with_replacement = false,
                             .site = fnv1a64("mask_tokens"),
                             .state = &state},
                            stream);
  for (size_t i = 0; i < rows.size(); ++i)
    if (weights[i] > 0) view.positions.push_back(rows[i]);
  return view;
}

}  // namespace electra
