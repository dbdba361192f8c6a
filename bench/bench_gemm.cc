// Matrix products and linear layers at ELECTRA's shapes against their FLOPs: 2 m n k a product, three times that for a training step of a
// linear layer; and the bytes that must move: every operand once. On a GPU and on the executor by each kind of product: the library
// (cuBLASLt on a GPU) and our own kernels, which are the rivals here.
//   bench_gemm [--benchmark_filter=…]   arguments: m, n, k, threads
#include <array>

#include "bench/bench.h"
#include "kernels/gemm.h"
#include "kernels/linear.h"

using namespace electra;

namespace {

double count(int64_t a, int64_t b) { return static_cast<double>(a) * static_cast<double>(b); }

// The three products of a linear layer of m rows, k in and n out: y = x Wᵀ, dx = dy W, dW = dyᵀ x.
enum class Product { y, dx, dweight };

void product(benchmark::State& s, Product which, GemmKind kind) {
  const int64_t rows = s.range(0), out = s.range(1), in = s.range(2);
  const Stream stream = bench::stream(static_cast<int>(s.range(3)));
  bench::Tensors make(stream);
  const DType dtype = bench::dtype(), wide = accumulate_type(dtype);
  const Tensor x = make.random({rows, in}, dtype), weight = make.random({out, in}, dtype), dy = make.random({rows, out}, dtype);
  const size_t scratch = dispatch(stream, [&]<Backend B>() { return gemm_workspace<B>(rows, out, in); });
  Gemm args{};
  args.workspace = make.workspace(scratch);
  switch (which) {
    case Product::y:
      args.a = x, args.b = weight, args.c = make.zeros({rows, out}, dtype), args.transpose_b = true;
      break;
    case Product::dx: args.a = dy, args.b = weight, args.c = make.zeros({rows, in}, dtype); break;
    case Product::dweight:
      args.a = dy, args.b = x, args.c = make.zeros({out, in}, wide), args.transpose_a = true;
      break;
  }
  set_gemm_kind(kind);
  Stream issue = stream;
  bench::measure(s, stream,
                 {.flops = 2 * count(rows, out) * static_cast<double>(in),
                  .bytes = static_cast<double>(args.a.bytes() + args.b.bytes() + args.c.bytes())},
                 [&] { dispatch(stream, [&]<Backend B>() { gemm<B>(args, issue); }); });
  set_gemm_kind(GemmKind::library);
}
template <Product P, GemmKind K> void product_of(benchmark::State& s) { product(s, P, K); }

struct Layer {
  int64_t rows, in, out;
  Stream stream;
  bench::Tensors make{stream};
  DType dtype = bench::dtype(), wide = accumulate_type(dtype);
  Tensor x, weight, bias, y, u, dy, dx, dweight, dbias, workspace;

  explicit Layer(const benchmark::State& s)
      : rows(s.range(0)),
        in(s.range(2)),
        out(s.range(1)),
        stream(bench::stream(static_cast<int>(s.range(3)))),
        x(make.random({rows, in}, dtype)),
        weight(make.random({out, in}, dtype)),
        bias(make.random({out}, dtype)),
        y(make.zeros({rows, out}, dtype)),
        u(make.random({rows, out}, dtype)),
        dy(make.random({rows, out}, dtype)),
        dx(make.zeros({rows, in}, dtype)),
        dweight(make.zeros({out, in}, wide)),
        dbias(make.zeros({out}, wide)),
        workspace(make.workspace(dispatch(
            stream, [&]<Backend B>() { return linear_backward_workspace<B>(rows, in, out, Epilogue::bias_gelu, dtype); }))) {}
  double flops() const { return 2 * count(rows, out) * static_cast<double>(in); }
};

void linear_forward_pass(benchmark::State& s, Epilogue epilogue, GemmKind kind) {
  Layer l(s);
  set_gemm_kind(kind);
  const bool gelu = epilogue == Epilogue::bias_gelu;
  const double bytes = static_cast<double>(l.x.bytes() + l.weight.bytes() + l.y.bytes() + (gelu ? l.u.bytes() : 0));
  bench::measure(s, l.stream, {.flops = l.flops(), .bytes = bytes}, [&] {
    dispatch(l.stream, [&]<Backend B>() {
      linear_forward<B>({.x = l.x, .weight = l.weight, .bias = l.bias, .y = l.y, .u = gelu ? l.u : Tensor{}, .epilogue = epilogue}, l.stream);
    });
  });
  set_gemm_kind(GemmKind::library);
}

void linear_backward_pass(benchmark::State& s, Epilogue epilogue, GemmKind kind) {
  Layer l(s);
  set_gemm_kind(kind);
  const bool gelu = epilogue == Epilogue::bias_gelu;
  const double bytes = static_cast<double>(l.x.bytes() + l.weight.bytes() + l.dy.bytes() + (gelu ? l.u.bytes() : 0) + l.dx.bytes() + l.dweight.bytes());
  bench::measure(s, l.stream, {.flops = 2 * l.flops(), .bytes = bytes}, [&] {
    dispatch(l.stream, [&]<Backend B>() {
      linear_backward<B>({.x = l.x, .weight = l.weight, .dy = l.dy, .u = gelu ? l.u : Tensor{}, .dx = l.dx, .dweight = l.dweight,
                          .dbias = l.dbias, .workspace = l.workspace, .epilogue = epilogue},
                         l.stream);
    });
  });
  set_gemm_kind(GemmKind::library);
}
template <Epilogue E, GemmKind K> void forward_of(benchmark::State& s) { linear_forward_pass(s, E, K); }
template <Epilogue E, GemmKind K> void backward_of(benchmark::State& s) { linear_backward_pass(s, E, K); }

bench::Arguments gpu_shapes() {
  bench::Arguments all;
  // QKV, attention's output and the two of the feed-forward of a layer of width c.
  const auto layer = [&](int64_t rows, int64_t c, int64_t intermediate) {
    all.insert(all.end(), {{rows, 3 * c, c, 1}, {rows, c, c, 1}, {rows, intermediate, c, 1}, {rows, c, intermediate, 1}});
  };
  layer(16384, 64, 256);      // Small's generator, 128 x 128
  layer(16384, 256, 1024);    // and discriminator
  layer(32768, 768, 3072);    // Base, 64 x 512
  layer(32768, 1024, 4096);   // Large
  all.push_back({16384, 256, 128, 1});  // Small's projection of the embeddings
  all.push_back({8192, 8192, 8192, 1}); // the ceiling's own shape
  return all;
}

template <GemmKind K> void register_kind(const std::string& prefix, const bench::Arguments& shapes) {
  const auto add = [&](const char* name, void (*function)(benchmark::State&)) {
    bench::apply(bench::add(prefix + name, {"m", "n", "k", "threads"}, function), shapes);
  };
  add("gemm_a_bt", product_of<Product::y, K>);
  if (bench::device_kind() != DeviceKind::cpu) {  // on the CPU they are measured within a layer
    add("gemm_a_b", product_of<Product::dx, K>);
    add("gemm_at_b", product_of<Product::dweight, K>);
    add("linear_forward", forward_of<Epilogue::bias, K>);
  }
  add("linear_gelu_forward", forward_of<Epilogue::bias_gelu, K>);
  add("linear_backward_bias", backward_of<Epilogue::bias, K>);
  add("linear_backward_gelu", backward_of<Epilogue::bias_gelu, K>);
}

void register_all() {
  // ELECTRA-Small's discriminator and generator, Base's, and a chunk of the vocabulary.
  bench::Arguments cpu;
  for (const int64_t threads : {1, 2})
    for (const auto& [m, n, k] : {std::array<int64_t, 3>{2048, 768, 256}, {2048, 256, 256}, {2048, 1024, 256}, {2048, 256, 1024}, {2048, 256, 128},
                                  {4096, 128, 128}, {4096, 768, 768}, {320, 512, 128}, {2048, 64, 64}})
      cpu.push_back({m, n, k, threads});
  const bench::Arguments shapes = bench::pick(cpu, gpu_shapes(), {{128, 64, 64, 1}});
  if (bench::device_kind() == DeviceKind::cpu) return register_kind<GemmKind::library>("", shapes);
  register_kind<GemmKind::library>("library/", shapes);
  register_kind<GemmKind::own>("own/", shapes);
}

}  // namespace

int main(int argc, char** argv) { return bench::run(argc, argv, register_all); }
