// A whole training step: tokens/s, GFLOP/s and share of the GEMM peak measured in the same run; with --phases also where the time goes:
// by half of the model and pass, and by op, with each one's share of the run's ceilings.
//   bench_step                                                       tiny as it is configured, small at 16 x 128 (on a GPU 128 x 128)
//   bench_step --config small --sequences 32 --threads 2 [--json]    one configuration, changed
//   bench_step --config small --device cuda --phases                 the GPU; by default the CPU
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>

#include "kernels/core/error.h"
#include "kernels/core/thread_pool.h"
#include "model/initialize.h"
#include "trainer/build_info.h"
#include "trainer/config.h"
#include "trainer/device_info.h"
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
  std::string device = "cpu";
  bool json = false, phases = false;
};

DeviceKind device_kind(const std::string& name) {
  if (name == "auto") return why_unusable(DeviceKind::cuda).empty() ? DeviceKind::cuda : DeviceKind::cpu;
  return name == "cpu" ? DeviceKind::cpu : name == "cuda" ? DeviceKind::cuda : DeviceKind::simt;
}

// What some calls of the plan took together.
struct Share {
  std::string name;
  int calls = 0;
  double ms = 0, flops = 0, bytes = 0;
};

// Adds the call to the shares named after its half of the model and pass, and after its op and pass.
void add_call(const Graph& graph, const Call& call, double ms, std::vector<Share>& phases, std::vector<Share>& ops) {
  const Node& node = graph.nodes()[static_cast<size_t>(call.node)];
  const char* pass = call.pass == Pass::forward ? "forward" : call.pass == Pass::recompute ? "recompute" : "backward";
  const size_t slash = node.name.find('/');
  const std::string half = slash == std::string::npos ? "between" : node.name.substr(0, slash);
  const Cost& cost = call.pass == Pass::backward ? node.signature.backward : node.signature.forward;
  const auto add = [&](std::vector<Share>& shares, const std::string& name) {
    auto found = std::find_if(shares.begin(), shares.end(), [&](const Share& s) { return s.name == name; });
    if (found == shares.end()) found = shares.insert(shares.end(), {.name = name});
    ++found->calls;
    found->ms += ms;
    found->flops += cost.flops;
    found->bytes += cost.bytes;
  };
  add(phases, half + " " + pass);
  add(ops, std::string(node.op->name()) + " " + pass);
}

double quantile(std::vector<double> sorted, double q) {
  return sorted[static_cast<size_t>(q * static_cast<double>(sorted.size() - 1) + 0.5)];
}

// Seconds of steps of one micro-batch of full sequences, made with these options; after_each is called after each that counts.
template <class AfterEach>
std::vector<double> time_steps(TrainingStep& step, SyntheticBatch& source, int rounds, AfterEach after_each) {
  using Clock = std::chrono::steady_clock;
  MetricSums sums;
  std::vector<double> seconds;
  constexpr int kWarmUps = 3;  // on a GPU: eager, recorded, replayed
  for (int n = 0; n < kWarmUps + rounds; ++n) {
    const HostBatch& batch = source.fill(n);
    const auto begin = Clock::now();
    const auto number = static_cast<uint32_t>(n);
    step.run({&batch, 1}, {.seed = 1, .step = number, .learning_rate = 1e-5, .adam_step = number + 1}, sums);
    if (n < kWarmUps) continue;
    seconds.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
    after_each(n - kWarmUps);
  }
  return seconds;
}

nlohmann::json to_json(const std::vector<Share>& shares) {
  nlohmann::json all = nlohmann::json::array();
  for (const Share& s : shares) all.push_back({{"name", s.name}, {"calls", s.calls}, {"ms", s.ms}, {"flops", s.flops}, {"bytes", s.bytes}});
  return all;
}

void print(const std::vector<Share>& shares, double total_ms, double peak, double copy) {
  for (const Share& s : shares) {
    const double floor = 1e3 * std::max(s.flops / peak, s.bytes / copy);  // ms
    fmt::print("  {:<32} {:>4} calls {:>9.3f} ms {:>5.1f} % {:>9.2f} GFLOP {:>8.3f} GB, {:>3.0f} % of the ceiling\n", s.name, s.calls, s.ms,
               100 * s.ms / total_ms, s.flops / 1e9, s.bytes / 1e9, s.ms > 0 ? 100 * floor / s.ms : 0.0);
  }
}

void bench(Options options) {
  if (options.sequences) options.overrides.push_back(fmt::format("batch.sequences={}", *options.sequences));
  if (options.seq_len) options.overrides.push_back(fmt::format("seq_len={}", *options.seq_len));
  const PretrainConfig config = load_config(options.config, options.overrides).config;
  ThreadPool pool(options.threads);
  const Device device(device_kind(options.device), pool);
  const Stream stream = device.stream();
  use_gemm(config.gemm, stream.backend());
  const BatchShape shape = micro_batch_shape(config);
  const ElectraGraphOptions graph = graph_options(config, kSyntheticSpecialIds, true, stream);
  const auto make_step = [&](Program::Options program) {
    auto step = std::make_unique<TrainingStep>(config.model, shape, graph, optimizer_config(config), stream, program);
    initialize(*step->store(), 1);
    return step;
  };
  auto step = make_step({});
  SyntheticBatch source(shape, config.model.vocab_size, 1);
  // The ceiling is measured before, between and after: the machine's speed drifts.
  double peak = measure_gemm_peak(stream, graph.float_type);
  std::vector<double> seconds = time_steps(*step, source, options.rounds, [&](int round) {
    if (round % 5 == 4) peak = std::max(peak, measure_gemm_peak(stream, graph.float_type, 0.1));
  });
  std::sort(seconds.begin(), seconds.end());
  const double median = quantile(seconds, 0.5), flops = step->program().step_cost().flops;
  const size_t arena = step->program().program().arena_bytes();
  const HostBatch& batch = source.fill(0);
  const double tokens = static_cast<double>(batch.tokens);

  std::vector<Share> phases, ops;
  double copy = 0, profiled_ms = 0;
  if (options.phases) {
    copy = measure_copy_bandwidth(stream);
    step.reset();  // its memory first
    step = make_step({.time_calls = true});
    const Program& program = step->program().program();
    const int rounds = std::min(options.rounds, 5);
    std::vector<double> ms(program.plan().calls.size());
    for (const double s : time_steps(*step, source, rounds, [&](int) {
           const std::vector<double> one = program.call_milliseconds();
           for (size_t c = 0; c < ms.size(); ++c) ms[c] += one[c] / rounds;
         }))
      profiled_ms += 1e3 * s / rounds;
    double in_calls = 0;
    for (size_t c = 0; c < ms.size(); ++c) {
      add_call(program.graph(), program.plan().calls[c], ms[c], phases, ops);
      in_calls += ms[c];
    }
    phases.push_back({.name = "optimizer, copies, waiting", .calls = 1, .ms = profiled_ms - in_calls});
  }

  if (options.json) {
    nlohmann::json line = {{"config", options.config}, {"device", device_banner({device.kind(), "as --device says"}, device_info(), options.threads)}, {"commit", build_info().commit},
                           {"sequences", batch.sequences}, {"seq_len", shape.max_seq_len},
                           {"threads", options.threads}, {"step_ms", median * 1e3}, {"step_ms_p10", quantile(seconds, 0.1) * 1e3},
                           {"step_ms_p90", quantile(seconds, 0.9) * 1e3}, {"tokens_per_second", tokens / median},
                           {"flops_per_step", flops}, {"gflops", flops / median / 1e9}, {"gemm_peak_gflops", peak / 1e9},
                           {"share_of_peak", flops / median / peak}, {"arena_bytes", arena}};
    if (options.phases) {
      line["copy_gbps"] = copy / 1e9;
      line["profiled_step_ms"] = profiled_ms;
      line["phases"] = to_json(phases);
      line["ops"] = to_json(ops);
    }
    fmt::print("{}\n", line.dump());
    return;
  }
  fmt::print("{} {}x{}, {}, {} thread(s): {:.2f} ms a step (p10 {:.2f}, p90 {:.2f}), {:.0f} tokens/s, {:.1f} GFLOP, {:.1f} GFLOP/s, "
             "{:.0f} % of the GEMM peak {:.1f} GFLOP/s, arena {:.1f} MiB\n",
             options.config, batch.sequences, shape.max_seq_len, name_of(device.kind()), options.threads, median * 1e3, quantile(seconds, 0.1) * 1e3,
             quantile(seconds, 0.9) * 1e3, tokens / median, flops / 1e9, flops / median / 1e9, 100 * flops / median / peak, peak / 1e9,
             static_cast<double>(arena) / 1048576.0);
  if (!options.phases) return;
  fmt::print(" by phase, each op launched by itself ({:.2f} ms a step so; a copy moves {:.1f} GB/s):\n", profiled_ms, copy / 1e9);
  print(phases, profiled_ms, peak, copy);
  std::sort(ops.begin(), ops.end(), [](const Share& a, const Share& b) { return a.ms > b.ms; });
  fmt::print(" by op:\n");
  print(ops, profiled_ms, peak, copy);
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
  app.add_option("--device", options.device, "auto, cpu, cuda or simt")->check(CLI::IsMember({"auto", "cpu", "cuda", "simt"}))->capture_default_str();
  app.add_flag("--phases", options.phases, "also the time of every phase and op");
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
    if (!small.sequences) small.sequences = device_kind(options.device) == DeviceKind::cuda ? 128 : 16;
    if (!small.seq_len) small.seq_len = 128;
    bench(tiny);
    bench(small);
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_step: error: {}\n", error.what());
    return 1;
  }
}
