#!/usr/bin/env bash
# Installs the Debian packages that are missing. usage: scripts/install_dependencies.sh [build|test]
#   build  what it takes to compile and run electra (the default)
#   test   that, and what ./test.sh needs
# Works as root and with sudo, says what it will install, and touches neither apt nor the network when all is there.
set -euo pipefail

build_packages=(
  g++ cmake ninja-build ccache pkg-config git ca-certificates
  libdnnl-dev         # oneDNN: matrix products
  libgomp1            # the OpenMP runtime oneDNN uses
  libicu-dev          # Unicode
  libyaml-cpp-dev     # configuration
  libcli11-dev        # command line
  zlib1g-dev libzstd-dev liblzma-dev  # compressed text
  libspdlog-dev libfmt-dev nlohmann-json3-dev libxxhash-dev)
test_packages=(
  catch2 libbenchmark-dev
  clang-16            # the second compiler
  clang-format        # the format check
  python3)            # the command-line contract

case "${1:-build}" in
  build) wanted=("${build_packages[@]}") ;;
  test) wanted=("${build_packages[@]}" "${test_packages[@]}") ;;
  *) echo "usage: $0 [build|test]" >&2; exit 2 ;;
esac

is_installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

if ! command -v dpkg-query >/dev/null; then
  echo "$0: expected a Debian 12 system (dpkg, apt-get); install the equivalents of these yourself: ${wanted[*]}" >&2
  exit 1
fi
missing=()
for package in "${wanted[@]}"; do
  is_installed "$package" || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

echo "Installing ${#missing[@]} Debian packages: ${missing[*]}" >&2
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "$0: expected root or sudo to install: ${missing[*]}" >&2; exit 1; }
  as_root=(sudo)
fi
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o Dpkg::Use-Pty=0)

# Without a network the update fails; what is in apt's cache can still be installed.
"${apt[@]}" update >&2 || echo "$0: apt-get update failed; trying with the package lists at hand" >&2
if "${apt[@]}" install -y --no-install-recommends "${missing[@]}" >&2; then
  exit 0
fi
for package in "${missing[@]}"; do
  is_installed "$package" && continue
  candidate=$(apt-cache policy "$package" 2>/dev/null | awk '/Candidate:/ { print $2 }')
  if [ -z "$candidate" ] || [ "$candidate" = "(none)" ]; then
    echo "$0: package $package is not known to apt here (is this Debian 12 with its main archive enabled?)" >&2
  else
    echo "$0: package $package ($candidate) could not be downloaded or installed (see apt's message above)" >&2
  fi
done
exit 1
