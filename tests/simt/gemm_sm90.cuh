// A small matrix product with what Hopper adds, for the conformance test; and its mistakes, for the test of planted bugs.
#pragma once
#include "kernels/device_sm90.cuh"

namespace electra::test {

enum class GemmBug { none, no_full_wait, no_empty_wait, too_few_bytes, too_many_bytes, no_wgmma_wait, no_fence, wrong_phase };

constexpr int kGemmStages = 3, kGemmRows = 64, kGemmDepth = 64, kGemmThreads = kWarpgroupSize + kWarpSize;

struct GemmArgs {
  float* c;
  int rows, depth, ldc;  // ldc: the columns of c
};
template <int N>
struct GemmShared {
  alignas(1024) bf16 a[kGemmStages][kGemmRows][kGemmDepth];
  alignas(1024) bf16 b[kGemmStages][N][kGemmDepth];
  MBarrier full[kGemmStages], empty[kGemmStages];
};

// c (rows x ldc, fp32) = a (rows x depth) b^T (ldc x depth); a block has 64 x N of c. Warps 0 to 3 multiply, warp 4 copies tiles
// into a ring of three buffers.
template <int N, GemmBug kBug = GemmBug::none>
__global__ void __launch_bounds__(kGemmThreads)
    gemm_sm90_kernel(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, const GemmArgs p) {
  auto& sm = block_shared<GemmShared<N>>();
  const int thread = thread_index().x, row0 = block_index().y * kGemmRows, column0 = block_index().x * N;
  const int steps = p.depth / kGemmDepth;
  if (thread == 0) {
    for (int i = 0; i < kGemmStages; ++i) {
      mbarrier_init(sm.full[i], 1);
      mbarrier_init(sm.empty[i], kWarpgroupSize);
    }
    mbarrier_fence_init();
  }
  sync_block();
  if (warp_index() == 4) {
    if (lane_index() != 0) return;
    for (int k = 0; k < steps; ++k) {
      const int stage = k % kGemmStages, parity = k / kGemmStages & 1;
      if (kBug != GemmBug::no_empty_wait) mbarrier_wait(sm.empty[stage], parity ^ 1);
      constexpr int kBytes = (kGemmRows + N) * kGemmDepth * static_cast<int>(sizeof(bf16));
      mbarrier_arrive_expect(sm.full[stage], kBug == GemmBug::too_few_bytes    ? kBytes / 2
                                             : kBug == GemmBug::too_many_bytes ? kBytes + 16
                                                                               : kBytes);
      tma_load(sm.a[stage], a, k * kGemmDepth, row0, sm.full[stage]);
      tma_load(sm.b[stage], b, k * kGemmDepth, column0, sm.full[stage]);
    }
  } else {
    float d[N / 2];
#pragma unroll
    for (float& x : d) x = 0;
    for (int k = 0; k < steps; ++k) {
      const int stage = k % kGemmStages, parity = k / kGemmStages & 1;
      if (kBug != GemmBug::no_full_wait) mbarrier_wait(sm.full[stage], kBug == GemmBug::wrong_phase ? parity ^ 1 : parity);
      register_fence(d);
      if (kBug != GemmBug::no_fence) wgmma_fence();
#pragma unroll
      for (int kk = 0; kk < kGemmDepth; kk += 16) {
        wgmma_m64k16<N>(d, matrix_descriptor(&sm.a[stage][0][kk]), matrix_descriptor(&sm.b[stage][0][kk]), true);
      }
      wgmma_commit();
      if (kBug != GemmBug::no_wgmma_wait) wgmma_wait<0>();
      register_fence(d);
      mbarrier_arrive(sm.empty[stage]);
    }
    wgmma_wait<0>();
    const int row = row0 + warp_index() * 16 + lane_index() / 4;
#pragma unroll
    for (int j = 0; j < N / 8; ++j) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int column = column0 + j * 8 + lane_index() % 4 * 2;
        if (row + 8 * i < p.rows && column < p.ldc) {
          store_vec(p.c + static_cast<size_t>(row + 8 * i) * p.ldc + column, Vec<float, 2>{{d[4 * j + 2 * i], d[4 * j + 2 * i + 1]}});
        }
      }
    }
  }
}

// a and b on the device; ldc and depth multiples of 64 (of N: of 128).
template <int N, GemmBug kBug = GemmBug::none>
void gemm_sm90(float* c, const bf16* a, const bf16* b, int rows, int columns, int depth) {
  launch(gemm_sm90_kernel<N, kBug>, {ceil_div(columns, N), ceil_div(rows, kGemmRows)}, {kGemmThreads}, sizeof(GemmShared<N>), nullptr,
         make_tensor_map(a, rows, depth, depth, kGemmRows), make_tensor_map(b, columns, depth, depth, N),
         GemmArgs{c, rows, depth, columns});
}

}  // namespace electra::test
