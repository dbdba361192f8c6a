#!/usr/bin/env bash
# Compiles GPU kernels with nvcc for every target and prints what ptxas makes of them: one line for each kernel and target.
#   scripts/ptxas_table.sh [--check | --write] [FILE.cu…]      (no FILE: kernels/cuda/*.cu and tests/simt/*.cu)
# --write keeps the table as kernels/cuda/ptxas-<nvcc version>.txt; --check compares with it, or with its lines of the FILEs. Any
# spill, stack frame or warning fails, and with --check any difference in registers, shared memory or kernels; a version of nvcc that
# has no table is only checked for the former. Exit status: 0 fine, 1 a kernel is not, 2 wrong usage or no nvcc.
# *_sm90.cu is compiled for sm_90a; all others for sm_80, sm_90a and PTX of compute_90, with the flags of a release.
set -euo pipefail
cd "$(dirname "$0")/.."

mode=print
case "${1:-}" in
  --check | --write) mode=${1#--}; shift ;;
  -*) sed -n '3,7p' "$0" >&2; exit 2 ;;
esac
nvcc=${NVCC:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
if [ ! -x "$nvcc" ]; then
  echo "ptxas_table: expected nvcc in PATH, /usr/local/cuda/bin or \$NVCC, found none" >&2
  exit 2
fi
version=$("$nvcc" --version | sed -nE 's/.*release ([0-9.]+).*/\1/p')
golden=kernels/cuda/ptxas-$version.txt

all=0
if [ $# -gt 0 ]; then
  if [ "$mode" = write ]; then echo "ptxas_table: expected no FILE with --write, which keeps all of them" >&2; exit 2; fi
  files=("$@")
else
  all=1
  shopt -s nullglob
  files=(kernels/cuda/*.cu tests/simt/*.cu)
fi
launcher=()
if command -v ccache >/dev/null; then launcher=(ccache); fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

compile() { # FILE: ptxas's report in $work
  local file=$1 log
  log=$work/$(tr / _ <<<"$1").log
  local targets=(-gencode arch=compute_90a,code=sm_90a)
  case "$file" in
    *_sm90.cu) ;;
    *) targets+=(-gencode arch=compute_80,code=sm_80 -gencode arch=compute_90,code=compute_90) ;;
  esac
  if ! "${launcher[@]}" "$nvcc" -std=c++20 -O3 -DNDEBUG -DELECTRA_GPU=CUDA -I. "${targets[@]}" -Xptxas -v -c "$file" -o "$work/object.$BASHPID.o" \
    >"$log" 2>&1 || grep -qE 'warning|Potential Performance Loss' "$log"; then  # the latter: wgmma serialized, or setmaxnreg ignored
    cat "$log" >&2
    return 1
  fi
}

# One line for each kernel: FILE TARGET KERNEL registers shared stack spilled (bytes).
table() {
  local file
  for file in "${files[@]}"; do
    awk -v file="$file" '
        # nvcc puts hashes and, for several targets, a number of its process into the name of an anonymous namespace, which its length precedes.
        function plain(name,   start, length_, digits) {
          if (!match(name, /[0-9]+_GLOBAL__N__/)) return name
          start = RSTART; digits = RLENGTH - length("_GLOBAL__N__"); length_ = substr(name, start, digits) + 0
          return substr(name, 1, start - 1) "_GLOBAL__N_" substr(name, start + digits + length_)
        }
        /Compiling entry function/ {
          match($0, /function \047[^\047]*\047/); kernel = plain(substr($0, RSTART + 10, RLENGTH - 11))
          match($0, /for \047[^\047]*\047/); target = substr($0, RSTART + 5, RLENGTH - 6)
        }
        /bytes stack frame/ { stack = $1; spilled = $5 + $9 }
        /Used [0-9]+ registers/ {
          match($0, /Used [0-9]+/); registers = substr($0, RSTART + 5, RLENGTH - 5)
          shared = 0
          if (match($0, /[0-9]+ bytes smem/)) shared = substr($0, RSTART, RLENGTH - 11)
          print file, target, kernel, registers, shared, stack, spilled
        }' "$work/$(tr / _ <<<"$file").log"
  done | LC_ALL=C sort
}

# The lines of the golden table: of the FILEs asked for, or all.
kept() {
  if [ "$all" = 1 ]; then tail -n +2 "$golden"; else awk 'NR == FNR { asked[$0]; next } $1 in asked' <(printf '%s\n' "${files[@]}") "$golden"; fi
}

jobs=0 failed=0
for file in "${files[@]}"; do
  compile "$file" &
  if (((jobs += 1) % 2 == 0)); then wait -n || failed=1; fi
done
while [ "$(jobs -rp)" ]; do wait -n || failed=1; done
for job in $(jobs -p); do wait "$job" || failed=1; done
[ $failed = 0 ] || exit 1

table >"$work/table"
if [ ! -s "$work/table" ]; then
  echo "ptxas_table: no kernel in ${files[*]}" >&2
  exit 1
fi
if ! awk '$6 > 0 || $7 > 0 { printf "ptxas_table: %s for %s: %d bytes of stack, %d bytes spilled in %s\n", $1, $2, $6, $7, $3 > "/dev/stderr"; bad = 1 }
          END { exit bad }' "$work/table"; then
  exit 1
fi
header="# file target kernel registers shared(static bytes) stack spilled; written by scripts/ptxas_table.sh --write with nvcc $version"
case $mode in
  print) cat "$work/table" ;;
  write)
    { echo "$header"; cat "$work/table"; } >"$golden"
    echo "$(wc -l <"$work/table") kernels written to $golden"
    ;;
  check)
    if [ ! -f "$golden" ]; then
      echo "$(wc -l <"$work/table") kernels without spills; no table of nvcc $version to compare with"
    elif ! diff <(kept) "$work/table" >"$work/diff"; then
      cat "$work/diff" >&2
      echo "ptxas_table: $golden differs (< as kept, > as compiled); scripts/ptxas_table.sh --write keeps the new figures" >&2
      exit 1
    else
      echo "$(wc -l <"$work/table") kernels as in $golden, without spills"
    fi
    ;;
esac
