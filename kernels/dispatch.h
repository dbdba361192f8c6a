// The one switch from a stream to the backend its kernels run on.
#pragma once
#include "kernels/core/backend.h"
#include "kernels/core/device.h"

namespace electra {

// Calls f.operator()<Backend>().
template <class F> void dispatch(const Stream& stream, F&& f) {
  if constexpr (kHasCudaBackend)
    if (stream.backend() == Backend::cuda) return f.template operator()<Backend::cuda>();
  f.template operator()<Backend::cpu>();
}

}  // namespace electra
