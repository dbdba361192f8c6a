#!/usr/bin/env bash
# A run killed with SIGKILL at random moments and resumed each time must end with the same weights, bit for bit, as an
# undisturbed one. usage: kill_resume.sh ELECTRA CONFIG KILLS [STEPS] [SEED]
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,3p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
electra=$(realpath "$1") config=$(realpath "$2") kills=$3 steps=${4:-200} seed=${5:-1}
RANDOM=$seed
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# Generated text will do: what is compared is not what was learned.
"$here/generate_text.sh" >text.txt
"$electra" vocab train text.txt --size 200 --out vocab.txt
"$electra" data build text.txt --vocab vocab.txt --out data
settings=(data=data "train_steps=$steps" warmup_steps=10 checkpoint_steps=10 eval_steps=100 log_steps=50 batch.sequences=8)

"$electra" pretrain "$config" run=undisturbed "${settings[@]}"

# Ends as the program ends, so that in the background it is the program that is killed.
start_or_resume() {
  if [ -e disturbed/checkpoints/latest ]; then
    exec "$electra" pretrain --resume disturbed >>log 2>&1
  else
    rm -rf disturbed
    exec "$electra" pretrain "$config" run=disturbed "${settings[@]}" >>log 2>&1
  fi
}
# A kill must strike a run at work: the moments are spread over what the undisturbed run took for a part of its steps.
started=$(date +%s%N)
"$electra" pretrain "$config" run=timed "${settings[@]}" train_steps=$((steps / 4)) >/dev/null 2>&1
quarter_ms=$((($(date +%s%N) - started) / 1000000))
rm -rf timed

done_kills=0 attempts=0
while [ $done_kills -lt "$kills" ]; do
  attempts=$((attempts + 1))
  if [ $attempts -gt $((20 * kills)) ]; then
    echo "FAILED: only $done_kills of $kills kills struck a running process" >&2
    exit 1
  fi
  start_or_resume &
  child=$!
  milliseconds=$((RANDOM * quarter_ms / 32768))
  sleep "$(printf '%d.%03d' $((milliseconds / 1000)) $((milliseconds % 1000)))"
  kill -KILL $child 2>/dev/null || true
  status=0
  wait $child 2>/dev/null || status=$?
  if [ $status -eq 137 ]; then
    done_kills=$((done_kills + 1))
    latest=$(readlink disturbed/checkpoints/latest 2>/dev/null || echo none)
    echo "kill $done_kills after $milliseconds ms, latest checkpoint $latest"
  elif [ $status -eq 0 ]; then
    rm -rf disturbed  # it had ended before the kill: start over, so that every kill counts
  else
    tail -n 5 log >&2
    echo "FAILED: the resumed run ended with exit status $status" >&2
    exit 1
  fi
done
(start_or_resume) || { tail -n 5 log >&2; echo "FAILED: the last resume ended with an error" >&2; exit 1; }

for half in discriminator generator optimizer; do
  if ! cmp undisturbed/checkpoints/latest/$half.safetensors disturbed/checkpoints/latest/$half.safetensors; then
    echo "FAILED: $half.safetensors differs after $done_kills kills" >&2
    exit 1
  fi
done
echo "after $done_kills kills the weights of step $(basename "$(readlink -f disturbed/checkpoints/latest)") are the same bit for bit"

# A copied run goes on where it stands, and leaves the one it was copied from alone.
cp -a undisturbed moved
"$electra" pretrain --resume moved train_steps=$((steps + 10)) >>log 2>&1 || { tail -n 5 log >&2; echo "FAILED: the copied run did not go on" >&2; exit 1; }
at_step() { [ "$(readlink "$1/checkpoints/latest")" = "$(printf 'step-%09d' "$2")" ]; }
if ! at_step moved $((steps + 10)) || ! at_step undisturbed "$steps" || [ ! -e moved/checkpoints/best ]; then
  echo "FAILED: a copied run was resumed in another place, or has no best checkpoint" >&2
  exit 1
fi
