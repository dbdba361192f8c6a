// Attention against its FLOPs and the bytes it must move: forward 4 T² D a head and sequence, backward 10 T² D (scores again, dP, dQ, dK,
// dV); bytes a row: forward 4 C elements, backward 8 C, C = heads · D. On a GPU also cuDNN's fused attention at the same shapes.
//   bench_attention [--benchmark_filter=…]   arguments: tokens of the batch, of a sequence, heads, dropout in percent, threads
#include "bench/bench.h"
#include "bench/cudnn_attention.h"
#include "kernels/attention.h"
#include "kernels/core/error.h"

using namespace electra;

namespace {

constexpr int64_t kHeadDim = 64;

struct Fixture {
  int64_t tokens, length, heads, hidden;
  Stream stream;
  bench::Tensors make{stream};
  DeviceValue<StepState> state{stream};
  Dropout dropout;
  DType dtype = bench::dtype();
  Tensor qkv, offsets, context, lse, dcontext, dqkv, workspace;

  explicit Fixture(const benchmark::State& s)
      : tokens(s.range(0)),
        length(s.range(1)),
        heads(s.range(2)),
        hidden(heads * kHeadDim),
        stream(bench::stream(static_cast<int>(s.range(4)))),
        dropout{.drop_p = static_cast<double>(s.range(3)) / 100, .site = 1},
        qkv(make.random({rows(), 3 * hidden}, dtype, 2)),
        offsets(make.of(bench::equal_offsets(tokens, length))),
        context(make.zeros({rows(), hidden}, dtype)),
        lse(make.zeros({heads, rows()}, accumulate_type(dtype))),
        dcontext(make.random({rows(), hidden}, dtype)),
        dqkv(make.zeros({rows(), 3 * hidden}, dtype)),
        workspace(make.workspace(dispatch(stream, [&]<Backend B>() {
          return attention_workspace<B>(rows(), heads, kHeadDim, length, stream.pool().threads(), dtype);
        }))) {}
  int64_t rows() const { return tokens / length * length; }

  void forward() {
    dispatch(stream, [&]<Backend B>() {
      attention_forward<B>({.qkv = qkv,
                            .sequence_offsets = offsets,
                            .context = context,
                            .lse = lse,
                            .workspace = workspace,
                            .num_heads = heads,
                            .max_seq_len = length,
                            .dropout = dropout,
                            .state = state.data()},
                           stream);
    });
  }
  void backward() {
    dispatch(stream, [&]<Backend B>() {
      attention_backward<B>({.qkv = qkv,
                             .sequence_offsets = offsets,
                             .context = context,
                             .lse = lse,
                             .dcontext = dcontext,
                             .dqkv = dqkv,
                             .workspace = workspace,
                             .num_heads = heads,
                             .max_seq_len = length,
                             .dropout = dropout,
                             .state = state.data()},
                            stream);
    });
  }
  // `products` products of (T, T, D); `operands` matrices of (rows, C).
  bench::Work work(int products, int operands) const {
    const double n = static_cast<double>(rows());
    return {.flops = 2.0 * products * n * static_cast<double>(length) * static_cast<double>(hidden),
            .bytes = n * (operands * static_cast<double>(hidden) * static_cast<double>(size_of(dtype)) +
                          static_cast<double>(heads) * static_cast<double>(size_of(lse.dtype)))};
  }
};

void forward(benchmark::State& s) {
  Fixture f(s);
  bench::measure(s, f.stream, f.work(2, 4), [&] { f.forward(); });
}

void backward(benchmark::State& s) {
  Fixture f(s);
  f.forward();
  bench::measure(s, f.stream, f.work(5, 8), [&] { f.backward(); });
}

void cudnn(benchmark::State& s, bool backward) {
  Fixture f(s);
  try {
    bench::CudnnAttention rival({.qkv = f.qkv, .context = f.context, .lse = f.lse, .dcontext = f.dcontext, .dqkv = f.dqkv, .length = f.length,
                                 .heads = f.heads, .drop_p = f.dropout.drop_p},
                                f.stream);
    rival.forward();
    bench::measure(s, f.stream, backward ? f.work(5, 8) : f.work(2, 4), [&] { backward ? rival.backward() : rival.forward(); });
  } catch (const DeviceError& error) { s.SkipWithError(error.what()); }
}
void cudnn_forward(benchmark::State& s) { cudnn(s, false); }
void cudnn_backward(benchmark::State& s) { cudnn(s, true); }

void register_all() {
  bench::Arguments cpu, gpu;
  for (const int64_t length : {16, 50, 64, 128, 512})
    for (const int64_t drop : {0, 10}) cpu.push_back({2048, length, 4, drop, 1});
  cpu.push_back({2048, 128, 4, 10, 2});
  // The generator and discriminator of Small at 128 x 128, those of Base and Large at 64 sequences of 512, and lengths between.
  for (const int64_t drop : {0, 10}) {
    gpu.insert(gpu.end(), {{16384, 128, 1, drop, 1}, {16384, 128, 4, drop, 1}, {32768, 128, 12, drop, 1}, {32768, 256, 12, drop, 1}});
    gpu.insert(gpu.end(), {{32768, 512, 4, drop, 1}, {32768, 512, 12, drop, 1}, {32768, 512, 16, drop, 1}, {32768, 1024, 12, drop, 1}});
  }
  const bench::Arguments& shapes = bench::pick(cpu, gpu, {{64, 32, 1, 10, 1}, {160, 160, 1, 10, 1}});
  const std::vector<std::string> names = {"tokens", "length", "heads", "dropout", "threads"};
  bench::apply(bench::add("forward", names, forward), shapes);
  bench::apply(bench::add("backward", names, backward), shapes);
  if (!bench::on_gpu() || bench::dtype() != DType::bf16) return;
  bench::apply(bench::add("cudnn_forward", names, cudnn_forward), shapes);
  bench::apply(bench::add("cudnn_backward", names, cudnn_backward), shapes);
}

}  // namespace

int main(int argc, char** argv) { return bench::run(argc, argv, register_all); }
