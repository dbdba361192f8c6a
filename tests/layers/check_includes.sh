#!/bin/sh
# Checks that every #include keeps to the floors of docs/architecture.md, and that third-party headers are included only by
# the files that wrap them. usage: check_includes.sh ROOT. Prints file:line for each that does not; exit status 1 then.
set -eu
cd "$1"
find kernels engine model tokenizer trainer -type f \( -name '*.h' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh' \) |
  LC_ALL=C sort | xargs awk '
BEGIN {
  # header pattern -> pattern of the files that may include it; what is listed nowhere may be included nowhere.
  wrapper["^(oneapi/)?dnnl"]   = "^kernels/cpu/gemm[a-z_]*[.](cc|h)$"
  wrapper["^unicode/"]         = "^tokenizer/(unicode|sentences)[.]cc$"
  wrapper["^yaml-cpp/"]        = "^trainer/config_yaml[.]cc$"
  wrapper["^CLI/"]             = "^trainer/cli/"
  wrapper["^spdlog/"]          = "^trainer/"
  wrapper["^fmt/"]             = "^(model|trainer)/"
  wrapper["^nlohmann/"]        = "^(model/formats|trainer)/"
  wrapper["^xxhash[.]h$"]      = "^(model/formats|trainer)/"
  wrapper["^(zlib|zstd|lzma)[.]h$"] = "^trainer/data/input_stream[.]cc$"
  wrapper["^cuda"]             = "^kernels/cuda/(gpu|tensor_map)[.]cc$"
  wrapper["^sanitizer/"]       = "^kernels/simt/"
  wrapper["^cublas"]           = "^kernels/cuda/cublaslt[.]cc$"
  wrapper["^nccl[.]h$"]        = "^kernels/comm/nccl[.]cc$"
  wrapper["^mpi[.]h$"]         = "^kernels/comm/mpi[.]cc$"
  wrapper["^immintrin[.]h$"]   = "^kernels/cpu/"
  # the C library, and the operating system
  wrapper["^(math|stddef|stdint|string)[.]h$"] = "."
  wrapper["^(sys/[a-z]+|dirent|dlfcn|errno|fcntl|glob|malloc|poll|pthread|sched|signal|termios|ucontext|unistd)[.]h$"] = "."
}
function floor_of(path) {
  if (path ~ /^kernels\/core\//) return 0
  if (path ~ /^kernels\//) return 1
  if (path ~ /^engine\//) return 2
  if (path ~ /^model\//) return 3
  if (path ~ /^trainer\//) return 4
  return -1
}
function complain(text) { printf "%s:%d: %s\n", FILENAME, FNR, text; bad = 1 }
/^[ \t]*#[ \t]*include[ \t]*"/ {
  split($0, part, "\""); header = part[2]
  if (header == "electra_commit.h" && FILENAME == "trainer/build_info.cc") next  # written by the build
  if (floor_of(header) < 0 && header !~ /^tokenizer\//) { complain("\"" header "\" does not begin with a floor of the project"); next }
  if (FILENAME ~ /^tokenizer\//) {
    if (header !~ /^(tokenizer|kernels\/core)\//) complain("the tokenizer may not include \"" header "\"")
  } else if (FILENAME ~ /^model\/formats\//) {
    if (header !~ /^(model\/formats|kernels\/core)\//) complain("model/formats may not include \"" header "\"")
  } else if (header ~ /^tokenizer\// ? FILENAME !~ /^trainer\// : floor_of(header) > floor_of(FILENAME)) {
    complain("\"" header "\" lies on a higher floor")
  }
}
/^[ \t]*#[ \t]*include[ \t]*</ {
  header = $0; sub(/^[^<]*</, "", header); sub(/>.*$/, "", header)
  if (header !~ /[.\/]/) next  # the standard library
  known = 0
  for (pattern in wrapper) {
    if (header ~ pattern) {
      known = 1
      if (FILENAME !~ wrapper[pattern]) complain("<" header "> may be included only by " wrapper[pattern])
    }
  }
  if (!known) complain("<" header "> is listed in no wrapper of check_includes.sh")
}
END { exit bad }'
