#!/bin/sh
# Shows that check_includes.sh can fail: plants one forbidden #include at a time in a copy of the sources.
# usage: test_check_includes.sh ROOT
set -eu
root=$1
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
(cd "$root" && find kernels engine model tokenizer trainer -name '*.h' -o -name '*.cc' | tar -cf - -T -) | tar -xf - -C "$copy"
check="$root/tests/layers/check_includes.sh"
if ! sh "$check" "$copy"; then
  echo "FAILED: expected the sources as they are to pass"
  exit 1
fi

failed=0
plant() { # FILE LINE: expects a complaint that names the file
  mkdir -p "$copy/$(dirname "$1")"
  printf '%s\n' "$2" >"$copy/$1"
  if out=$(sh "$check" "$copy"); then
    echo "FAILED: expected a complaint about $2 in $1, got none"
    failed=1
  elif [ "$(printf '%s\n' "$out" | grep -c "^$1:1: ")" -ne 1 ]; then
    echo "FAILED: expected one complaint about $1, got: $out"
    failed=1
  fi
  rm "$copy/$1"
}
plant kernels/core/planted.h '#include "kernels/gemm.h"'
plant kernels/planted.h '#include "engine/op.h"'
plant engine/planted.cc '#include "model/config.h"'
plant model/planted.cc '#  include "trainer/config.h"'
plant model/planted.cc '#include "tokenizer/tokenizer.h"'
plant tokenizer/planted.cc '#include "kernels/gemm.h"'
plant model/formats/planted.cc '#include "model/config.h"'
plant engine/planted.cc '#include "config.h"'
plant kernels/cpu/planted.cc '#include <dnnl.hpp>'
plant kernels/core/planted.cc '#include <cuda_runtime.h>'
plant kernels/cuda/planted.cc '#include <cublasLt.h>'
plant tokenizer/planted.cc '#include <unicode/uchar.h>'
plant trainer/planted.cc '#include <yaml-cpp/yaml.h>'
plant trainer/planted.cc '#include <CLI/CLI.hpp>'
plant engine/planted.cc '#include <fmt/format.h>'
plant engine/planted.cc '#include <boost/any.hpp>'
exit $failed
