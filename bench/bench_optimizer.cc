// AdamW and the gradient norm against the bytes they must move: AdamW 28 an element (reads p, g, m, v, writes p, m, v) and 2 more for the
// bf16 copy on a GPU, the norm 4. Everything is fp32 whatever --dtype says.
//   bench_optimizer [--benchmark_filter=…]   arguments: elements, threads
#include <array>

#include "bench/bench.h"
#include "kernels/optimizer.h"

using namespace electra;

namespace {

struct Fixture {
  int64_t elements;
  Stream stream;
  bench::Tensors make{stream};
  bool has_copy = stream.backend() == Backend::cuda;
  DeviceValue<StepState> state{stream, StepState{.learning_rate = 1e-4}};
  DeviceValue<GradNorm> norm{stream};
  DeviceValue<std::array<ParameterGroup, 2>> groups{stream, {ParameterGroup{.weight_decay = 0.01f}, ParameterGroup{}}};
  Tensor param, grad, m, v, copy, group_ids, loss, workspace;

  explicit Fixture(const benchmark::State& s)
      : elements(s.range(0)),
        stream(bench::stream(static_cast<int>(s.range(1)))),
        param(make.random({elements}, DType::f32, 0.1)),
        grad(make.random({elements}, DType::f32, 1e-3)),
        m(make.random({elements}, DType::f32, 1e-3)),
        v(make.zeros({elements}, DType::f32)),
        copy(has_copy ? make.zeros({elements}, DType::bf16) : Tensor{}),
        group_ids(make.of(ids(elements))),
        loss(make.of(std::vector<float>{1})),
        workspace(make.workspace(dispatch(stream, [&]<Backend B>() { return grad_norm_workspace<B>(elements); }))) {}
  static std::vector<uint8_t> ids(int64_t elements) {
    std::vector<uint8_t> values(static_cast<size_t>(elements / kGroupElements + 1));
    for (size_t i = 0; i < values.size(); ++i) values[i] = i % 64 == 0;
    return values;
  }
};

void adamw(benchmark::State& s) {
  Fixture f(s);
  bench::measure(s, f.stream, {.bytes = static_cast<double>(f.elements) * (f.has_copy ? 30 : 28)}, [&] {
    dispatch(f.stream, [&]<Backend B>() {
      electra::adamw<B>({.param = f.param,
                         .grad = f.grad,
                         .m = f.m,
                         .v = f.v,
                         .copy = f.copy,
                         .group_ids = f.group_ids.as<uint8_t>(),
                         .groups = f.groups.data()->data(),
                         .grad_norm = f.norm.data(),
                         .state = f.state.data()},
                        f.stream);
    });
  });
}

void grad_norm(benchmark::State& s) {
  Fixture f(s);
  bench::measure(s, f.stream, {.bytes = static_cast<double>(f.elements) * 4}, [&] {
    dispatch(f.stream, [&]<Backend B>() {
      electra::grad_norm<B>({.grad = f.grad, .loss = f.loss, .result = f.norm.data(), .workspace = f.workspace}, f.stream);
    });
  });
}

void register_all() {
  // The parameters of ELECTRA-Small, and what stays in the second-level cache; on a GPU those of Small, Base and Large.
  const bench::Arguments& sizes =
      bench::pick({{14'200'000, 1}, {14'200'000, 2}, {32 * 1024, 1}}, {{14'200'064, 1}, {119'400'192, 1}, {354'400'256, 1}}, {{4096, 1}});
  bench::apply(bench::add("adamw", {"elements", "threads"}, adamw), sizes);
  bench::apply(bench::add("grad_norm", {"elements", "threads"}, grad_norm), sizes);
}

}  // namespace

int main(int argc, char** argv) { return bench::run(argc, argv, register_all); }
