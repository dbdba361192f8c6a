#include "tests/simt/primitives_sm90.h"

#include "tests/simt/gemm_sm90.cuh"

namespace electra::test {

namespace {

struct RegistersArgs {
  float* d;
  const float* d0;
  const bf16 *p, *v;
  int depth;
};
template <int N>
struct RegistersShared {
  alignas(1024) uint8_t v[N / 64][64 * 128];  // tiles of 64 rows (k) of 64 columns, swizzled
};
template <int N>
__global__ void __launch_bounds__(kWarpgroupSize) registers_kernel(const RegistersArgs p) {
  auto& sm = block_shared<RegistersShared<N>>();
  const int g = lane_index() / 4, t = lane_index() % 4, row = warp_index() * 16 + g;
  for (int i = thread_index().x; i < p.depth * N; i += kWarpgroupSize) {
    const int k = i / N, n = i % N;
    *reinterpret_cast<bf16*>(&sm.v[n / 64][swizzle_128(k, n % 64)]) = p.v[i];
  }
  fence_async_proxy();
  sync_block();
  float d[N / 2];
#pragma unroll
  for (int i = 0; i < N / 2; ++i) d[i] = p.d0[(row + i % 4 / 2 * 8) * N + i / 4 * 8 + 2 * t + i % 2];
  for (int k = 0; k < p.depth; k += 16) {
    FragA a;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bf16* from = p.p + (row + 8 * (i % 2)) * p.depth + k + 2 * t + 8 * (i / 2);
      a.r[i] = static_cast<uint32_t>(from[0].bits) | static_cast<uint32_t>(from[1].bits) << 16;
    }
    register_fence(d);
    wgmma_fence();
    wgmma_m64k16<N, true>(d, a, matrix_descriptor(&sm.v[0][k * 128], 1024, 64 * 128), true);
    wgmma_commit();
    wgmma_wait<0>();
    register_fence(d);
  }
#pragma unroll
  for (int i = 0; i < N / 2; ++i) p.d[(row + i % 4 / 2 * 8) * N + i / 4 * 8 + 2 * t + i % 2] = d[i];
}

struct BulkArgs {
  uint8_t* out;
  const uint8_t* in;
  int bytes;
};
struct BulkShared {
  alignas(128) uint8_t buffer[2][512];
  MBarrier full[2];
};
__global__ void bulk_kernel(const BulkArgs p) {
  auto& sm = block_shared<BulkShared>();
  const int thread = thread_index().x, pieces = p.bytes / 512;
  if (thread == 0) {
    mbarrier_init(sm.full[0], 1);
    mbarrier_init(sm.full[1], 1);
    mbarrier_fence_init();
  }
  sync_block();
  const auto start = [&](int piece) {
    if (thread != 0 || piece >= pieces) return;
    mbarrier_arrive_expect(sm.full[piece % 2], 512);
    bulk_load(sm.buffer[piece % 2], p.in + piece * 512, 512, sm.full[piece % 2]);
  };
  start(0);
  for (int piece = 0; piece < pieces; ++piece) {
    start(piece + 1);
    mbarrier_wait(sm.full[piece % 2], piece / 2 & 1);
    store_vec(p.out + piece * 512 + thread * 16, load_vec<16>(&sm.buffer[piece % 2][thread * 16]));
    fence_async_proxy();
    sync_block();
  }
}

}  // namespace

void run_gemm_sm90(float* c, const bf16* a, const bf16* b, int rows, int columns, int depth, int n) {
  n == 64 ? gemm_sm90<64>(c, a, b, rows, columns, depth) : gemm_sm90<128>(c, a, b, rows, columns, depth);
}
void run_wgmma_from_registers(float* d, const float* d0, const bf16* p, const bf16* v, int depth, int n) {
  const RegistersArgs args{d, d0, p, v, depth};
  if (n == 64) {
    launch(registers_kernel<64>, {1}, {kWarpgroupSize}, sizeof(RegistersShared<64>), nullptr, args);
  } else {
    launch(registers_kernel<128>, {1}, {kWarpgroupSize}, sizeof(RegistersShared<128>), nullptr, args);
  }
}
void run_bulk_load(uint8_t* out, const uint8_t* in, int bytes) {
  launch(bulk_kernel, {1}, {32}, sizeof(BulkShared), nullptr, BulkArgs{out, in, bytes});
}

}  // namespace electra::test
