#include "kernels/cpu/isa.h"
#include "kernels/cpu/vector/kernels.h"

namespace electra::cpu {

namespace baseline { VectorKernels make_table(); }
#if defined(__x86_64__)
namespace avx2 { VectorKernels make_table(); }
namespace avx512 { VectorKernels make_table(); }
#endif

const VectorKernels& vector_kernels() {
  static const VectorKernels table = [] {
#if defined(__x86_64__)
    if (active_isa() == Isa::avx512) return avx512::make_table();
    if (active_isa() == Isa::avx2) return avx2::make_table();
#endif
    return baseline::make_table();
  }();
  return table;
}

}  // namespace electra::cpu
