#include <atomic>

#include "kernels/gemm.h"

namespace electra {
namespace {

std::atomic<GemmKind> kind = GemmKind::library;

}  // namespace

void set_gemm_kind(GemmKind value) { kind = value; }
GemmKind gemm_kind() { return kind; }

}  // namespace electra
