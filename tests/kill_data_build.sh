#!/usr/bin/env bash
# `electra data build` killed with SIGKILL at random moments, and with SIGINT, and started again each time must end with the same
# files as an undisturbed one. usage: kill_data_build.sh ELECTRA KILLS [SEED]
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,3p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
electra=$(realpath "$1") kills=$2
RANDOM=${3:-1}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

"$here/generate_text.sh" >once.txt
"$electra" vocab train once.txt --size 200 --out vocab.txt
for i in $(seq 1 60); do sed "/./s/$/ $i/" once.txt; done >text.txt
build() { exec "$electra" data build text.txt --vocab vocab.txt --normalize nfc --deduplicate --out "$1"; }
started=$(date +%s%N)
(build undisturbed) >/dev/null 2>&1
whole_ms=$((($(date +%s%N) - started) / 1000000))

gone_on() { grep -q 'going on with an interrupted build' log; }
struck=0 attempts=0
while [ $struck -lt "$kills" ] || ! gone_on; do
  attempts=$((attempts + 1))
  if [ $attempts -gt $((20 * kills)) ]; then
    echo "FAILED: only $struck of $kills kills struck a running process, or none left anything to go on with" >&2
    exit 1
  fi
  [ $((attempts % 2)) -eq 0 ] && signal=INT || signal=KILL
  # A shell without job control starts what is in the background with SIGINT ignored.
  env --default-signal=INT \
    "$electra" data build text.txt --vocab vocab.txt --normalize nfc --deduplicate --out disturbed >/dev/null 2>>log &
  child=$!
  milliseconds=$((RANDOM * whole_ms * 5 / 4 / 32768))
  sleep "$(printf '%d.%03d' $((milliseconds / 1000)) $((milliseconds % 1000)))"
  kill -$signal $child 2>/dev/null || true
  status=0
  wait $child 2>/dev/null || status=$?
  case $status in
    137 | 130)
      if [ -e disturbed ]; then  # what appears is complete
        diff -r undisturbed disturbed
        rm -rf disturbed
      fi
      struck=$((struck + 1)) ;;
    0) rm -rf disturbed ;;  # it had ended before
    *)
      tail -n 5 log >&2
      echo "FAILED: a build that was started again ended with exit status $status" >&2
      exit 1 ;;
  esac
done
(build disturbed) >/dev/null 2>>log || { tail -n 5 log >&2; echo "FAILED: the last build ended with an error" >&2; exit 1; }
diff -r undisturbed disturbed
if [ -e .tmp-disturbed ]; then
  echo "FAILED: something is left" >&2
  exit 1
fi
echo "after $struck kills the files are the same, byte for byte"
