#!/usr/bin/env bash
# From a bare clone to a small ELECTRA trained on real English text, evaluated and probed.
#   ./quickstart.sh            about 10 MB of documentation prose, some four minutes of training on 2 cores
#   ./quickstart.sh PATH…      the same on your own UTF-8 text (files or folders of .txt; a blank line ends a document)
#   ./quickstart.sh --long     over 30 MB and about 50 M tokens, half an hour; run it again to go on where it was stopped
#   ./quickstart.sh --smoke    everything once on 1 MB, half a minute
# Downloads, builds and extracted text go under build/, trained models under runs/. What is there is not made again.
set -euo pipefail
here=$PWD  # paths given are relative to where the user stands
cd "$(dirname "$0")"

usage() { sed -n '2,7s/^# \{0,1\}//p' "$0"; }
fail() { echo "quickstart: $*" >&2; exit 1; }

mode=default
paths=()
for argument in "$@"; do
  case "$argument" in
    --smoke) mode=smoke ;;
    --long) mode=long ;;
    -h | --help) usage; exit 0 ;;
    -*) usage >&2; exit 2 ;;
    *) paths+=("$(cd "$here" && realpath -e -- "$argument" 2>/dev/null)") || fail "expected a text file or a folder, got $argument" ;;
  esac
done
[ ${#paths[@]} -eq 0 ] || [ $mode = default ] || { usage >&2; exit 2; }

step_count=0
started=$SECONDS
step() {
  step_count=$((step_count + 1))
  printf '\n%s[%d] %s%s  (%d s)\n' "$bold" $step_count "$1" "$plain" $((SECONDS - started)) >&2
}
bold='' plain=''
if [ -t 2 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\033[1m' plain=$'\033[0m'; fi

# ---- what each mode trains on, and for how long ----
work=build/quickstart
packages=(perl-doc python3.11-doc postgresql-doc-15)
vocab_size=8192
case $mode in
  smoke)
    packages=(perl-doc)
    vocab_size=2048
    settings=(train_steps=40 warmup_steps=10 eval_steps=20 checkpoint_steps=20 log_steps=10)
    ;;
  default)
    settings=(train_steps=2200 warmup_steps=300 eval_steps=550 checkpoint_steps=550 log_steps=20)
    ;;
  long)
    packages+=(linux-doc-6.1 qtbase5-doc-html erlang-doc libreoffice-help-en-us sqlite3-doc python-django-doc git-doc
      apache2-doc exim4-doc-html r-doc-html postfix-doc)
    settings=(train_steps=12000 warmup_steps=1000 eval_steps=1000 checkpoint_steps=500 log_steps=50)
    ;;
esac
# The text files among the paths: those named, and every .txt in the folders named.
own_files() {
  local path
  for path in "${paths[@]}"; do
    if [ -d "$path" ]; then find "$path" -type f -name '*.txt'; else echo "$path"; fi
  done | LC_ALL=C sort -u
}
name=$mode
if [ ${#paths[@]} -gt 0 ]; then
  [ -n "$(own_files)" ] || fail "expected at least one .txt file in ${paths[*]}, got none"
  # Other paths, or files that changed, are another corpus with a run of its own.
  name=own-$(own_files | xargs -d '\n' stat -c '%n %s %Y' | cksum | cut -d ' ' -f 1)
fi
text=$work/$name.txt
vocab=$work/$name-vocab.txt
data=$work/$name-data
run=runs/quickstart-$name

# ---- steps ----

install_and_build() {
  step "Installing what is missing"
  scripts/install_dependencies.sh build
  local preset=cpu
  if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; then preset=release; fi
  step "Building electra (preset $preset)"
  local log=build/quickstart-build.log
  mkdir -p build
  { cmake --preset $preset && cmake --build --preset $preset --target electra; } >$log 2>&1 || { tail -n 30 $log >&2; fail "the build failed; all of its output is in $log"; }
  ln -sfn build/$preset/electra electra
  ./electra info >&2
}

download_package() { (cd $2 && apt-get -q -o APT::Sandbox::User=root download $1) >&2; }

update_package_lists() {
  local as_root=()
  [ "$(id -u)" -eq 0 ] || as_root=(sudo)
  "${as_root[@]}" apt-get -q update >&2
}

# Downloads a package without installing it, so that neither root nor dpkg's own filters (slim images drop documentation)
# matter, and unpacks it under $work/packages/NAME.
fetch_package() {
  local package=$1 folder=$work/packages
  [ ! -d $folder/$package ] || return 0
  rm -rf $folder/$package.part
  mkdir -p $folder/$package.part
  if ! compgen -G "$folder/${package}_*.deb" >/dev/null; then
    # Once more with new package lists: they may be missing, or older than the archive.
    download_package $package $folder || { update_package_lists && download_package $package $folder; } ||
      fail "package $package could not be downloaded (see apt's message above). Without a network, put its .deb into $folder, or train on your own text: ./quickstart.sh PATH…"
  fi
  dpkg-deb -x $folder/${package}_*.deb $folder/$package.part
  mv $folder/$package.part $folder/$package
}

get_text() {
  [ ! -s $text ] || return 0
  mkdir -p $work/packages
  if [ ${#paths[@]} -gt 0 ]; then
    local file
    own_files | while read -r file; do
      cat -- "$file"
      printf '\n\n'
    done >$text.part
  else
    local package files=$work/$name.files
    for package in "${packages[@]}"; do
      fetch_package $package
      # The text of a package in the order of its file names.
      find $work/packages/$package -type f \( -name '*.html' -o -name '*.pod' \) | LC_ALL=C sort
    done >$files
    local limit=0
    [ $mode != smoke ] || limit=1000000
    perl scripts/extract_text.pl --max-bytes $limit <$files >$text.part
  fi
  mv $text.part $text
}

# The number that KEY has in the JSON object in FILE.
json_number() { sed -nE "s/.*\"$1\": *(-?[0-9][0-9.eE+-]*).*/\1/p" "$2" | head -n 1; }

pretrain() {
  local status=0
  if [ -e $run/checkpoints/latest ]; then
    ./electra pretrain --resume $run || status=$?
  else
    rm -rf $run
    ./electra pretrain configs/electra-tiny.yaml data=$data run=$run "${settings[@]}" || status=$?
  fi
  [ $status -le 128 ] || echo "Stopped. The same command goes on from the last checkpoint in $run." >&2
  return $status
}

install_and_build

step "Getting English text"
get_text
awk '{ bytes += 1 + length } length > 200 && length < 400 && ++n % 40 == 0 && n <= 120 { sample = sample "  " $0 "\n" }
     END { printf "%s: %.1f MB, for example\n%s", FILENAME, bytes / 1e6, sample }' $text >&2

step "Training a vocabulary of $vocab_size word pieces"
[ -s $vocab ] || ./electra vocab train $text --size $vocab_size --out $vocab

step "Building token shards with a held-out split"
if [ ! -d $data ]; then
  rm -rf $data.part
  ./electra data build $text --vocab $vocab --out $data.part
  mv $data.part $data
fi

step "Pre-training configs/electra-tiny.yaml (generator and discriminator together); Ctrl-C stops and keeps a checkpoint"
if [ $mode = smoke ]; then
  rm -rf $run
  pretrain
  ./electra pretrain --resume $run train_steps=50  # the way back in is part of the smoke test
else
  pretrain
fi

step "Evaluating on held-out text"
./electra eval $run --json >$work/$name-eval.json
./electra eval $run

step "Probing: how likely was each token replaced?"
./electra probe $run "The function returns a new list that contains all the values."
./electra probe $run "The function returns a new banana that contains all the values."
./electra probe $run --corrupt "If the file does not exist, an error message is printed and the program stops."

# ---- summary ----
loss=$(json_number masked_lm_loss $work/$name-eval.json)
entropy=$(json_number unigram_entropy $work/$name-eval.json)
auc=$(json_number disc_auc $work/$name-eval.json)
skill=$(json_number skill $work/$name-eval.json)
if [ -z "$loss" ] || [ -z "$entropy" ] || [ -z "$auc" ] || [ -z "$skill" ]; then fail "a metric is missing in $work/$name-eval.json"; fi
{
  printf '\n%sDone in %d s.%s The model is in %s.\n' "$bold" $((SECONDS - started)) "$plain" $run
  if [ $mode = smoke ]; then
    echo "Every step works; after 50 steps the figures mean nothing yet."
    echo "Next:  ./quickstart.sh"
    exit 0
  fi
  awk -v loss="$loss" -v entropy="$entropy" 'BEGIN {
    printf "Generator: held-out masked_lm_loss %.2f nats; knowing only how frequent each word is would give %.2f: ", loss, entropy
    if (loss <= entropy - 0.6) print "it has learned from context."
    else print "it has not learned much from context yet (0.6 below is the mark)."
  }'
  printf 'Discriminator: held-out disc_auc %.2f, skill %.2f.\n' "$auc" "$skill"
  if [ $mode != long ]; then
    echo "A discriminator of this size sees next to nothing (AUC 0.50 to 0.58) for the first 20 million tokens or so, and only then wakes up."
    echo "To see that happen, train longer on more text:  ./quickstart.sh --long"
  fi
  echo "Also to try:"
  [ ${#paths[@]} -gt 0 ] || echo "  ./quickstart.sh PATH…                               your own text"
  echo "  ./electra probe $run \"Your own sentence.\" --corrupt"
  echo "  ./electra pretrain --resume $run train_steps=N      go on training"
  echo "  tensorboard --logdir runs                           the curves, where TensorBoard is installed"
} >&2
