// The loader alone, in tokens/s: batches filled from a mapped shard, masked as a step masks them, and both at once, the loader's thread
// beside the one that masks, as they share two cores in a run. One thread is timed by the processor's clock, two by the wall.
//   bench_loader [--data DIR] [Google Benchmark's options]     arguments: tokens of an example, tokens of a batch
// Without a data directory it makes 20 million random pieces in sentences of 4 to 60.
#include <benchmark/benchmark.h>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <random>

#include "kernels/core/error.h"
#include "kernels/masking.h"
#include "trainer/data/data_set.h"
#include "trainer/data/loader.h"

using namespace electra;

namespace {

constexpr SpecialIds kSpecial{};  // below every id that is made up

// A folder that goes with the program.
struct Folder {
  std::filesystem::path path = std::filesystem::temp_directory_path() / ("bench_loader-" + std::to_string(std::random_device()()));
  Folder() { std::filesystem::create_directory(path); }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
};

void write_random_shard(const std::filesystem::path& stem) {
  TokenShardWriter writer(stem, 30522);
  std::mt19937 random(1);
  std::vector<int32_t> ids;
  for (int64_t s = 0; writer.tokens() < 20'000'000; ++s) {
    ids.resize(4 + random() % 57);
    for (int32_t& id : ids) id = static_cast<int32_t>(1000 + random() % 29000);
    writer.add_sentence(ids);
    if (s % 40 == 39) writer.end_document();
  }
  writer.finish({});
}

// Masks batches with memory of its own.
struct Masking {
  int64_t predictions;
  ThreadPool pool{1};
  Stream stream{pool};
  StepState state{.seed = 1};
  std::vector<int32_t> masked_ids, rows, targets;
  std::vector<float> weights;

  Masking(const BatchShape& shape)
      : predictions(static_cast<int64_t>(0.155 * static_cast<double>(shape.max_seq_len))),
        masked_ids(static_cast<size_t>(shape.tokens)),
        rows(static_cast<size_t>(shape.sequences * predictions)),
        targets(rows.size()),
        weights(rows.size()) {}
  template <class T> static Tensor tensor(std::vector<T>& v) { return {v.data(), {static_cast<int64_t>(v.size())}, dtype_of<T>}; }
  void run(PackedBatch& batch, const SpecialIds& special) {
    state.step += 1;
    mask_tokens<Backend::cpu>({.ids = tensor(batch.ids),
                               .sequence_offsets = tensor(batch.sequence_offsets),
                               .masked_ids = tensor(masked_ids),
                               .masked_rows = tensor(rows),
                               .masked_weights = tensor(weights),
                               .masked_targets = tensor(targets),
                               .special = special,
                               .max_predictions = predictions,
                               .state = &state},
                              stream);
  }
};

BatchShape shape_of(const benchmark::State& state) {
  const int64_t length = state.range(0), tokens = state.range(1);
  return {2 * ((tokens + length - 1) / length), tokens, length};
}

void report(benchmark::State& state, int64_t tokens) {
  state.counters["tokens/s"] = benchmark::Counter(static_cast<double>(tokens), benchmark::Counter::kIsRate);
}

int run_all(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  std::filesystem::path directory;
  for (int i = 1; i < argc; ++i) {
    if (std::string(argv[i]) != "--data" || i + 1 == argc) {
      std::fputs("usage: bench_loader [--data DIR] [--benchmark_…]\n", stderr);
      return 2;
    }
    directory = argv[++i];
  }
  std::optional<Folder> made_up;
  std::optional<DataSet> data;
  std::optional<TokenShard> random;
  if (directory.empty()) {
    made_up.emplace();
    write_random_shard(made_up->path / "train");
    random.emplace(made_up->path / "train");
  } else {
    data.emplace(directory);
  }
  const TokenShard& shard = data ? data->train() : *random;
  const SpecialIds special = data ? data->special() : kSpecial;
  std::unique_ptr<ExampleIndex> short_examples = std::make_unique<ExampleIndex>(shard, ExampleOptions{.seq_len = 128}, special),
                                long_examples = std::make_unique<ExampleIndex>(shard, ExampleOptions{.seq_len = 512}, special);
  const auto examples = [&](const benchmark::State& state) -> const ExampleIndex& { return state.range(0) == 128 ? *short_examples : *long_examples; };
  const auto add = [&](const char* name, auto body) {
    return benchmark::RegisterBenchmark(name, body)->ArgNames({"length", "tokens"})->Args({128, 16384})->Args({512, 65536})->Unit(benchmark::kMicrosecond);
  };
  add("fill", [&](benchmark::State& state) {
    const BatchShape shape = shape_of(state);
    PackedBatch batch(shape);
    int64_t tokens = 0;
    for (auto _ : state) {
      fill_batch(examples(state), shape, 1, batch.after, batch);
      tokens += batch.tokens;
    }
    report(state, tokens);
  });
  add("mask", [&](benchmark::State& state) {
    const BatchShape shape = shape_of(state);
    PackedBatch batch(shape);
    fill_batch(examples(state), shape, 1, {}, batch);
    Masking masking(shape);
    int64_t tokens = 0;
    for (auto _ : state) {
      masking.run(batch, special);
      tokens += batch.tokens;
    }
    report(state, tokens);
  });
  add("loader_and_mask", [&](benchmark::State& state) {
    const BatchShape shape = shape_of(state);
    Loader loader(examples(state), shape, 1, {});
    PackedBatch batch(shape);
    Masking masking(shape);
    int64_t tokens = 0;
    for (auto _ : state) {
      loader.next(batch);
      masking.run(batch, special);
      tokens += batch.tokens;
    }
    report(state, tokens);
  })->UseRealTime();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run_all(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_loader: %s\n", error.what());
    return 1;
  }
}
