// The one switch from a stream to the backend its kernels run on.
#pragma once
#include "kernels/core/backend.h"
#include "kernels/core/device.h"

namespace electra {

// Calls f.operator()<Backend>().
template <class F> void dispatch(const Stream&, F&& f) { f.template operator()<Backend::cpu>(); }

}  // namespace electra
