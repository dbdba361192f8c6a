#!/bin/sh
# Formats the C++ sources with clang-format (Debian 12's, version 14). usage: scripts/format.sh [--check] [FILE…]
# --check changes nothing and fails where a file is not formatted.
set -eu
cd "$(dirname "$0")/.."
options=-i
if [ "${1:-}" = --check ]; then
  options='--dry-run --Werror'
  shift
fi
if [ $# -eq 0 ]; then
  # shellcheck disable=SC2046
  set -- $(find kernels engine model tokenizer trainer tests bench -name '*.h' -o -name '*.cc' | LC_ALL=C sort)
fi
# shellcheck disable=SC2086
exec clang-format $options "$@"
