// AdamW and the gradient norm against the bytes they must move: AdamW 28 an element (reads p, g, m, v, writes p, m, v), the
// norm 4.
//   bench_optimizer [--benchmark_filter=…]   arguments: elements, threads
#include <benchmark/benchmark.h>

#include <vector>

#include "kernels/core/device.h"
#include "kernels/optimizer.h"

using namespace electra;

namespace {

struct Fixture {
  int64_t elements;
  ThreadPool pool;
  Stream stream{pool};
  StepState state{.learning_rate = 1e-4};
  std::vector<float> param, grad, m, v, loss{1.0f};
  std::vector<uint8_t> group_ids;
  ParameterGroup groups[2] = {{.weight_decay = 0.01f}, {}};
  GradNorm norm;
  Buffer workspace;

  explicit Fixture(const benchmark::State& s)
      : elements(s.range(0)),
        pool(static_cast<int>(s.range(1))),
        param(static_cast<size_t>(elements), 0.1f),
        grad(static_cast<size_t>(elements), 1e-3f),
        m(static_cast<size_t>(elements)),
        v(static_cast<size_t>(elements), 1e-6f),
        group_ids(static_cast<size_t>(elements / kGroupElements + 1)),
        workspace(grad_norm_workspace<Backend::cpu>(elements)) {
    for (size_t i = 0; i < group_ids.size(); ++i) group_ids[i] = i % 64 == 0;
  }
  Tensor tensor(std::vector<float>& x) const { return {x.data(), {elements}, DType::f32}; }
};

void report(benchmark::State& s, const Fixture& fixture, int bytes) {
  s.counters["bytes/s"] =
      benchmark::Counter(static_cast<double>(fixture.elements) * bytes, benchmark::Counter::kIsIterationInvariantRate);
}

void adamw(benchmark::State& s) {
  Fixture f(s);
  for (auto _ : s)
    electra::adamw<Backend::cpu>({.param = f.tensor(f.param),
                                  .grad = f.tensor(f.grad),
                                  .m = f.tensor(f.m),
                                  .v = f.tensor(f.v),
                                  .group_ids = f.group_ids.data(),
                                  .groups = f.groups,
                                  .grad_norm = &f.norm,
                                  .state = &f.state},
                                 f.stream);
  report(s, f, 28);
}

void grad_norm(benchmark::State& s) {
  Fixture f(s);
  for (auto _ : s)
    electra::grad_norm<Backend::cpu>(
        {.grad = f.tensor(f.grad),
         .loss = {f.loss.data(), {1}, DType::f32},
         .result = &f.norm,
         .workspace = {f.workspace.data(), {static_cast<int64_t>(f.workspace.bytes())}, DType::u8}},
        f.stream);
  report(s, f, 4);
}

// ELECTRA-Small's parameters, and what stays in the second-level cache.
void shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"elements", "threads"})->UseRealTime()->Unit(benchmark::kMillisecond);
  b->Args({14'200'000, 1})->Args({14'200'000, 2})->Args({32 * 1024, 1});
}

BENCHMARK(adamw)->Apply(shapes);
BENCHMARK(grad_norm)->Apply(shapes);

}  // namespace

BENCHMARK_MAIN();
