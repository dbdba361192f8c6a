#!/usr/bin/env bash
# Runs every sh block of a page as it is written, in a folder of its own beside the shared data. usage: run_page.sh ELECTRA PAGE SHARED
# Exit status 4 where there is no shared data.
set -euo pipefail
[ $# -eq 3 ] || { sed -n '2,3p' "$0" >&2; exit 2; }
electra=$(realpath "$1") page=$(realpath "$2")
[ -d "$3" ] || exit 4
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
ln -s "$(realpath "$3")" "$work/shared"
mkdir "$work/electra"
cd "$work/electra"
ln -s "$electra" electra
awk '/^```sh$/ { on = 1; next } /^```/ { on = 0 } on' "$page" >commands
[ -s commands ] || { echo "FAILED: no commands in $page" >&2; exit 1; }
bash -euxo pipefail commands
