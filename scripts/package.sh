#!/usr/bin/env bash
# Makes one relocatable archive of a build: the program, the benchmarks, the tests that run on a device, configurations, golden files and
# bench/run_gpu.sh, with every shared library that is neither CUDA's nor glibc's. Unpacked anywhere, bin/electra and run_gpu.sh work there.
#   scripts/package.sh [BUILD] [ARCHIVE]     BUILD: build/cuda; ARCHIVE: electra-<version>-<system>.tar.zst
# Fails when the archive is 40 MiB or more, or a library is missing. Exit status: 0 done, 1 not, 2 wrong usage.
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in -*) sed -n '4,5p' "$0" >&2; exit 2 ;; esac
build=${1:-build/cuda}
readonly limit=$((40 << 20))  # bytes
[ -x "$build/electra" ] || { echo "package: expected a build in $build (cmake --preset cuda && cmake --build --preset cuda), got none" >&2; exit 1; }
version=$("$build/electra" --version | awk '{ print $2 }')
archive=${2:-electra-$version-$(uname -s | tr '[:upper:]' '[:lower:]')-$(uname -m).tar.zst}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/electra
for component in program measurement; do cmake --install "$build" --prefix "$root" --component $component >/dev/null; done
mkdir -p "$root/lib"

# glibc belongs to the machine, CUDA's libraries come with its driver and toolkit; all others travel.
missing=$(for f in "$root"/bin/*; do ldd "$f" | grep 'not found' || true; done | sort -u)
[ -z "$missing" ] || { echo "package: expected every library of the build, these are missing:"; echo "$missing"; exit 1; } >&2
for f in "$root"/bin/*; do ldd "$f"; done | awk '$3 ~ /^\// { print $3 }' | sort -u |
  grep -vE '/(ld-linux[^/]*|libc|libm|libdl|librt|libpthread|libresolv|libcu[^/]*|libnv[^/]*|libnccl)\.so[^/]*$' >"$work/libraries"
while read -r library; do cp -L "$library" "$root/lib/"; done <"$work/libraries"
strip --strip-unneeded "$root"/bin/* "$root"/lib/*
# What the machine must have.
for f in "$root"/bin/* "$root"/lib/*; do objdump -T "$f" 2>/dev/null || true; done | grep -oE 'GLIBC_2\.[0-9]+' | sort -uV | tail -n 1 >"$root/share/electra/glibc"
"$build/electra" --version >"$root/share/electra/version"

tar -C "$work" --sort=name --owner=0 --group=0 --mtime=@0 -cf - electra | zstd -q -19 --long=27 -T0 -f -o "$archive"
bytes=$(stat -c %s "$archive")
printf '%s: %.1f MiB (%.1f MiB unpacked), needs %s\n' "$archive" "$(awk "BEGIN { print $bytes / 1048576 }")" \
  "$(awk "BEGIN { print $(du -sb "$root" | cut -f1) / 1048576 }")" "$(cat "$root/share/electra/glibc")"
if [ "$bytes" -ge $limit ]; then
  echo "package: expected less than $((limit >> 20)) MiB" >&2
  rm "$archive"
  exit 1
fi
