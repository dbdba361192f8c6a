// Tokenization in MB/s of text: ids alone, and ids with offsets and word numbers; documents are lines, in parts of 64 KiB. One thread is
// timed by the processor's clock, two by the wall.
//   bench_tokenizer --vocab FILE [--cased] [Google Benchmark's options] TEXT…     argument: threads
#include <benchmark/benchmark.h>

#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "kernels/core/error.h"
#include "kernels/core/thread_pool.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/unicode.h"

using namespace electra;

namespace {

struct Text {
  std::string name, content;
  std::vector<std::vector<std::string_view>> parts;  // of lines
};

Text read(const std::string& file) {
  constexpr size_t kPartBytes = 64 << 10;
  std::ifstream in(file, std::ios::binary);
  std::ostringstream content;
  if (!in || !(content << in.rdbuf())) throw IoError(file, "expected a text file that is not empty");
  Text text{std::filesystem::path(file).filename().string(), content.str(), {}};
  if (unicode::find_invalid_utf8(text.content) != unicode::kValid) throw DataError(file, "expected UTF-8, got another encoding");
  size_t bytes = kPartBytes;
  for (size_t at = 0; at < text.content.size();) {
    const size_t end = std::min(text.content.find('\n', at), text.content.size());
    if (bytes >= kPartBytes) {
      text.parts.emplace_back();
      bytes = 0;
    }
    text.parts.back().push_back(std::string_view(text.content).substr(at, end - at));
    bytes += end + 1 - at;
    at = end + 1;
  }
  return text;
}

// Encodes all lines, `encode` with a buffer of the thread's own.
template <class Buffer, class Encode> void run(benchmark::State& state, const Text& text, Encode encode) {
  ThreadPool pool(static_cast<int>(state.range(0)));
  std::vector<Buffer> buffers(static_cast<size_t>(pool.threads()));
  for (auto _ : state)
    pool.parallel_for(static_cast<int64_t>(text.parts.size()), [&](int64_t part, int worker) {
      for (const std::string_view line : text.parts[static_cast<size_t>(part)]) encode(line, buffers[static_cast<size_t>(worker)]);
    });
  state.counters["MB/s"] = benchmark::Counter(static_cast<double>(text.content.size()) / 1e6, benchmark::Counter::kIsIterationInvariantRate);
}

int run_all(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  std::string vocabulary;
  TokenizerOptions options;
  std::vector<std::string> files;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--vocab" && i + 1 < argc) vocabulary = argv[++i];
    else if (argument == "--cased") options.lowercase = false;
    else files.push_back(argument);
  }
  if (vocabulary.empty() || files.empty() || files.front().starts_with("-")) {
    std::fputs("usage: bench_tokenizer --vocab FILE [--cased] [--benchmark_…] TEXT…\n", stderr);
    return 2;
  }
  const Tokenizer tokenizer(Vocabulary::load(vocabulary), options);
  std::vector<Text> texts;
  for (const std::string& file : files) texts.push_back(read(file));
  for (const Text& text : texts) {
    const auto add = [&](const char* what, auto body) {
      const std::string name = what + ("/" + text.name);
      benchmark::RegisterBenchmark(name.c_str(), body)->ArgName("threads")->Arg(1)->Unit(benchmark::kMillisecond);
      benchmark::RegisterBenchmark(name.c_str(), body)->ArgName("threads")->Arg(2)->UseRealTime()->Unit(benchmark::kMillisecond);
    };
    add("ids", [&](benchmark::State& state) {
      run<std::vector<int32_t>>(state, text, [&](std::string_view line, std::vector<int32_t>& ids) {
        ids.clear();
        tokenizer.encode_ids(line, ids);
      });
    });
    add("offsets", [&](benchmark::State& state) { run<Encoding>(state, text, [&](std::string_view line, Encoding& out) { tokenizer.encode(line, out); }); });
  }
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run_all(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_tokenizer: %s\n", error.what());
    return 1;
  }
}
