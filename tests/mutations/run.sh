#!/usr/bin/env bash
# Mutation tests: does a test turn red when a line of the code is broken?
#   run.sh --check              only checks the records: each line occurs exactly once, each test is declared (seconds)
#   run.sh [FILTER…]            runs all records, or those whose file name contains a FILTER
#   run.sh --part HASH          runs a twentieth of them, picked by HASH (hexadecimal, for example a commit's)
# Records stand in tests/mutations/*.txt, separated by blank lines:
#   file: path from the root
#   line: a line that occurs exactly once in it, without its leading blanks
#   replace: what takes its place (may be empty)
#   test: test_x or test_x/part of a case's name: regular expression of CTest entries; one of them must fail
#   preset: where that test is built, if not in release (may be left out)
# Mutated code is built in a copy of the sources under build/mutations; the sources themselves are never touched.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"

mode=run part='' filters=()
while [ $# -gt 0 ]; do
  case "$1" in
    --check) mode=check ;;
    --part) part=${2:?--part needs a hash}; shift ;;
    -*) sed -n '2,6p' "$0" >&2; exit 2 ;;
    *) filters+=("$1") ;;
  esac
  shift
done

# Parallel arrays, one element a record. `at` is FILE:LINE of the record for messages.
at=() files=() lines=() replacements=() tests=() presets=()
wrong=0
complain() { echo "$*" >&2; wrong=$((wrong + 1)); }

read_records() {
  local list=$1 number=0 text keys='' start=0 file line replacement test preset=release
  flush() {
    if [ -n "$keys" ]; then
      if [ "$keys" = "file line replace test " ] || [ "$keys" = "file line replace test preset " ]; then
        at+=("$list:$start") files+=("$file") lines+=("$line") replacements+=("$replacement") tests+=("$test") presets+=("$preset")
      else
        complain "$list:$start: expected the keys file, line, replace, test and perhaps preset, got ${keys% }"
      fi
    fi
    keys='' preset=release
  }
  while IFS= read -r text || [ -n "$text" ]; do
    number=$((number + 1))
    case "$text" in
      '') flush ;;
      '#'*) ;;
      file:* | line:* | replace:* | test:* | preset:*)
        [ -n "$keys" ] || start=$number
        keys+="${text%%:*} "
        local value=${text#*:}
        value=${value# }
        case "$text" in
          file:*) file=$value ;;
          line:*) line=$value ;;
          replace:*) replacement=$value ;;
          test:*) test=$value ;;
          preset:*) preset=$value ;;
        esac
        ;;
      *) complain "$list:$number: expected a key (file, line, replace, test, preset) or a blank line, got $text" ;;
    esac
  done <"$list"
  flush
}

for list in tests/mutations/*.txt; do
  [ -e "$list" ] || continue
  if [ ${#filters[@]} -gt 0 ]; then
    chosen=0
    for filter in "${filters[@]}"; do [[ $list != *"$filter"* ]] || chosen=1; done
    [ $chosen = 1 ] || continue
  fi
  read_records "$list"
done

# The executable a CTest expression belongs to: its leading word.
executable_of() { sed -E 's/^\^?(test_[a-z0-9_]+).*/\1/' <<<"$1"; }

# Prints FILE with the line replaced; fails unless it occurs exactly once.
mutate() {
  MUTATE_LINE=$2 MUTATE_REPLACE=$3 awk '
    { text = $0; sub(/^[ \t]+/, "", text) }
    text == ENVIRON["MUTATE_LINE"] {
      match($0, /^[ \t]*/)
      print substr($0, 1, RLENGTH) ENVIRON["MUTATE_REPLACE"]
      ++found
      next
    }
    { print }
    END { exit found != 1 }' "$1"
}

declared=$(sed -nE 's/.*NAME +(test_[a-z0-9_]+).*/\1/p' tests/CMakeLists.txt)
for i in "${!at[@]}"; do
  if [ ! -f "${files[i]}" ]; then
    complain "${at[i]}: no file ${files[i]}"
  elif ! mutate "${files[i]}" "${lines[i]}" "${replacements[i]}" >/dev/null; then
    count=$(MUTATE_LINE=${lines[i]} awk '{ sub(/^[ \t]+/, "") } $0 == ENVIRON["MUTATE_LINE"] { ++n } END { print n + 0 }' "${files[i]}")
    complain "${at[i]}: expected the line once in ${files[i]}, got it $count times: ${lines[i]}"
  elif [ "${lines[i]}" = "${replacements[i]}" ]; then
    complain "${at[i]}: the replacement is the line itself"
  fi
  grep -qx "$(executable_of "${tests[i]}")" <<<"$declared" ||
    complain "${at[i]}: expected a test declared in tests/CMakeLists.txt, got ${tests[i]}"
  grep -q "\"name\": \"${presets[i]}\"" CMakePresets.json || complain "${at[i]}: expected a preset of CMakePresets.json, got ${presets[i]}"
done
if [ $mode = check ] || [ $wrong -gt 0 ]; then
  echo "${#at[@]} mutation records, $wrong wrong"
  exit $((wrong > 0))
fi

# ---- run ----
picked=("${!at[@]}")
if [ -n "$part" ]; then
  offset=$((16#$(printf '%s' "$part" | tr -cd '0-9a-fA-F' | tail -c 7) % 20))
  picked=()
  for i in "${!at[@]}"; do [ $((i % 20)) -ne $offset ] || picked+=("$i"); done
fi
echo "running ${#picked[@]} of ${#at[@]} mutations"

# The same presets in the same place below the root, so that the compiler cache has what is not mutated.
copy=build/mutations/source
# What differs is copied, with a new time: what an earlier run built from a mutated or an older file must not look up to date.
mkdir -p $copy
find . \( -path ./build -o -path ./runs -o -path ./.git \) -prune -o -type f -print | while IFS= read -r file; do
  cmp -s "$file" "$copy/$file" || { mkdir -p "$copy/$(dirname "$file")" && cp "$file" "$copy/$file"; }
done
[ ! -d ../shared ] || ln -sfn "$(cd ../shared && pwd)" build/mutations/shared
log=build/mutations/last.log configured=''
configure() { # PRESET, once
  grep -qxF "$1" <<<"$configured" && return
  cmake -S $copy --preset "$1" >build/mutations/configure.log 2>&1 || { cat build/mutations/configure.log >&2; exit 1; }
  configured+="$1"$'\n'
}
build() { cmake --build "$copy/build/${presets[i]}" --target "$1" >$log 2>&1; }
run_test() { ctest --test-dir "$copy/build/${presets[i]}" --no-tests=error --timeout 300 --output-on-failure -R "$1" >$log 2>&1; }

killed=0 survived=0 tried=''
for i in "${picked[@]}"; do
  target=$(executable_of "${tests[i]}")
  configure "${presets[i]}"
  # Before anything is broken the test must exist and be green.
  if ! grep -qxF "${presets[i]} ${tests[i]}" <<<"$tried"; then
    if ! { build "$target" && run_test "${tests[i]}"; }; then
      tail -n 30 $log >&2
      echo "FAILED   ${at[i]}: ${tests[i]} is not green without the mutation"
      survived=$((survived + 1))
      continue
    fi
    tried+="${presets[i]} ${tests[i]}"$'\n'
  fi
  mutate "${files[i]}" "${lines[i]}" "${replacements[i]}" >"$copy/${files[i]}"
  if ! build "$target"; then
    tail -n 30 $log >&2
    verdict="FAILED   (does not compile)"
    survived=$((survived + 1))
  elif run_test "${tests[i]}"; then
    verdict="SURVIVED"
    survived=$((survived + 1))
  else
    verdict="killed  "
    killed=$((killed + 1))
  fi
  echo "$verdict ${at[i]} ${files[i]}: ${lines[i]} -> ${replacements[i]}"
  cp "${files[i]}" "$copy/${files[i]}"  # with a new time, so that it is built again
done
echo "mutations: $killed passed, $survived failed"
exit $((survived > 0))
