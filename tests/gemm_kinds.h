// Ops that stand on matrix products are tested with each implementation of them.
#pragma once
#include "kernels/gemm.h"
#include "tests/on_device.h"
#include "tests/op_test.h"

namespace electra::test {

// Calls f for GemmKind::library and GemmKind::own.
template <class F> void for_each_gemm_kind(F f) {
  struct Restore {
    ~Restore() { set_gemm_kind(GemmKind::library); }
  } restore;
  for (const GemmKind kind : {GemmKind::library, GemmKind::own}) {
    set_gemm_kind(kind);
    f(kind);
  }
}

// check_device with each kind of product.
inline void check_device_with_every_gemm(OpRecord record) {
  const std::string name = record.name;
  for_each_gemm_kind([&](GemmKind kind) {
    record.name = name + (kind == GemmKind::own ? " by own gemm" : " by the library");
    check_device(record);
  });
}

}  // namespace electra::test
