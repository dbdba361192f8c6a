#!/usr/bin/env bash
# bench/run_gpu.sh with programs that only pretend: every stage runs, one that fails or hangs does not end the run but its exit status is
# 1, tokens/s and MFU are computed from what the programs report, and without a GPU it says so. usage: run.sh ROOT
set -euo pipefail
root=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
build=$work/build
mkdir -p "$build/tests" "$build/bench"
fail() { echo "FAILED: $1"; cat "$work/log" "$work/out/table.txt" 2>/dev/null; exit 1; }
program() { # FILE, its text on standard input
  { echo '#!/bin/sh'; cat; } >"$build/$1"
  chmod +x "$build/$1"
}

program electra <<'TEXT'
case "$*" in
  --version) echo "electra 1.2.3 (abc)" ;;
  "info --device cuda")
    [ -z "${NO_GPU:-}" ] || { echo "electra: error: [device] expected a CUDA driver, none is installed" >&2; exit 1; }
    echo "device       cuda"
    echo "GPU          NVIDIA H100 80GB HBM3, compute capability 9.0, 132 multiprocessors, 79.6 GiB, driver for CUDA 13.0" ;;
  "pretrain small --synthetic run="*" train_steps=8 "*"--device cuda"*)
    run=$(printf '%s\n' "$@" | sed -n 's/^run=//p')
    mkdir -p "$run"
    printf '{"kind":"header"}\n{"kind":"train","step":4,"loss":30.5,"tokens_per_second":1.0}\n' >"$run/metrics.jsonl"
    printf '{"kind":"train","step":8,"loss":20.25,"tokens_per_second":2000000.0,"mfu":0.3}\n' >>"$run/metrics.jsonl" ;;
  *) echo "unexpected: $*" >&2; exit 9 ;;
esac
TEXT
for test in test_simt_primitives test_simt_primitives_sm90 test_core test_gemm; do
  program tests/$test <<'TEXT'
case "$*" in
  "--list-test-names-only [sweep]") [ "$(basename "$0")" != test_gemm ] || echo "a sweep" ;;
  "[sweep]") echo "All tests passed (70 assertions in 1 test case)" ;;
  *) echo "All tests passed (7 assertions in 2 test cases)" ;;
esac
TEXT
done
printf 'test_simt_primitives\ntest_simt_primitives_sm90\ntest_core\ntest_gemm\n' >"$build/device_tests"
for bench in launch layer_norm optimizer gemm attention masked_lm binary_classifier masking; do
  echo 'echo "x 1 us of_ceiling=0.25 y"; echo "x 1 us of_ceiling=875m y"' | program bench/bench_$bench
done
program bench/bench_step <<'TEXT'
echo '{"config":"x","sequences":128,"seq_len":128,"step_ms":8.192,"tokens_per_second":2000000.0,"flops_per_step":1152.8e9}'
TEXT

readonly all=conformance,tests,sweeps,bench,step,train
run_gpu() { # STATUS ARGUMENTS…
  local expected=$1 status=0
  shift
  rm -rf "$work/out"
  "$root/bench/run_gpu.sh" --build "$build" --out "$work/out" --steps 8 "$@" >"$work/log" 2>&1 || status=$?
  [ $status = "$expected" ] || fail "expected status $expected, got $status"
}
has() { grep -qE -- "$1" "$work/out/table.txt" || fail "the table has no line '$1'"; }

run_gpu 0 --stages $all
has '^NVIDIA H100 80GB HBM3, electra 1.2.3 \(abc\), 20..-..-..T'
has '^test_simt_primitives +passed .*All tests passed \(7 assertions'
has '^test_gemm +passed '
has '^test_gemm-sweep +passed .*70 assertions'
[ "$(grep -c -e -sweep "$work/out/table.txt")" = 1 ] || fail "a test without a sweep was swept"
has '^bench_gemm +passed .*2 figures, the best at 88 % of its ceiling'
# 1152.8 GFLOP / 16384 tokens at 2 M tokens/s is 140.7 TFLOP/s, of 989.
has '^step-small +passed .*8.19 ms a step, 2000000 tokens/s, 140.7 TFLOP/s, 14.2 % MFU'
has '^train-small +passed .*8 steps, loss 20.25, 2000000 tokens/s, 140.7 TFLOP/s, 14.2 % MFU'
[ "$(grep -c '^test_simt' "$work/out/table.txt")" = 2 ] || fail "the primitives ran more than once"
for file in machine.txt test_core.log step-small.json train-small.jsonl; do [ -s "$work/out/$file" ] || fail "there is no $file"; done
if grep -q FAILED "$work/out/table.txt"; then fail "something failed"; fi

# One fails, one hangs, one is missing: the stages after them run, and each of these is enough for status 1.
echo 'echo "test cases: 2 | 1 passed | 1 failed"; exit 3' | program tests/test_simt_primitives_sm90
run_gpu 1 --stages $all
has '^test_simt_primitives_sm90 +FAILED \(3\) .*1 passed \| 1 failed'
has '^train-small +passed '
echo 'sleep 60' | program tests/test_core
run_gpu 1 --stages tests,train --scale 0.01
has '^test_core +over 7 s '
has '^train-small +passed '
rm "$build/tests/test_gemm"
echo 'exit 0' | program tests/test_core
run_gpu 1 --stages tests,train
has '^test_gemm +FAILED \(not built\)'
has '^train-small +passed '

NO_GPU=1 run_gpu 1 --stages $all
grep -q '^run_gpu: no GPU can be used here: \[device\] expected a CUDA driver, none is installed$' "$work/log" || fail "no word about the missing GPU"
status=0
"$root/bench/run_gpu.sh" --stages everything >"$work/log" 2>&1 || status=$?
[ $status = 2 ] || fail "expected status 2 for an unknown stage, got $status"
echo "run_gpu.sh: stages, limits, failures, figures"
