// Global gradient norm and AdamW over flat buffers (Loshchilov and Hutter, 2019).
#include "kernels/optimizer.h"

#include "kernels/cuda/common.cuh"

namespace electra {
namespace {

using namespace cuda;

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kMostPartials = 1056;       // 8 blocks of the norm on each of 132 multiprocessors
constexpr int kBlockElements = 4 * kThreads;  // of one step through the buffer
// A warp updates the 256 elements that a group id covers, as two runs of 128.
constexpr int kRun = 4 * kWarpSize;
static_assert(kGroupElements == 2 * kRun);

struct Shared {
  double sum[kWarps];
};

// Over the block, the same in every thread, in a fixed order.
__device__ double block_sum_of(double v, double (&scratch)[kWarps]) {
#pragma unroll
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) v += shfl_xor(v, mask);
  if (lane_index() == 0) scratch[warp_index()] = v;
  sync_block();
  double sum = scratch[0];
#pragma unroll
  for (int w = 1; w < kWarps; ++w) sum += scratch[w];
  return sum;
}

struct SquaresArgs {
  const float* grad;
  double* partial;  // (blocks)
  int64_t size;
};

// A thread takes 4 elements of every 1,024 · blocks. Squared and summed in double: no finite gradient overflows or vanishes.
// Traffic: the gradients once.
__global__ void __launch_bounds__(kThreads) squares_kernel(SquaresArgs a) {
  auto& sm = block_shared<Shared>();
  double sum = 0;
  const int64_t step = static_cast<int64_t>(grid_size().x) * kBlockElements;
  int64_t i = static_cast<int64_t>(block_index().x) * kBlockElements + 4 * thread_index().x;
#pragma unroll 2
  for (; i + 4 <= a.size; i += step) {
    const Vec<float, 4> g = load_vec<4, Cache::streamed>(a.grad + i);
#pragma unroll
    for (int j = 0; j < 4; ++j) sum += static_cast<double>(g[j]) * static_cast<double>(g[j]);
  }
  for (; i < a.size; ++i) sum += static_cast<double>(a.grad[i]) * static_cast<double>(a.grad[i]);  // the last 1 to 3 elements
  sum = block_sum_of(sum, sm.sum);
  if (thread_index().x == 0) a.partial[block_index().x] = sum;
}

struct NormArgs {
  const double* partial;
  const float* loss;
  GradNorm* result;
  double clip_norm;
  int partials;
};

// One block adds the partial sums in a fixed order.
__global__ void __launch_bounds__(kThreads) norm_kernel(NormArgs a) {
  auto& sm = block_shared<Shared>();
  double sum = 0;
  for (int i = thread_index().x; i < a.partials; i += kThreads) sum += a.partial[i];
  sum = block_sum_of(sum, sm.sum);
  if (thread_index().x != 0) return;
  const double norm = sqrt(sum);
  const bool finite = norm < INFINITY && fabsf(*a.loss) < INFINITY;  // false for NaN
  *a.result = {.norm = norm, .factor = !finite ? 0 : norm > a.clip_norm ? a.clip_norm / norm : 1, .finite = finite ? 1 : 0};
}

struct AdamWArgs {
  float* param;
  const float* grad;
  float *m, *v;
  bf16* copy;  // or null
  const uint8_t* group_ids;
  const ParameterGroup* groups;
  const GradNorm* grad_norm;
  const StepState* state;
  double beta1, beta2;
  float gain1, gain2, eps;  // 1 − beta, rounded once, from double
  bool bias_correction;
  int64_t size;
};

// base^exponent by squaring: at most 64 products, each within half an ulp.
__device__ double power(double base, uint32_t exponent) {
  double result = 1;
  for (; exponent != 0; exponent /= 2, base *= base)
    if (exponent % 2 != 0) result *= base;
  return result;
}

// A warp takes 256 elements, which are of one group; a lane 4 neighbours of either half. Traffic: p, m, v, g read, p, m, v and the
// copy written once: 30 bytes an element, the minimum.
__global__ void __launch_bounds__(kThreads) adamw_kernel(AdamWArgs a) {
  const int64_t group = static_cast<int64_t>(block_index().x) * kWarps + warp_index();
  const int64_t first = group * kGroupElements;
  if (first >= a.size || !a.grad_norm->finite) return;
  const ParameterGroup of = a.groups[a.group_ids[group]];
  const auto factor = static_cast<float>(a.grad_norm->factor), beta1 = static_cast<float>(a.beta1), beta2 = static_cast<float>(a.beta2);
  const auto learning_rate = static_cast<float>(a.state->learning_rate * static_cast<double>(of.learning_rate_scale));
  float inverse1 = 1, inverse2 = 1;
  if (a.bias_correction) {
    inverse1 = static_cast<float>(1 / (1 - power(a.beta1, a.state->adam_step)));
    inverse2 = static_cast<float>(1 / (1 - power(a.beta2, a.state->adam_step)));
  }
  const auto update = [&](float& p, float& m, float& v, float grad) {
    const float g = grad * factor;
    m = m * beta1 + g * a.gain1;
    v = v * beta2 + g * g * a.gain2;
    p -= (m * inverse1 / (sqrtf(v * inverse2) + a.eps) + p * of.weight_decay) * learning_rate;
  };
  const int64_t begin = first + 4 * lane_index();
  if (begin + kRun + 4 <= a.size) {
    Vec<float, 4> p[2], m[2], v[2], g[2];
#pragma unroll
    for (int run = 0; run < 2; ++run) {
      const int64_t i = begin + run * kRun;
      g[run] = load_vec<4, Cache::streamed>(a.grad + i);
      m[run] = load_vec<4, Cache::streamed>(a.m + i);
      v[run] = load_vec<4, Cache::streamed>(a.v + i);
      p[run] = load_vec<4, Cache::streamed>(a.param + i);
    }
#pragma unroll
    for (int run = 0; run < 2; ++run) {
      const int64_t i = begin + run * kRun;
#pragma unroll
      for (int j = 0; j < 4; ++j) update(p[run][j], m[run][j], v[run][j], g[run][j]);
      store_vec<Cache::streamed>(a.m + i, m[run]);
      store_vec<Cache::streamed>(a.v + i, v[run]);
      store_vec<Cache::streamed>(a.param + i, p[run]);
      if (a.copy) {
        Vec<bf16, 4> copy;
#pragma unroll
        for (int j = 0; j < 4; ++j) copy[j] = to_bf16(p[run][j]);
        store_vec(a.copy + i, copy);  // read soon, by the next step's forward
      }
    }
    return;
  }
  for (int k = 0; k < 8; ++k) {  // the end of the buffer
    const int64_t i = begin + k / 4 * kRun + k % 4;
    if (i >= a.size) return;
    float p = a.param[i], m = a.m[i], v = a.v[i];
    update(p, m, v, a.grad[i]);
    a.m[i] = m;
    a.v[i] = v;
    a.param[i] = p;
    if (a.copy) a.copy[i] = to_bf16(p);
  }
}

int partials_of(int64_t elements) { return static_cast<int>(std::min<int64_t>(ceil_div<int64_t>(elements, kBlockElements), kMostPartials)); }

}  // namespace

template <> size_t grad_norm_workspace<Backend::cuda>(int64_t elements) { return Scratch::bytes<double>(partials_of(elements)); }

template <> void grad_norm<Backend::cuda>(const GradNormArgs& args, Stream& stream) {
  const int64_t n = args.grad.size();
  check_operand("grad_norm", "grad", args.grad, {n}, DType::f32);
  check_aligned("grad_norm", "grad", args.grad);
  check_operand("grad_norm", "loss", args.loss, {1}, DType::f32);
  if (!args.result) throw ConfigError("grad_norm", "expected a place for the result, got none");
  check_workspace("grad_norm", args.workspace, grad_norm_workspace<Backend::cuda>(n));
  auto* const partial = args.workspace.as<double>();
  const int partials = partials_of(n);
  if (partials > 0)
    launch(squares_kernel, {partials}, {kThreads}, sizeof(Shared), stream.handle(), SquaresArgs{args.grad.as<float>(), partial, n});
  launch(norm_kernel, {1}, {kThreads}, sizeof(Shared), stream.handle(),
         NormArgs{partial, args.loss.as<float>(), args.result, args.clip_norm, partials});
}

template <> void adamw<Backend::cuda>(const AdamW& args, Stream& stream) {
  const int64_t n = args.param.size();
  const auto check = [&](const char* what, const Tensor& buffer, DType dtype) {
    check_operand("adamw", what, buffer, {n}, dtype);
    check_aligned("adamw", what, buffer);
  };
  check("param", args.param, DType::f32);
  check("grad", args.grad, DType::f32);
  check("m", args.m, DType::f32);
  check("v", args.v, DType::f32);
  if (args.copy) check("copy", args.copy, DType::bf16);
  check_state("adamw", args.state);
  if (!args.group_ids || !args.groups) throw ConfigError("adamw", "expected group ids and groups, got none");
  if (!args.grad_norm) throw ConfigError("adamw", "expected the result of grad_norm, got none");
  if (n == 0) return;
  const auto blocks = static_cast<int>(ceil_div<int64_t>(n, kWarps * kGroupElements));
  launch(adamw_kernel, {blocks}, {kThreads}, 0, stream.handle(),
         AdamWArgs{.param = args.param.as<float>(),
                   .grad = args.grad.as<float>(),
                   .m = args.m.as<float>(),
                   .v = args.v.as<float>(),
                   .copy = args.copy.as<bf16>(),
                   .group_ids = args.group_ids,
                   .groups = args.groups,
                   .grad_norm = args.grad_norm,
                   .state = args.state,
                   .beta1 = args.beta1,
                   .beta2 = args.beta2,
                   .gain1 = static_cast<float>(1 - args.beta1),
                   .gain2 = static_cast<float>(1 - args.beta2),
                   .eps = static_cast<float>(args.eps),
                   .bias_correction = args.bias_correction,
                   .size = n});
}

}  // namespace electra
