// electra plan: what a configuration will cost, before anything large is allocated.
#include <fmt/format.h>

#include <algorithm>

#include "kernels/core/thread_pool.h"
#include "trainer/cli/cli.h"
#include "trainer/config.h"
#include "trainer/gemm_peak.h"
#include "trainer/pretrain_setup.h"

namespace electra::cli {
namespace {

constexpr double kMiB = 1024.0 * 1024.0;

std::string duration(double seconds) {
  if (seconds < 120) return fmt::format("{:.0f} s", seconds);
  if (seconds < 7200) return fmt::format("{:.0f} min", seconds / 60);
  if (seconds < 172800) return fmt::format("{:.1f} h", seconds / 3600);
  return fmt::format("{:.1f} days", seconds / 86400);
}

int plan(const Invocation& invocation, const std::string& source, const std::vector<std::string>& overrides, bool nodes) {
  const PretrainConfig config = load_config(source, overrides).config;
  const int threads = thread_count(invocation);
  const BatchShape shape = micro_batch_shape(config);
  ThreadPool pool(threads);
  const Device device(device_kind(invocation), pool);
  const Stream stream = device.stream();
  const ElectraGraph traced = trace_electra(config.model, shape, graph_options(config, SpecialIds{}, /*train=*/true, stream));
  const Graph& graph = *traced.graph;
  const Plan plan = make_plan(graph, {.train = true, .loss = traced.loss, .keep = traced.outputs()});

  int64_t parameters = 0, padded = 0;
  for (const Value v : plan.parameters) {
    const int64_t n = graph.value(v).spec.shape.size();
    parameters += n;
    padded += (n + kGroupElements - 1) / kGroupElements * kGroupElements;
  }
  size_t inputs = 0;
  for (const ValueInfo& v : graph.values())
    if (v.kind == ValueKind::input) inputs += v.spec.bytes();
  const double one = static_cast<double>(padded) * static_cast<double>(size_of(accumulate_type(graph.float_type()))) / kMiB;
  const double copies = graph.float_type() == DType::bf16 ? one / 2 : 0;
  // Lengths before seq_len: programs of their own, one at a time, of the same parameters.
  const std::vector<LengthPhase> phases = config.phases();
  const auto steps_of = [&](const LengthPhase& phase) { return std::max<int64_t>(0, std::min(phase.end, config.train_steps) - phase.begin); };
  size_t arena_bytes = plan.arena_bytes;
  double run_flops = 0;
  int64_t run_tokens = 0;
  std::string lengths;
  for (const LengthPhase& phase : phases) {
    PretrainConfig then = config;
    then.seq_len = phase.seq_len;
    const ElectraGraph other = trace_electra(then.model, micro_batch_shape(then), graph_options(then, SpecialIds{}, /*train=*/true, stream));
    const Plan others = make_plan(*other.graph, {.train = true, .loss = other.loss, .keep = other.outputs()});
    const int64_t steps = steps_of(phase);
    if (steps > 0) arena_bytes = std::max(arena_bytes, others.arena_bytes);
    run_flops += total_cost(*other.graph, others).flops * static_cast<double>(config.batch.accumulate * steps);
    run_tokens += then.tokens_per_step() * steps;
    lengths += fmt::format("{}{} tokens for {} steps", lengths.empty() ? "" : ", then ", phase.seq_len, steps);
  }
  const double arena = static_cast<double>(arena_bytes) / kMiB, io = static_cast<double>(inputs) / kMiB;
  const double checkpoint = static_cast<double>(parameters) * 3 * sizeof(float) / kMiB;
  const double flops = total_cost(graph, plan).flops * static_cast<double>(config.batch.accumulate);

  const double peak = measure_gemm_peak(stream, graph.float_type());
  const double floor = run_flops / peak;

  if (nodes) fmt::print("{}\n", format_plan(graph, plan));
  fmt::print("parameters        {:>12} ({:.2f} M), of generator and discriminator, shared ones once\n", parameters, static_cast<double>(parameters) / 1e6);
  fmt::print("batch             {} tokens in at most {} sequences of at most {}, {} micro-batch(es) a step\n", config.tokens_per_step(),
             shape.sequences * config.batch.accumulate, shape.max_seq_len, config.batch.accumulate);
  if (phases.size() > 1) fmt::print("lengths           {}\n", lengths);
  fmt::print("\nmemory\n");
  fmt::print("  weights         {:>9.1f} MiB  (masters{})\n  gradients       {:>9.1f} MiB\n  Adam moments    {:>9.1f} MiB\n", one + copies, copies > 0 ? " and bf16 copies" : "", one, 2 * one);
  fmt::print("  activations     {:>9.1f} MiB  (recompute: {}; one buffer per tensor would be {:.1f} MiB)\n", arena,
             config.recompute == Recompute::none ? "none" : config.recompute == Recompute::gelu ? "gelu" : "layers",
             static_cast<double>(plan.unplanned_bytes) / kMiB);
  fmt::print("  inputs          {:>9.1f} MiB\n  total           {:>9.1f} MiB\n", io, 4 * one + copies + arena + io);
  fmt::print("\nwork\n");
  fmt::print("  a step          {:>9.1f} GFLOP\n  the run         {:>9.1f} PFLOP in {} steps, {:.0f} M tokens of capacity\n", flops / 1e9,
             run_flops / 1e15, config.train_steps, static_cast<double>(run_tokens) / 1e6);
  fmt::print("  GEMM peak       {:>9.1f} GFLOP/s with {} thread(s), measured now\n", peak / 1e9, threads);
  fmt::print("  time            at least {}; {} at 60 % of the peak\n", duration(floor), duration(floor / 0.6));
  fmt::print("\ndisk\n  a checkpoint    {:>9.1f} MiB, at most {} kept: {:.1f} MiB\n", checkpoint,
             config.checkpoint.keep + (config.checkpoint.keep_best ? 1 : 0),
             checkpoint * static_cast<double>(config.checkpoint.keep + (config.checkpoint.keep_best ? 1 : 0)));
  return 0;
}

}  // namespace

void register_plan(CLI::App& root, Invocation& invocation) {
  struct Arguments {
    std::string source;
    std::vector<std::string> overrides;
    bool nodes = false;
  };
  const auto args = std::make_shared<Arguments>();
  CLI::App* command = add_command(root, "plan", "memory by class, FLOPs, time and disk of a run; allocates nothing large",
                                  "electra plan small batch.sequences=32", invocation);
  command->add_option("config", args->source, "a YAML file or a preset (see 'electra config list')")->required();
  command->add_option("overrides", args->overrides, "key=value, wins over the file");
  command->add_flag("--nodes", args->nodes, "also a line for every op of the step");
  command->callback([args, &invocation] {
    invocation.action = [args, &invocation] { return plan(invocation, args->source, args->overrides, args->nodes); };
  });
}

}  // namespace electra::cli
