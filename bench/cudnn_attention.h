// The rival of bench_attention: cuDNN's fused attention through cudnn-frontend, on packed QKV of equal lengths in bf16. Without the
// headers of cudnn-frontend in the build, or cuDNN on the machine, the constructor throws DeviceError with the reason.
#pragma once
#include <cstdint>
#include <memory>

#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

namespace electra::bench {

struct CudnnAttentionArguments {
  Tensor qkv;             // (rows, 3 H D), as kernels/attention.h
  Tensor context, lse;    // (rows, H D); H · rows floats in cuDNN's own order
  Tensor dcontext, dqkv;
  int64_t length = 0, heads = 1;
  double drop_p = 0;
};

class CudnnAttention {
 public:
  CudnnAttention(const CudnnAttentionArguments& args, const Stream& stream);
  ~CudnnAttention();
  void forward();
  void backward();  // after a forward

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace electra::bench
