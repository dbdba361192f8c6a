#!/usr/bin/env bash
# Builds the presets and runs every test. usage: ./test.sh [--slow]
#   (nothing)  within 20 minutes on 2 cores, a twentieth of the mutations
#   --slow     also ThreadSanitizer, clang, all mutations, fuzzers, full sweeps and ten SIGKILLs
# The last line says "N passed, N failed": CTest entries of all presets plus one for each other step.
set -uo pipefail
cd "$(dirname "$0")" || exit 1
slow=0
case "${1:-}" in
  '') ;;
  --slow) slow=1 ;;
  *) sed -n '2,4p' "$0" >&2; exit 2 ;;
esac

passed=0 failed=0 problems=()
started=$SECONDS
logs=build/test-logs
mkdir -p $logs

verdict() { # NAME STATUS
  if [ "$2" -eq 0 ]; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    problems+=("$1")
  fi
}
say() { printf '\n=== %s  (%d s)\n' "$1" $((SECONDS - started)); }
finish() {
  local problem
  printf '\n%d s in all\n' $((SECONDS - started))
  for problem in "${problems[@]}"; do echo "FAILED $problem"; done
  echo "$passed passed, $failed failed"
  exit $((failed > 0))
}
trap 'echo "interrupted"; problems+=("interrupted"); failed=$((failed + 1)); finish' INT TERM

# NAME COMMAND…: one step, whose output is shown only when it fails.
step() {
  local name=$1 status=0
  shift
  say "$name"
  "$@" >"$logs/$name.log" 2>&1 || status=$?
  tail -n $((status == 0 ? 1 : 60)) "$logs/$name.log"
  verdict "$name (all of its output: $logs/$name.log)" $status
  return $status
}

configure_and_build() { cmake --preset "$1" && cmake --build --preset "$1"; }

# TEST_PRESET CONFIGURE_PRESET: runs CTest and counts its entries. With shared data beside the checkout a skip is a failure.
run_tests() {
  local junit=$PWD/$logs/$1.xml
  say "tests of $1"
  rm -f "$junit"
  ctest --preset "$1" --output-junit "$junit" | grep -vE '^ *(Start +[0-9]+:|[0-9]+/[0-9]+ Test .* Passed )'
  if [ ! -s "$junit" ]; then
    verdict "tests of $1: CTest wrote no report" 1
    return
  fi
  count() { sed -nE "s/.*[[:space:]]$1=\"([0-9]+)\".*/\1/p" "$junit" | head -n 1; }
  local total failures skipped
  total=$(count tests) failures=$(count failures) skipped=$(count skipped)
  if [ -d ../shared/data ] && [ "$skipped" -gt 0 ]; then
    problems+=("tests of $1: $skipped skipped although there is shared data")
    failures=$((failures + skipped))
    skipped=0
  fi
  passed=$((passed + total - failures - skipped))
  failed=$((failed + failures))
  [ "$failures" -eq 0 ] || problems+=("tests of $1: $failures of $total")
}

if ! step dependencies scripts/install_dependencies.sh test; then finish; fi

if step build-release configure_and_build release; then
  run_tests release
  [ $slow = 0 ] || run_tests release-slow
  if [ -f ../shared/tools/contract.py ]; then
    step contract python3 ../shared/tools/contract.py build/release/electra
  fi
  if [ $slow = 1 ]; then
    step mutations tests/mutations/run.sh
    step forty-sigkills tests/kill_data_build.sh build/release/electra 40
    step ten-sigkills tests/kill_resume.sh build/release/electra configs/electra-tiny.yaml 10
  else
    step mutations tests/mutations/run.sh --part "$(git rev-parse HEAD 2>/dev/null || echo 0)"
  fi
fi
if step build-asan configure_and_build asan; then
  run_tests asan
  [ $slow = 0 ] || run_tests asan-slow
fi
for preset in simt simt-check; do
  if step build-$preset configure_and_build $preset; then
    run_tests $preset
    [ $slow = 0 ] || run_tests $preset-sweep
  fi
done
if [ $slow = 1 ]; then
  if step build-tsan configure_and_build tsan; then run_tests tsan; fi
  step build-clang configure_and_build clang
fi
step quickstart-smoke ./quickstart.sh --smoke
finish
