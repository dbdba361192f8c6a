// Matrix products and linear layers in fp32 at ELECTRA's shapes, FLOP/s of what they must compute: 2 m n k a product, three times
// that for a training step of a linear layer.
//   bench_gemm [--benchmark_filter=…]   with one thread the processor's time counts, so that a busy machine disturbs less
#include <benchmark/benchmark.h>

#include <vector>

#include "kernels/core/device.h"
#include "kernels/gemm.h"
#include "kernels/linear.h"

using namespace electra;

namespace {

class Matrix {
 public:
  Matrix(int64_t rows, int64_t cols) : shape_{rows, cols}, values_(static_cast<size_t>(rows * cols)) {
    for (size_t i = 0; i < values_.size(); ++i) values_[i] = static_cast<float>(i % 31) * 0.01f - 0.15f;
  }
  Tensor tensor() { return {values_.data(), shape_, DType::f32}; }
  Tensor vector() { return {values_.data(), {shape_.size()}, DType::f32}; }

 private:
  Shape shape_;
  std::vector<float> values_;
};

void report(benchmark::State& s, double flops) {
  s.counters["FLOP/s"] = benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
}
double product_flops(int64_t m, int64_t n, int64_t k) {
  return 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
}

// c (m, n) = a (m, k) bᵀ: forward products and the vocabulary's logits.
void gemm_a_bt(benchmark::State& s) {
  const int64_t m = s.range(0), n = s.range(1), k = s.range(2);
  ThreadPool pool(static_cast<int>(s.range(3)));
  Stream stream(pool);
  Matrix a(m, k), b(n, k), c(m, n);
  for (auto _ : s) gemm<Backend::cpu>({.a = a.tensor(), .b = b.tensor(), .c = c.tensor(), .transpose_b = true}, stream);
  report(s, product_flops(m, n, k));
}

struct Layer {
  ThreadPool pool;
  Stream stream{pool};
  int64_t rows, in, out;
  Matrix x, weight, bias, y, u, dy, dx, dweight, dbias;
  Buffer workspace;

  explicit Layer(const benchmark::State& s)
      : pool(static_cast<int>(s.range(3))), rows(s.range(0)), in(s.range(2)), out(s.range(1)), x(rows, in), weight(out, in),
        bias(out, 1), y(rows, out), u(rows, out), dy(rows, out), dx(rows, in), dweight(out, in), dbias(out, 1),
        workspace(linear_backward_workspace<Backend::cpu>(rows, in, out, Epilogue::bias_gelu, DType::f32)) {}
  Tensor workspace_tensor() { return {workspace.data(), {static_cast<int64_t>(workspace.bytes())}, DType::u8}; }
};

void linear_gelu_forward(benchmark::State& s) {
  Layer l(s);
  for (auto _ : s)
    linear_forward<Backend::cpu>({.x = l.x.tensor(), .weight = l.weight.tensor(), .bias = l.bias.vector(), .y = l.y.tensor(),
                                  .u = l.u.tensor(), .epilogue = Epilogue::bias_gelu},
                                 l.stream);
  report(s, product_flops(l.rows, l.in, l.out));
}

void backward(benchmark::State& s, Epilogue epilogue) {
  Layer l(s);
  for (auto _ : s)
    linear_backward<Backend::cpu>(
        {.x = l.x.tensor(), .weight = l.weight.tensor(), .dy = l.dy.tensor(),
         .u = epilogue == Epilogue::bias_gelu ? l.u.tensor() : Tensor{}, .dx = l.dx.tensor(), .dweight = l.dweight.tensor(),
         .dbias = l.dbias.vector(), .workspace = l.workspace_tensor(), .epilogue = epilogue},
        l.stream);
  report(s, 2 * product_flops(l.rows, l.in, l.out));
}
void linear_backward_bias(benchmark::State& s) { backward(s, Epilogue::bias); }
void linear_backward_gelu(benchmark::State& s) { backward(s, Epilogue::bias_gelu); }

// m, n, k, threads. ELECTRA-Small's discriminator and generator, Base's, and a chunk of the vocabulary.
void shapes(benchmark::internal::Benchmark* b, int threads) {
  b->ArgNames({"m", "n", "k", "threads"})->Unit(benchmark::kMillisecond);
  b->Args({2048, 768, 256, threads})->Args({2048, 256, 256, threads})->Args({2048, 1024, 256, threads});
  b->Args({2048, 256, 1024, threads})->Args({2048, 256, 128, threads})->Args({4096, 128, 128, threads});
  b->Args({4096, 768, 768, threads})->Args({320, 512, 128, threads})->Args({2048, 64, 64, threads});
}
void one_thread(benchmark::internal::Benchmark* b) { shapes(b, 1); }
void two_threads(benchmark::internal::Benchmark* b) {
  shapes(b, 2);
  b->UseRealTime();
}

BENCHMARK(gemm_a_bt)->Apply(one_thread);
BENCHMARK(gemm_a_bt)->Apply(two_threads);
BENCHMARK(linear_gelu_forward)->Apply(one_thread);
BENCHMARK(linear_gelu_forward)->Apply(two_threads);
BENCHMARK(linear_backward_bias)->Apply(one_thread);
BENCHMARK(linear_backward_bias)->Apply(two_threads);
BENCHMARK(linear_backward_gelu)->Apply(one_thread);
BENCHMARK(linear_backward_gelu)->Apply(two_threads);

}  // namespace

BENCHMARK_MAIN();
