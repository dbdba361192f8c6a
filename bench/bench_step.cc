// A whole training step: tokens/s, GFLOP/s and share of the GEMM peak measured in the same run.
//   bench_step                                                       tiny as it is configured, small at 16 x 128
//   bench_step --config small --sequences 32 --threads 2 [--json]    one configuration, changed
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>

#include "kernels/core/thread_pool.h"
#include "model/initialize.h"
#include "trainer/config.h"
#include "trainer/gemm_peak.h"
#include "trainer/pretrain_setup.h"
#include "trainer/synthetic.h"
#include "trainer/training_step.h"

using namespace electra;

namespace {

struct Options {
  std::string config;  // empty: the two that are measured by default
  std::vector<std::string> overrides;
  std::optional<int64_t> sequences, seq_len;  // in place of the configuration's
  int threads = 2, rounds = 15;
  bool json = false;
};

double quantile(std::vector<double> sorted, double q) {
  return sorted[static_cast<size_t>(q * static_cast<double>(sorted.size() - 1) + 0.5)];
}

// One micro-batch of full sequences, again and again.
void bench(Options options) {
  if (options.sequences) options.overrides.push_back(fmt::format("batch.sequences={}", *options.sequences));
  if (options.seq_len) options.overrides.push_back(fmt::format("seq_len={}", *options.seq_len));
  const PretrainConfig config = load_config(options.config, options.overrides).config;
  ThreadPool pool(options.threads);
  const Stream stream(pool);
  const BatchShape shape = micro_batch_shape(config);
  TrainingStep step(config.model, shape, graph_options(config, kSyntheticSpecialIds, true, stream),
                    optimizer_config(config), stream);
  initialize(*step.store(), 1);
  SyntheticBatch source(shape, config.model.vocab_size, 1);
  MetricSums sums;
  using Clock = std::chrono::steady_clock;
  // The ceiling is measured before, between and after: the machine's speed drifts.
  double peak = measure_gemm_peak(stream, DType::f32);
  std::vector<double> seconds;
  for (int round = -2; round < options.rounds; ++round) {
    const HostBatch& batch = source.fill(round + 2);
    const auto begin = Clock::now();
    step.run({&batch, 1}, {.seed = 1, .step = static_cast<uint32_t>(round + 2), .learning_rate = 1e-5, .adam_step = static_cast<uint32_t>(round + 3)}, sums);
    if (round >= 0) seconds.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
    if (round % 5 == 4) peak = std::max(peak, measure_gemm_peak(stream, DType::f32, 0.1));
  }
  std::sort(seconds.begin(), seconds.end());
  const double median = quantile(seconds, 0.5), flops = step.program().step_cost().flops;
  const HostBatch& batch = source.fill(0);
  const double tokens = static_cast<double>(batch.tokens);
  if (options.json) {
    const nlohmann::json line = {{"config", options.config}, {"sequences", batch.sequences}, {"seq_len", shape.max_seq_len},
                                 {"threads", options.threads}, {"step_ms", median * 1e3}, {"step_ms_p10", quantile(seconds, 0.1) * 1e3},
                                 {"step_ms_p90", quantile(seconds, 0.9) * 1e3}, {"tokens_per_second", tokens / median},
                                 {"flops_per_step", flops}, {"gflops", flops / median / 1e9}, {"gemm_peak_gflops", peak / 1e9},
                                 {"share_of_peak", flops / median / peak}, {"arena_bytes", step.program().program().arena_bytes()}};
    fmt::print("{}\n", line.dump());
    return;
  }
  fmt::print("{} {}x{}, {} thread(s): {:.1f} ms a step (p10 {:.1f}, p90 {:.1f}), {:.0f} tokens/s, {:.1f} GFLOP, {:.1f} GFLOP/s, "
             "{:.0f} % of the GEMM peak {:.1f} GFLOP/s, arena {:.1f} MiB\n",
             options.config, batch.sequences, shape.max_seq_len, options.threads, median * 1e3, quantile(seconds, 0.1) * 1e3,
             quantile(seconds, 0.9) * 1e3, tokens / median, flops / 1e9, flops / median / 1e9, 100 * flops / median / peak, peak / 1e9,
             static_cast<double>(step.program().program().arena_bytes()) / 1048576.0);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("A whole training step against the GEMM peak");
  Options options;
  app.add_option("--config", options.config, "preset or YAML file; without it: tiny, and small at 16 x 128");
  app.add_option("--sequences", options.sequences, "sequences of the batch, in place of the configuration's")->check(CLI::PositiveNumber);
  app.add_option("--seq-len", options.seq_len, "tokens of a sequence, in place of the configuration's")->check(CLI::PositiveNumber);
  app.add_option("--threads", options.threads)->check(CLI::Range(1, 1024))->capture_default_str();
  app.add_option("--rounds", options.rounds, "steps measured")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_flag("--json", options.json, "one JSON object a configuration");
  app.add_option("overrides", options.overrides, "key=value")->needs("--config");
  CLI11_PARSE(app, argc, argv);
  try {
    if (!options.config.empty()) {
      bench(options);
      return 0;
    }
    Options tiny = options, small = options;
    tiny.config = "tiny";
    small.config = "small";
    if (!small.sequences) small.sequences = 16;
    if (!small.seq_len) small.seq_len = 128;
    bench(tiny);
    bench(small);
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_step: error: {}\n", error.what());
    return 1;
  }
}
