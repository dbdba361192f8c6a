#!/bin/sh
# Compiles CUDA kernels for every target and fails on spills and stack frames. usage: nvcc_check.sh FILE.cu … ; from the root.
set -eu
nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
status=0
for file in "$@"; do
  case $file in
    *_sm90.cu) targets="-gencode arch=compute_90a,code=sm_90a" ;;
    *) targets="-gencode arch=compute_80,code=sm_80 -gencode arch=compute_90a,code=sm_90a -gencode arch=compute_90,code=compute_90" ;;
  esac
  # shellcheck disable=SC2086
  "$nvcc" -std=c++20 -O3 --expt-relaxed-constexpr --extended-lambda -Xptxas -v -I. -DELECTRA_GPU=CUDA $targets -c "$file" -o /dev/null 2>&1 |
    awk -v file="$file" '
      /error|warning/ { print; if (/error/) bad = 1 }
      /Compiling entry function/ { match($0, /'"'"'[^'"'"']*'"'"'/); name = substr($0, RSTART + 1, RLENGTH - 2); target = $NF }
      /bytes stack frame/ && !/ 0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads/ {
        printf "%s: %s for %s: expected no stack frame and no spills, got %s\n", file, name, target, $0; bad = 1 }
      /Used [0-9]+ registers/ { printf "%s %s %s\n", target, name, $0 }
      END { exit bad }' || status=1
done
exit $status
