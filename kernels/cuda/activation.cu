// GELU. One thread takes 8 elements; every operand crosses memory once. Alone only where the linear layer did not fuse it.
#include "kernels/activation.h"
#include "kernels/cuda/common.cuh"

namespace electra {
namespace {

using namespace cuda;

constexpr int kThreads = 256;
constexpr int kPerThread = 8;

template <class T> struct GeluArgs {
  const T *x, *dy;  // dy: backward only
  T* out;           // y, or dx
  int64_t size;
  GradMode mode;    // of dx
};

template <class T, bool kBackward> __global__ void __launch_bounds__(kThreads) gelu_kernel(GeluArgs<T> a) {
  const int64_t first = (static_cast<int64_t>(block_index().x) * kThreads + thread_index().x) * kPerThread;
  const auto result = [&](float x, float dy) { return kBackward ? dy * gelu_slope(x) : gelu(x); };
  if (first + kPerThread <= a.size) {
    float x[kPerThread], dy[kPerThread] = {}, out[kPerThread] = {};
    load_floats(x, a.x + first);
    if (kBackward) load_floats(dy, a.dy + first);
    if (a.mode == GradMode::accumulate) load_floats(out, a.out + first);
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) out[i] += result(x[i], dy[i]);
    store_floats(a.out + first, out);
  } else {
    for (int64_t i = first; i < a.size; ++i) put(a.out + i, result(to_float(a.x[i]), kBackward ? to_float(a.dy[i]) : 0), a.mode);
  }
}

template <class T, bool kBackward> void run(const GeluArgs<T>& args, Stream& stream) {
  if (args.size == 0) return;
  const auto blocks = static_cast<int>(ceil_div<int64_t>(args.size, kThreads * kPerThread));
  launch(gelu_kernel<T, kBackward>, {blocks}, {kThreads}, 0, stream.handle(), args);
}

}  // namespace

template <> void gelu_forward<Backend::cuda>(const GeluForward& args, Stream& stream) {
  check_operand("gelu", "y", args.y, args.x.shape, args.x.dtype);
  dispatch_float("gelu", args.x.dtype, [&]<class T>() {
    run<T, false>({args.x.as<T>(), nullptr, args.y.as<T>(), args.x.size(), GradMode::write}, stream);
  });
}

template <> void gelu_backward<Backend::cuda>(const GeluBackward& args, Stream& stream) {
  check_operand("gelu", "dy", args.dy, args.x.shape, args.x.dtype);
  if (args.dx_mode == GradMode::none) return;
  check_operand("gelu", "dx", args.dx, args.x.shape, args.x.dtype);
  dispatch_float("gelu", args.x.dtype, [&]<class T>() {
    run<T, true>({args.x.as<T>(), args.dy.as<T>(), args.dx.as<T>(), args.x.size(), args.dx_mode}, stream);
  });
}

}  // namespace electra
