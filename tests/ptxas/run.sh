#!/usr/bin/env bash
# scripts/ptxas_table.sh: the kernels are as its table says; it fails for a kernel that spills, for one with a stack frame, for one
# that differs from the table, for one that is missing, for one that does not compile and for one compiled with a warning.
# usage: run.sh ROOT
set -euo pipefail
cd "$1"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

scripts/ptxas_table.sh --check

expect_failure() { # NAME WHAT ROOT
  if (cd "$3" && scripts/ptxas_table.sh --check) >"$work/log" 2>&1; then
    echo "FAILED: $1 was accepted"
    exit 1
  fi
  grep -qF "$2" "$work/log" || { cat "$work/log"; echo "FAILED: $1 is not reported as: $2"; exit 1; }
}
# A tree with one kernel only.
small_tree() {
  mkdir -p "$1/scripts" "$1/kernels/cuda"
  cp scripts/ptxas_table.sh "$1/scripts/"
  cp kernels/device.cuh "$1/kernels/"
  cp -r kernels/core "$1/kernels/"
}

small_tree "$work/stack"
cat >"$work/stack/kernels/cuda/k.cu" <<'KERNEL'
#include "kernels/device.cuh"
namespace electra {
struct Args { float* y; int n; };
__global__ void indexes_registers(const Args p) {
  float r[64];
  for (int i = 0; i < 64; ++i) r[i] = p.y[i];
  for (int i = 0; i < p.n; ++i) r[i * 7 % 64] += r[(i * 5 + 1) % 64];
  for (int i = 0; i < p.n; ++i) p.y[i] = r[i % 64];
}
}
KERNEL
expect_failure "a kernel with a stack frame" "bytes of stack" "$work/stack"

small_tree "$work/spill"
cat >"$work/spill/kernels/cuda/k.cu" <<'KERNEL'
#include "kernels/device.cuh"
namespace electra {
struct Args { float* y; };
__global__ void __launch_bounds__(1024, 2) needs_registers(const Args p) {
  float r[96];
#pragma unroll
  for (int i = 0; i < 96; ++i) r[i] = p.y[i * 1024 + thread_index().x];
  sync_block();
#pragma unroll
  for (int i = 0; i < 96; ++i) p.y[(95 - i) * 1024 + thread_index().x] = r[i];
}
}
KERNEL
expect_failure "a kernel that spills" "bytes spilled" "$work/spill"

small_tree "$work/table"
cat >"$work/table/kernels/cuda/k.cu" <<'KERNEL'
#include "kernels/device.cuh"
namespace electra {
struct Args { float* y; };
__global__ void sets(const Args p) { p.y[thread_index().x] = 1; }
}
KERNEL
(cd "$work/table" && scripts/ptxas_table.sh --write && scripts/ptxas_table.sh --check) >/dev/null
sed -i -E 's/ [0-9]+ 0 0 0$/ 99 0 0 0/' "$work"/table/kernels/cuda/ptxas-*.txt
expect_failure "a kernel with other figures than the table's" "differs" "$work/table"
cp "$work/table/kernels/cuda/k.cu" "$work/table/kernels/cuda/another.cu"
sed -i 's/sets/sets_too/' "$work/table/kernels/cuda/another.cu"
(cd "$work/table" && scripts/ptxas_table.sh --write) >/dev/null
rm "$work/table/kernels/cuda/another.cu"
expect_failure "a kernel that the table has and the tree has not" "sets_too" "$work/table"
(cd "$work/table" && scripts/ptxas_table.sh --check kernels/cuda/k.cu) >/dev/null

small_tree "$work/broken"
echo 'syntax error' >"$work/broken/kernels/cuda/k.cu"
expect_failure "a kernel that does not compile" "error" "$work/broken"

small_tree "$work/warning"
cat >"$work/warning/kernels/cuda/k.cu" <<'KERNEL'
#include "kernels/device.cuh"
namespace electra {
struct Args { float* y; };
__global__ void sets(const Args p) { int unused = 3; p.y[thread_index().x] = 1; }
}
KERNEL
expect_failure "a kernel with a warning" "unused" "$work/warning"
echo "stack frames, spills, changed figures, missing kernels, errors and warnings are reported"
