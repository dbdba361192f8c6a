#!/bin/sh
# A program built with CUDA where there is neither a CUDA library nor a GPU: it needs no CUDA library, starts, says why --device cuda
# cannot be had, and falls back to the CPU, with a warning, under --device auto. usage: run.sh ELECTRA
# Where the machine has a driver, it is hidden: CUDA_VISIBLE_DEVICES is empty.
set -eu
electra=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() {
  echo "FAILED: $1"
  cat "$work/out" "$work/err" 2>/dev/null
  exit 1
}

needed=$(readelf -d "$electra" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
[ -n "$needed" ] || fail "no needed library was read from $electra"
for library in $needed; do
  case $library in
    libcu* | libnv* | libnccl*) fail "the program needs $library" ;;
  esac
done
# That the CUDA runtime is in the program: what follows is about a program that could use a GPU.
"$electra" info 2>/dev/null | grep -q 'GPU .*none: expected a CUDA driver\|GPU .*none: expected a GPU\|GPU .*compute capability' ||
  fail "$electra was not built with ELECTRA_GPU=CUDA"

# STATUS PATTERN_OUT PATTERN_ERR ARGUMENTS…
expect() {
  expected=$1 out=$2 err=$3 status=0
  shift 3
  env CUDA_VISIBLE_DEVICES= LD_LIBRARY_PATH= "$electra" "$@" >"$work/out" 2>"$work/err" || status=$?
  [ $status = "$expected" ] || fail "electra $*: expected status $expected, got $status"
  [ -z "$out" ] || grep -q "$out" "$work/out" || fail "electra $*: expected '$out' on standard output"
  [ -z "$err" ] || grep -q "$err" "$work/err" || fail "electra $*: expected '$err' on standard error"
}
reason='expected a CUDA driver, none is installed\|expected a GPU'
expect 0 'electra' '' --version
expect 0 'device *cpu' "warning: \[device\] the CPU is used: \($reason\)" info
expect 0 'device *cpu' "warning: \[device\] the CPU is used: \($reason\)" info --device auto
expect 1 '' "error: \[device\] \($reason\)" info --device cuda
expect 1 '' "error: \[device\] \($reason\)" plan tiny --device cuda
expect 1 '' 'error: \[device\] expected a program built with ELECTRA_GPU=SIMT' info --device simt
[ ! -s "$work/out" ] || fail "a failed command wrote to standard output"
expect 0 'device *cpu' '' info --device cpu
[ ! -s "$work/err" ] || fail "--device cpu warned"
echo "starts without a GPU; needs: $(echo "$needed" | tr '\n' ' ')"
