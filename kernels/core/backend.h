// Backend: which family of kernels runs. One template parameter and one switch; every kernel is declared for all
// backends and defined by explicit specialisation, so that a missing one is a link error naming op and backend.
#pragma once

namespace electra {

enum class Backend { cpu };

}  // namespace electra
