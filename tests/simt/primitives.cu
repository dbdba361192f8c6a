#include "tests/simt/primitives.h"

#include "kernels/device.cuh"

namespace electra::test {

namespace {

struct MmaArgs {
  float* d;
  const bf16 *a, *b;
  const float* c;
};

__device__ inline uint32_t pair(bf16 lo, bf16 hi) { return static_cast<uint32_t>(lo.bits) | static_cast<uint32_t>(hi.bits) << 16; }

__device__ inline void store_c(float* d, const FragC& c) {
  const int g = lane_index() / 4, t = lane_index() % 4;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < 2; ++j) d[(g + 8 * i) * 8 + 2 * t + j] = c.r[2 * i + j];
  }
}

__global__ void mma_kernel(const MmaArgs p) {
  const int g = lane_index() / 4, t = lane_index() % 4;
  FragA a;
  FragB b;
  FragC c;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const bf16* row = p.a + (g + 8 * (i % 2)) * 16 + 2 * t + 8 * (i / 2);
    a.r[i] = pair(row[0], row[1]);
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) b.r[i] = pair(p.b[(2 * t + 8 * i) * 8 + g], p.b[(2 * t + 8 * i + 1) * 8 + g]);
#pragma unroll
  for (int i = 0; i < 4; ++i) c.r[i] = p.c[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2];
  mma_m16n8k16(c, a, b);
  store_c(p.d, c);
}

struct MmaShared {
  alignas(16) bf16 a[16][24];
  alignas(16) bf16 b[16 * 24];
};

template <bool kStoredTransposed>
__global__ void mma_from_shared_kernel(const MmaArgs p) {
  auto& sm = block_shared<MmaShared>();
  const int lane = lane_index();
  for (int i = lane; i < 256; i += kWarpSize) sm.a[i / 16][i % 16] = p.a[i];
  constexpr int kCols = kStoredTransposed ? 16 : 8;
  for (int i = lane; i < 128; i += kWarpSize) sm.b[i / kCols * 24 + i % kCols] = p.b[i];
  sync_warp();
  FragA a;
  FragB b;
  FragC c = {};
  ldmatrix_x4(a.r, &sm.a[lane % 16][lane / 16 * 8]);
  if (kStoredTransposed) {
    ldmatrix_x2(b.r, &sm.b[lane % 8 * 24 + lane / 8 % 2 * 8]);  // b^T: row n, columns k
  } else {
    ldmatrix_x2<true>(b.r, &sm.b[lane % 16 * 24]);
  }
  mma_m16n8k16(c, a, b);
  store_c(p.d, c);
}

struct LdmatrixArgs {
  uint32_t* out;
  const uint16_t* rows;
  const int* row_of;
};
struct LdmatrixShared {
  alignas(16) uint16_t rows[64][8];
};
template <int kMatrices, bool kTransposed>
__global__ void ldmatrix_kernel(const LdmatrixArgs p) {
  auto& sm = block_shared<LdmatrixShared>();
  const int lane = lane_index();
  for (int i = lane; i < 64 * 8; i += kWarpSize) sm.rows[i / 8][i % 8] = p.rows[i];
  sync_warp();
  uint32_t r[kMatrices];
  const uint16_t* row = sm.rows[lane < kMatrices * 8 ? p.row_of[lane] : 0];
  if constexpr (kMatrices == 4) {
    ldmatrix_x4<kTransposed>(r, row);
  } else {
    ldmatrix_x2<kTransposed>(r, row);
  }
#pragma unroll
  for (int i = 0; i < kMatrices; ++i) p.out[lane * kMatrices + i] = r[i];
}

struct CopyAsyncArgs {
  uint32_t* out;
  const uint32_t* in;
  const uint8_t* valid;
};
struct CopyAsyncShared {
  alignas(16) uint32_t word[4][128][4];
};
__global__ void copy_async_kernel(const CopyAsyncArgs p) {
  auto& sm = block_shared<CopyAsyncShared>();
  const int thread = thread_index().x;
  const auto start = [&](int group) {
    const int piece = group * 128 + thread;
    copy_async_16(sm.word[group][thread], p.in + piece * 4, p.valid[piece] != 0);
    copy_async_commit();
  };
  const auto finish = [&](int group) {  // another thread's piece
    sync_block();
    const int other = 127 - thread;
    for (int i = 0; i < 4; ++i) p.out[(group * 128 + other) * 4 + i] = sm.word[group][other][i];
  };
  start(0);
  start(1);
  start(2);
  copy_async_wait<2>();
  finish(0);
  start(3);
  copy_async_wait<2>();
  finish(1);
  copy_async_wait<0>();
  finish(2);
  finish(3);
}

struct WarpArgs {
  WarpResults out;
  const float* value;
  const int *source, *index;
};
__global__ void warp_kernel(const WarpArgs p) {
  const int l = lane_index();
  const float v = p.value[l];
  p.out.shfl[l] = shfl(v, p.source[l]);
  p.out.shfl_xor[l] = shfl_xor(static_cast<double>(v) * 1.0000000001, 5);
  p.out.shfl_up[l] = shfl_up(v, 3);
  p.out.sum[0][l] = warp_sum<1>(v);
  p.out.sum[1][l] = warp_sum<2>(v);
  p.out.sum[2][l] = warp_sum<4>(v);
  p.out.sum[3][l] = warp_sum<8>(v);
  p.out.sum[4][l] = warp_sum<16>(v);
  p.out.sum[5][l] = warp_sum(v);
  p.out.max[0][l] = warp_max<1>(v);
  p.out.max[1][l] = warp_max<2>(v);
  p.out.max[2][l] = warp_max<4>(v);
  p.out.max[3][l] = warp_max<8>(v);
  p.out.max[4][l] = warp_max<16>(v);
  p.out.max[5][l] = warp_max(v);
  p.out.int_sum[l] = warp_sum(p.index[l]);
  p.out.int_max[l] = warp_max(p.index[l]);
  const ArgMax best = warp_arg_max({v, p.index[l]});
  p.out.arg_value[l] = best.value;
  p.out.arg_index[l] = best.index;
  p.out.ballot[l] = ballot(v > 0);
}

struct BlockReduceArgs {
  float *sum, *max, *second_sum;
  const float* value;
};
struct BlockReduceShared {
  float scratch[4];
};
__global__ void block_reduce_kernel(const BlockReduceArgs p) {
  auto& sm = block_shared<BlockReduceShared>();
  const int i = thread_index().x;
  p.sum[i] = block_sum(p.value[i], sm.scratch);
  p.max[i] = block_max(p.value[i], sm.scratch);
  p.second_sum[i] = block_sum(p.value[i] * p.value[i], sm.scratch);
}

struct GroupArgs {
  float* out;
  const float* in;
  int rounds;
};
struct GroupShared {
  float value[2][64];
};
__global__ void group_kernel(const GroupArgs p) {
  auto& sm = block_shared<GroupShared>();
  const int thread = thread_index().x, group = thread / 64, i = thread % 64;
  float v = p.in[thread];
  // The groups make different numbers of rounds: neither waits for the other.
  for (int round = 0; round < p.rounds * (group + 1); ++round) {
    sm.value[group][i] = v;
    sync_group(1 + group, 64);
    v = sm.value[group][63 - i];
    sync_group(1 + group, 64);
  }
  p.out[thread] = v;
}

struct PhiloxArgs {
  Bits128* bits;
  float* uniform;
  uint32_t* draws;
  uint64_t key;
  const RandomCoordinates* at;
  int count;
};
__global__ void philox_kernel(const PhiloxArgs p) {
  const int i = block_index().x * block_size().x + thread_index().x;
  if (i >= p.count) return;
  const Bits128 bits = philox(p.key, p.at[i]);
  p.bits[i] = bits;
  p.uniform[i] = uniform_open(bits.word[i % 4]);
#pragma unroll
  for (int slot = 0; slot < 8; ++slot) p.draws[i * 8 + slot] = draw16(bits, slot);
}

struct ToFloatArgs {
  float* out;
  const bf16* in;
  int count;
};
__global__ void to_float_kernel(const ToFloatArgs p) {
  const int i = block_index().x * block_size().x + thread_index().x;
  if (i < p.count) p.out[i] = to_float(p.in[i]);
}
struct ToBf16Args {
  bf16* out;
  uint32_t* packed;
  const float* in;
  int count;
};
__global__ void to_bf16_kernel(const ToBf16Args p) {
  const int i = block_index().x * block_size().x + thread_index().x;
  if (i >= p.count) return;
  p.out[i] = to_bf16(p.in[i]);
  p.packed[i] = pack_bf16x2(p.in[i], p.in[p.count - 1 - i]);
}

struct CopyVectorArgs {
  uint8_t* out;
  const uint8_t* in;
  int bytes;
};
template <int kBytes, Cache kCache>
__global__ void copy_vector_kernel(const CopyVectorArgs p) {
  for (int i = thread_index().x * kBytes; i < p.bytes; i += block_size().x * kBytes) {
    store_vec<kCache == Cache::read_only ? Cache::normal : kCache>(p.out + i, load_vec<kBytes, kCache>(p.in + i));
  }
}
template <int kBytes>
void launch_copy_vector(const CopyVectorArgs& p, int cache) {
  auto* kernel = cache == 0 ? copy_vector_kernel<kBytes, Cache::normal>
                            : cache == 1 ? copy_vector_kernel<kBytes, Cache::streamed> : copy_vector_kernel<kBytes, Cache::read_only>;
  launch(kernel, {1}, {64}, 0, nullptr, p);
}

struct FloatsArgs {
  bf16* out_bf16;
  float* out_float;
  const bf16* in;
  int count;
};
__global__ void floats_kernel(const FloatsArgs p) {
  for (int i = thread_index().x * 8; i < p.count; i += block_size().x * 8) {
    float x[8];
    load_floats<Cache::read_only>(x, p.in + i);
    store_floats(p.out_bf16 + i, x);
    store_floats<Cache::streamed>(p.out_float + i, x);
  }
}

struct AtomicArgs {
  Counts* counts;
};
struct AtomicShared {
  uint32_t count;
};
__global__ void atomics_kernel(const AtomicArgs p) {
  auto& sm = block_shared<AtomicShared>();
  const int i = block_index().x * block_size().x + thread_index().x;
  if (thread_index().x == 0) sm.count = 0;
  sync_block();
  atomic_add(&sm.count, 3u);
  atomic_add(&p.counts->add_u32, static_cast<uint32_t>(i));
  atomic_add(&p.counts->add_i32, i % 2 ? -i : 1);
  atomic_add(&p.counts->add_u64, uint64_t{1} << 33);
  atomic_max(&p.counts->max_u32, static_cast<uint32_t>(i) * 7919u % 1000u);
  atomic_max(&p.counts->max_i32, -5 - i);
  atomic_or(&p.counts->bits, 1u << (i % 31));
  sync_block();
  if (thread_index().x == 0) atomic_add(&p.counts->shared_add, sm.count);
}

struct MathArgs {
  MathResults out;
  const float* in;
  int count;
};
__global__ void math_kernel(const MathArgs p) {
  const int i = block_index().x * block_size().x + thread_index().x;
  if (i >= p.count) return;
  const float x = p.in[i];
  p.out.exp2[i] = exp2_approx(-x);
  p.out.exp[i] = exp_approx(-x);
  p.out.log2[i] = log2_approx(x);
  p.out.log[i] = log_approx(x);
  p.out.rsqrt[i] = rsqrt(x);
  p.out.erf[i] = erff(x);
  p.out.fma[i] = fmaf(x, x, -1.0f);
}

struct IndexArgs {
  int* out;
};
__global__ void index_kernel(const IndexArgs p) {
  const Index3 t = thread_index(), b = block_index();
  const Extent3 s = block_size(), g = grid_size();
  const int block = b.x + g.x * (b.y + g.y * b.z), thread = t.x + s.x * (t.y + s.y * t.z);
  const int values[12] = {t.x, t.y, t.z, b.x, b.y, b.z, s.x, s.y, s.z, g.x, g.y, g.z};
  int* out = p.out + (block * s.x * s.y * s.z + thread) * 12;
#pragma unroll
  for (int i = 0; i < 12; ++i) out[i] = values[i];
}

}  // namespace

void run_mma(float* d, const bf16* a, const bf16* b, const float* c) { launch(mma_kernel, {1}, {32}, 0, nullptr, MmaArgs{d, a, b, c}); }
void run_mma_from_shared(float* d, const bf16* a, const bf16* b, bool b_is_transposed) {
  launch(b_is_transposed ? mma_from_shared_kernel<true> : mma_from_shared_kernel<false>, {1}, {32}, sizeof(MmaShared), nullptr,
         MmaArgs{d, a, b, nullptr});
}
void run_ldmatrix(uint32_t* out, const uint16_t* rows, const int* row_of, int matrices, bool transposed) {
  auto* kernel = matrices == 4 ? (transposed ? ldmatrix_kernel<4, true> : ldmatrix_kernel<4, false>)
                               : (transposed ? ldmatrix_kernel<2, true> : ldmatrix_kernel<2, false>);
  launch(kernel, {1}, {32}, sizeof(LdmatrixShared), nullptr, LdmatrixArgs{out, rows, row_of});
}
void run_copy_async(uint32_t* out, const uint32_t* in, const uint8_t* valid) {
  launch(copy_async_kernel, {1}, {128}, sizeof(CopyAsyncShared), nullptr, CopyAsyncArgs{out, in, valid});
}
void run_warp(const WarpResults& out, const float* value, const int* source, const int* index) {
  launch(warp_kernel, {1}, {32}, 0, nullptr, WarpArgs{out, value, source, index});
}
void run_block_reduce(float* sum, float* max, float* second_sum, const float* value) {
  launch(block_reduce_kernel, {1}, {128}, sizeof(BlockReduceShared), nullptr, BlockReduceArgs{sum, max, second_sum, value});
}
void run_groups(float* out, const float* in, int rounds) {
  launch(group_kernel, {1}, {128}, sizeof(GroupShared), nullptr, GroupArgs{out, in, rounds});
}
void run_philox(Bits128* bits, float* uniform, uint32_t* draws, uint64_t key, const RandomCoordinates* at, int count) {
  launch(philox_kernel, {ceil_div(count, 64)}, {64}, 0, nullptr, PhiloxArgs{bits, uniform, draws, key, at, count});
}
void run_to_float(float* out, const bf16* in, int count) {
  launch(to_float_kernel, {ceil_div(count, 256)}, {256}, 0, nullptr, ToFloatArgs{out, in, count});
}
void run_to_bf16(bf16* out, uint32_t* packed, const float* in, int count) {
  launch(to_bf16_kernel, {ceil_div(count, 256)}, {256}, 0, nullptr, ToBf16Args{out, packed, in, count});
}
void run_copy_vectors(uint8_t* out, const uint8_t* in, int bytes, int vec_bytes, int cache) {
  const CopyVectorArgs args{out, in, bytes};
  switch (vec_bytes) {
    case 2: return launch_copy_vector<2>(args, cache);
    case 4: return launch_copy_vector<4>(args, cache);
    case 8: return launch_copy_vector<8>(args, cache);
    default: return launch_copy_vector<16>(args, cache);
  }
}
void run_load_store_floats(bf16* out_bf16, float* out_float, const bf16* in, int count) {
  launch(floats_kernel, {1}, {32}, 0, nullptr, FloatsArgs{out_bf16, out_float, in, count});
}
void run_atomics(Counts* counts, int blocks) {
  launch(atomics_kernel, {blocks}, {128}, sizeof(AtomicShared), nullptr, AtomicArgs{counts});
}
void run_math(const MathResults& out, const float* in, int count) {
  launch(math_kernel, {ceil_div(count, 128)}, {128}, 0, nullptr, MathArgs{out, in, count});
}
void run_indices(int* out) { launch(index_kernel, {2, 3, 2}, {8, 4, 2}, 0, nullptr, IndexArgs{out}); }

}  // namespace electra::test
