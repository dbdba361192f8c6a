#!/usr/bin/env bash
# Everything that a GPU has to show, in one go: that the primitives do what the host's emulation does, the tests of every op, NVIDIA's
# checkers, benchmarks against the ceilings of the same run, and a training of ELECTRA-Small.
#   run_gpu.sh [--build DIR] [--out DIR] [--text FILE]… [--steps N] [--stages NAME,…] [--scale F]
#     --build DIR      a build (default: what lies beside this script in a package, else build/cuda, which is made when it is not there)
#     --out DIR        results (default: bench/results/<date>-<device>, in a package results/<date>-<device>)
#     --text FILE      trains on this text (repeatable), with a vocabulary made from it; default: made-up batches
#     --steps N        training steps (200)
#     --stages NAME,…  of conformance, tests, sweeps, sanitizer, bench, step, train (all)
#     --scale F        multiplies every stage's time limit (1)
# A stage that fails or runs out of time does not end the run. The last lines are a table; it, the logs, JSON of the benchmarks and the
# run's metrics are in the results folder. Needs a driver, libcublasLt (without it: products by our own kernels only) and, for the
# comparison, cuDNN. Exit status: 0 all passed, 1 something failed or there is no GPU, 2 wrong usage.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
usage() { sed -n '2,14s/^# \{0,1\}//p' "$0" >&2; exit 2; }

build='' out='' steps=200 scale=1 stages=conformance,tests,sweeps,sanitizer,bench,step,train texts=()
while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || usage
  case $1 in
    --build) build=$2 ;;
    --out) out=$2 ;;
    --text) texts+=("$2") ;;
    --steps) steps=$2 ;;
    --stages) stages=$2 ;;
    --scale) scale=$2 ;;
    *) usage ;;
  esac
  shift 2
done
[[ $steps =~ ^[1-9][0-9]*$ ]] || usage
[[ $scale =~ ^[0-9]*\.?[0-9]+$ ]] || usage
for stage in ${stages//,/ }; do
  case $stage in conformance | tests | sweeps | sanitizer | bench | step | train) ;; *) usage ;; esac
done
for text in "${texts[@]}"; do
  [ -r "$text" ] || { echo "run_gpu: expected a text file, got $text" >&2; exit 2; }
done

# Where the programs are: bin/ of a package, or a build's folders.
if [ -z "$build" ] && [ -x "$here/bin/electra" ]; then
  electra=$here/bin/electra tests=$here/bin benches=$here/bin results=$here/results list=$here/share/electra/device_tests
  export ELECTRA_SOURCE_DIR=$here/share/electra
else
  root=$(cd "$here/.." && pwd)
  if [ -z "$build" ]; then
    build=$root/build/cuda
    if [ ! -x "$build/electra" ]; then
      echo "run_gpu: building into $build" >&2
      (cd "$root" && cmake --preset cuda && cmake --build --preset cuda) >&2 || { echo "run_gpu: the build failed" >&2; exit 1; }
    fi
  fi
  build=$(cd "$build" && pwd) || exit 2
  electra=$build/electra tests=$build/tests benches=$build/bench results=$root/bench/results list=$build/device_tests
fi
"$electra" --version >/dev/null || {
  echo "run_gpu: $electra does not start here; it needs $(cat "$here/share/electra/glibc" 2>/dev/null || echo 'the libraries of its build'), this machine has $(ldd --version 2>&1 | head -n 1)" >&2
  exit 1
}
# Libraries that Python packages of NVIDIA's brought along.
if command -v python3 >/dev/null; then
  for folder in $(python3 -c 'import site, glob; print(*[d for s in site.getsitepackages() for d in glob.glob(s + "/nvidia/*/lib")])' 2>/dev/null); do
    LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder
  done
  [ -z "${LD_LIBRARY_PATH:-}" ] || export LD_LIBRARY_PATH
fi

# No GPU, no run.
if ! info=$("$electra" info --device cuda 2>&1); then
  echo "run_gpu: no GPU can be used here: ${info#electra: error: }" >&2
  exit 1
fi
device=$(sed -nE 's/^GPU +([^,]*),.*/\1/p' <<<"$info")
slug=$(tr -cs 'A-Za-z0-9' - <<<"$device" | sed -E 's/^-|-$//g' | tr '[:upper:]' '[:lower:]')
out=${out:-$results/$(date -u +%Y-%m-%d)-$slug}
mkdir -p "$out" || exit 1
out=$(cd "$out" && pwd)
{ echo "$info"; echo; "$electra" --version; echo; nvidia-smi 2>&1; nvidia-smi -q -d CLOCK,POWER 2>&1; } >"$out/machine.txt"

rows=() failed=0
# NAME LIMIT COMMAND…: one stage, its output in NAME.log.
run() {
  local name=$1 limit status=0 verdict begin=$SECONDS
  limit=$(awk "BEGIN { print int($2 * $scale) + 1 }")
  shift 2
  echo "== $name" >&2
  timeout -k 10 "$limit" "$@" >"$out/$name.log" 2>&1 || status=$?
  case $status in
    0) verdict=passed ;;
    124 | 137) verdict="over ${limit} s" failed=1 ;;
    *) verdict="FAILED ($status)" failed=1 ;;
  esac
  rows+=("$(printf '%-34s %-14s %5d s  ' "$name" "$verdict" $((SECONDS - begin)))")
  return $status
}
remark() { rows[-1]+=$1; }
skip() { rows+=("$(printf '%-34s %-14s          %s' "$1" skipped "$2")"); }
wanted() { [[ ,$stages, == *,$1,* ]]; }

if wanted conformance; then
  for test in "$tests"/test_simt_primitives "$tests"/test_simt_primitives_sm90; do
    [ -x "$test" ] || { rows+=("$(printf '%-34s FAILED (no such test)' "$(basename "$test")")"); failed=1; continue; }
    run "$(basename "$test")" 120 "$test"
    remark "$(grep -E 'All tests passed|^test cases' "$out/$(basename "$test").log" | tail -n 1)"
  done
fi

if wanted tests; then
  while read -r test; do
    case $test in test_simt_primitives*) continue ;; esac
    if [ ! -x "$tests/$test" ]; then rows+=("$(printf '%-34s FAILED (not built)' "$test")"); failed=1; continue; fi
    run "$test" 600 "$tests/$test" </dev/null
    remark "$(grep -E 'All tests passed|^test cases' "$out/$test.log" | tail -n 1)"
  done <"$list"
fi

if wanted sweeps; then
  while read -r test; do
    [ -x "$tests/$test" ] && [ -n "$("$tests/$test" --list-test-names-only '[sweep]' </dev/null)" ] || continue
    run "$test-sweep" 300 "$tests/$test" '[sweep]' </dev/null
    remark "$(grep -E 'All tests passed|^test cases' "$out/$test-sweep.log" | tail -n 1)"
  done <"$list"
fi

if wanted sanitizer; then
  sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
  if [ -x "$sanitizer" ]; then
    for tool in memcheck racecheck initcheck synccheck; do
      for test in test_simt_primitives test_activation test_masking; do
        run "$tool-$test" 240 "$sanitizer" --tool $tool --error-exitcode 9 "$tests/$test" && remark "$(grep 'SUMMARY' "$out/$tool-$test.log" | tail -n 1)"
      done
    done
  else
    skip sanitizer "compute-sanitizer is not installed"
  fi
fi

if wanted bench; then
  for bench in bench_launch bench_layer_norm bench_optimizer bench_gemm bench_attention bench_masked_lm bench_binary_classifier bench_masking; do
    if [ ! -x "$benches/$bench" ]; then skip "$bench" "not built (Google Benchmark was not found)"; continue; fi
    if run "$bench" 300 "$benches/$bench" --device cuda --benchmark_out="$out/$bench.json" --benchmark_out_format=json; then
      remark "$(grep -oE 'of_ceiling=[0-9.a-z]+' "$out/$bench.log" | sed 's/of_ceiling=//' | awk '
        /m$/ { $1 = $1 / 1000 } /u$/ { $1 = $1 / 1e6 } { n++; if ($1 > most) most = $1 } END { if (n) printf "%d figures, the best at %.0f %% of its ceiling", n, 100 * most }')"
      skipped=$(grep -c 'ERROR OCCURRED' "$out/$bench.log")
      [ "$skipped" = 0 ] || remark "; $skipped could not run: $(grep -m 1 'ERROR OCCURRED' "$out/$bench.log" | sed "s/.*ERROR OCCURRED: //")"
    fi
  done
  if python3 -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null && [ -f "$here/attention_pytorch.py" ]; then
    run attention_pytorch 300 python3 "$here/attention_pytorch.py" --json "$out/attention_pytorch.json"
  else
    skip attention_pytorch "no PyTorch with CUDA here"
  fi
fi

# TFLOP/s of dense 16-bit products on the data sheet: what MFU is measured in; 0 where it is not known.
peak_of() {
  case $1 in
    *H100* | *H200*) echo 989 ;;
    *A100*) echo 312 ;;
    *) echo 0 ;;
  esac
}
# TOKENS_PER_SECOND FLOPS_PER_TOKEN: "812000 tokens/s, 24.1 % MFU"
throughput() {
  awk -v t="$1" -v f="$2" -v peak="$(peak_of "$device")" 'BEGIN {
    printf "%.0f tokens/s, %.1f TFLOP/s", t, t * f / 1e12
    if (peak > 0) printf ", %.1f %% MFU", 100 * t * f / (peak * 1e12)
  }'
}
field() { sed -nE "s/.*\"$2\":([0-9.eE+-]+).*/\1/p" <<<"$1"; }

flops_per_token=0
if wanted step || wanted train; then
  if run step-small 180 "$benches/bench_step" --config small --device cuda --rounds 50 --phases --json; then
    line=$(tail -n 1 "$out/step-small.log")
    echo "$line" >"$out/step-small.json"
    flops_per_token=$(awk "BEGIN { print $(field "$line" flops_per_step) / ($(field "$line" sequences) * $(field "$line" seq_len)) }")
    remark "$(field "$line" step_ms | xargs printf '%.2f ms') a step, $(throughput "$(field "$line" tokens_per_second)" "$flops_per_token")"
  fi
fi
if wanted step; then
  run step-base 240 "$benches/bench_step" --config base --sequences 32 --device cuda --rounds 20 --phases --json && tail -n 1 "$out/step-base.log" >"$out/step-base.json"
fi

if wanted train; then
  source=(--synthetic)
  if [ ${#texts[@]} -gt 0 ]; then
    source=(data="$out/data")
    rm -rf "$out/data"
    run vocabulary 300 "$electra" vocab train "${texts[@]}" --size 8192 --out "$out/vocab.txt" &&
      run data 300 "$electra" data build "${texts[@]}" --vocab "$out/vocab.txt" --out "$out/data"
  fi
  rm -rf "$out/run"
  if run train-small 600 "$electra" pretrain small "${source[@]}" run="$out/run" train_steps="$steps" warmup_steps=$((steps / 10)) log_steps=$(((steps + 3) / 4)) \
    eval_steps="$steps" checkpoint_steps="$steps" --device cuda; then
    last=$(grep '"kind":"train"' "$out/run/metrics.jsonl" | tail -n 1)
    cp "$out/run/metrics.jsonl" "$out/train-small.jsonl"
    remark "$steps steps, loss $(field "$last" loss), $(throughput "$(field "$last" tokens_per_second)" "$flops_per_token")"
  fi
  rm -rf "$out/run/checkpoints"
fi

{
  echo "$device, $("$electra" --version), $(date -u +%Y-%m-%dT%H:%MZ)"
  printf '%s\n' "${rows[@]}"
} | tee "$out/table.txt"
echo "results: $out"
exit $failed
