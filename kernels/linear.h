// Linear layer y = act(x Wᵀ + b), act none or GELU (erf). Weight is (out, in) as in PyTorch.
// On the CUDA backend tensors are f32 or bf16, dweight and dbias f32 always; the products are those of kernels/gemm.h.
#pragma once
#include "kernels/core/backend.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor.h"
#include "kernels/grad_mode.h"

namespace electra {

enum class Epilogue { none, bias, bias_gelu };

struct LinearForward {
  Tensor x;       // (rows, in)
  Tensor weight;  // (out, in)
  Tensor bias;    // (out); absent with Epilogue::none
  Tensor y;       // (rows, out)
  Tensor u;       // (rows, out): x Wᵀ + b before GELU, kept for backward; only with bias_gelu, may be absent without backward
  Epilogue epilogue = Epilogue::bias;
};

struct LinearBackward {
  Tensor x, weight, dy;
  Tensor u;                                  // only with bias_gelu
  Tensor dx, dweight, dbias;
  GradMode dx_mode = GradMode::write, dweight_mode = GradMode::write, dbias_mode = GradMode::write;
  Tensor workspace;                          // linear_backward_workspace() bytes, u8
  Epilogue epilogue = Epilogue::bias;
};

// Bytes of LinearBackward::workspace.
template <Backend B> size_t linear_backward_workspace(int64_t rows, int64_t in, int64_t out, Epilogue epilogue, DType dtype);
template <Backend B> void linear_forward(const LinearForward& args, Stream& stream);
template <Backend B> void linear_backward(const LinearBackward& args, Stream& stream);

}  // namespace electra
