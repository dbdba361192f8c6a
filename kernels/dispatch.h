// The one switch from a stream to the backend its kernels run on.
#pragma once
#include "kernels/core/backend.h"
#include "kernels/core/device.h"

namespace electra {

// Calls f.operator()<Backend>() and returns what it returns.
template <class F> auto dispatch(Backend backend, F&& f) {
  if constexpr (kHasCudaBackend)
    if (backend == Backend::cuda) return f.template operator()<Backend::cuda>();
  return f.template operator()<Backend::cpu>();
}
template <class F> auto dispatch(const Stream& stream, F&& f) { return dispatch(stream.backend(), f); }

}  // namespace electra
