// What a step costs the host, and the memory it plans; needs no GPU.
//   op            issuing one small op (GELU of 64 numbers), without waiting for it: a launch on a GPU, a call on the CPU
//   graph         the same as one of many launches in a recorded graph (not on the CPU)
//   step_eager, step_recorded   forward and backward of a toy model, until the host is free again; us_per_call is by op of the plan
//   plan          tracing and planning a whole model; counters: calls, parameters, bytes of the arena and without lifetimes
//   bench_launch [--benchmark_filter=…]
#include <algorithm>
#include <chrono>

#include "bench/bench.h"
#include "kernels/activation.h"
#include "model/initialize.h"
#include "trainer/config.h"
#include "trainer/pretrain_setup.h"
#include "trainer/synthetic.h"
#include "trainer/training_step.h"

using namespace electra;

namespace {

constexpr int kLaunches = 200;
constexpr const char* kPresets[] = {"tiny", "small", "base", "large"};

double wall_seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// The host's time of issue(), which does `calls` things; what it issued is waited for before the next.
template <class Issue> void measure_host(benchmark::State& s, const Stream& stream, int64_t calls, Issue issue) {
  std::vector<double> seconds;
  for (int i = 0; i < 3; ++i) issue();
  stream.synchronize();
  for (auto _ : s) {
    const double begin = wall_seconds();
    issue();
    seconds.push_back(wall_seconds() - begin);
    s.SetIterationTime(seconds.back());
    stream.synchronize();
  }
  if (seconds.empty()) return;
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[seconds.size() / 2];
  s.counters["median_us"] = median * 1e6;
  s.counters["calls"] = static_cast<double>(calls);
  s.counters["us_per_call"] = median * 1e6 / static_cast<double>(calls);
}

void op(benchmark::State& s) {
  Stream stream = bench::stream();
  bench::Tensors make(stream);
  const GeluForward args{.x = make.random({64}, bench::dtype()), .y = make.zeros({64}, bench::dtype())};
  measure_host(s, stream, kLaunches, [&] {
    dispatch(stream, [&]<Backend B>() {
      for (int i = 0; i < kLaunches; ++i) gelu_forward<B>(args, stream);
    });
  });
}

void graph(benchmark::State& s) {
  Stream stream = bench::stream();
  bench::Tensors make(stream);
  const GeluForward args{.x = make.random({64}, bench::dtype()), .y = make.zeros({64}, bench::dtype())};
  dispatch(stream, [&]<Backend B>() { gelu_forward<B>(args, stream); });
  const LaunchGraph recorded = LaunchGraph::capture(stream, [&] {
    dispatch(stream, [&]<Backend B>() {
      for (int i = 0; i < kLaunches; ++i) gelu_forward<B>(args, stream);
    });
  });
  measure_host(s, stream, kLaunches, [&] { recorded.launch(stream); });
}

PretrainConfig configuration(const std::string& preset, const std::vector<std::string>& overrides = {}) {
  return load_config(preset, overrides).config;
}

void step(benchmark::State& s, bool record) {
  const Stream stream = bench::stream();
  PretrainConfig config = configuration("tiny", {"batch.sequences=1", "seq_len=16"});
  config.model.vocab_size = 512;
  config.precision = bench::dtype() == DType::bf16 ? Precision::bf16 : Precision::fp32;
  const BatchShape shape = micro_batch_shape(config);
  ElectraProgram program(trace_electra(config.model, shape, graph_options(config, kSyntheticSpecialIds, true, stream)), true, stream, nullptr,
                         {.record = record});
  initialize(*program.store(), 1);
  SyntheticBatch source(shape, config.model.vocab_size, 1);
  program.load(source.fill(0));
  const StepState state{.seed = 1, .masked_lm_denominator = 2, .disc_denominator = 16, .learning_rate = 1e-5};
  measure_host(s, stream, static_cast<int64_t>(program.program().plan().calls.size()), [&] { program.forward_backward(state, true); });
  s.counters["arena_bytes"] = static_cast<double>(program.program().arena_bytes());
}
void step_eager(benchmark::State& s) { step(s, false); }
void step_recorded(benchmark::State& s) { step(s, true); }

void plan(benchmark::State& s) {
  const Stream stream = bench::stream();
  const PretrainConfig config = configuration(kPresets[s.range(0)]);
  const ElectraGraphOptions options = graph_options(config, kSyntheticSpecialIds, true, stream);
  const auto make = [&](const ElectraGraph& traced) {
    return make_plan(*traced.graph, {.train = true, .loss = traced.loss, .keep = traced.outputs()});
  };
  const ElectraGraph traced = trace_electra(config.model, micro_batch_shape(config), options);
  const Plan kept = make(traced);
  int64_t parameters = 0;
  for (const Value v : kept.parameters) parameters += traced.graph->value(v).spec.shape.size();
  for (auto _ : s) {
    const double begin = wall_seconds();
    benchmark::DoNotOptimize(make(trace_electra(config.model, micro_batch_shape(config), options)));
    s.SetIterationTime(wall_seconds() - begin);
  }
  s.SetLabel(kPresets[s.range(0)]);
  s.counters["calls"] = static_cast<double>(kept.calls.size());
  s.counters["parameters"] = static_cast<double>(parameters);
  s.counters["arena_bytes"] = static_cast<double>(kept.arena_bytes);
  s.counters["unplanned_bytes"] = static_cast<double>(kept.unplanned_bytes);
}

void register_all() {
  bench::add("op", {}, op);
  if (bench::device_kind() != DeviceKind::cpu) bench::add("graph", {}, graph);
  bench::add("step_eager", {}, step_eager);
  if (bench::device_kind() != DeviceKind::cpu) bench::add("step_recorded", {}, step_recorded);
  bench::apply(bench::add("plan", {"preset"}, plan), {{0}, {1}, {2}, {3}});
}

}  // namespace

int main(int argc, char** argv) { return bench::run(argc, argv, register_all); }
