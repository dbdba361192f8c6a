#!/usr/bin/env bash
# The discriminator's half alone: against a uniform generator it must see what was replaced, held-out AUC of at least 0.85,
# within half a million tokens. usage: uniform_generator.sh ELECTRA CONFIG
set -euo pipefail
[ $# -eq 2 ] || { sed -n '2,3p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
electra=$(realpath "$1") config=$(realpath "$2")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

"$here/generate_text.sh" >text.txt
"$electra" vocab train text.txt --size 200 --out vocab.txt
"$electra" data build text.txt --vocab vocab.txt --out data --heldout 0.1
# 61 steps of 64 sequences of 64 tokens: 0.25 M at most.
"$electra" pretrain "$config" data=data run=run uniform_generator=true train_steps=61 warmup_steps=20

# The run's last evaluation.
number() { sed -nE "s/.*\"kind\":\"eval\".*\"$1\":([0-9.e+-]+).*/\1/p" run/metrics.jsonl | tail -n 1; }
tokens=$(number tokens) auc=$(number disc_auc)
echo "held-out disc_auc ${auc:-missing} after ${tokens:-missing} tokens"
awk -v auc="${auc:-0}" -v tokens="${tokens:-1e9}" 'BEGIN { exit !(auc >= 0.85 && tokens <= 500000) }' || {
  echo "FAILED: expected a disc_auc of at least 0.85 within 500,000 tokens" >&2
  exit 1
}
