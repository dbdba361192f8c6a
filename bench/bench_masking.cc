// Masking, corruption and gathering against the bytes they must move (docs/ops/masking.md): masking 8 a token and 12 a slot, corruption 12
// and 12; gathering 2 elements and 8 bytes a slot, its backward 3 elements and 8 bytes a slot and an element of dx.
//   bench_masking [--benchmark_filter=…]   arguments: sequences, tokens of one, slots of one, width, threads
#include "bench/bench.h"
#include "kernels/masking.h"

using namespace electra;

namespace {

struct Fixture {
  int64_t sequences, length, predictions, cols, rows, slots;
  Stream stream;
  bench::Tensors make{stream};
  DType dtype = bench::dtype();
  DeviceValue<StepState> state{stream, StepState{.seed = 1}};
  Tensor ids, offsets, masked_ids, masked_rows, targets, weights, sampled, corrupted, labels, x, y;

  explicit Fixture(const benchmark::State& s)
      : sequences(s.range(0)),
        length(s.range(1)),
        predictions(s.range(2)),
        cols(s.range(3)),
        rows(sequences * length),
        slots(sequences * predictions),
        stream(bench::stream(static_cast<int>(s.range(4)))),
        ids(make.of(text(rows, length))),
        offsets(make.of(bench::equal_offsets(rows, length))),
        masked_ids(make.zeros({rows}, DType::i32)),
        masked_rows(make.zeros({slots}, DType::i32)),
        targets(make.zeros({slots}, DType::i32)),
        weights(make.zeros({slots}, DType::f32)),
        sampled(make.of(std::vector<int32_t>(static_cast<size_t>(slots), 2000))),
        corrupted(make.zeros({rows}, DType::i32)),
        labels(make.zeros({rows}, DType::f32)),
        x(make.random({rows, cols}, dtype)),
        y(make.random({slots, cols}, dtype)) {}
  static std::vector<int32_t> text(int64_t rows, int64_t length) {
    const SpecialIds special;
    std::vector<int32_t> ids;
    for (int64_t r = 0; r < rows; ++r)
      ids.push_back(r % length == 0 ? special.cls : r % length == length - 1 ? special.sep : static_cast<int32_t>(1000 + r % 997));
    return ids;
  }

  void mask(bool with_replacement) {
    dispatch(stream, [&]<Backend B>() {
      mask_tokens<B>({.ids = ids,
                      .sequence_offsets = offsets,
                      .masked_ids = masked_ids,
                      .masked_rows = masked_rows,
                      .masked_weights = weights,
                      .masked_targets = targets,
                      .special = {},
                      .max_predictions = predictions,
                      .with_replacement = with_replacement,
                      .state = state.data()},
                     stream);
    });
  }
  bench::Work work(double a_row, double a_slot) const {
    return {.bytes = a_row * static_cast<double>(rows) + a_slot * static_cast<double>(slots)};
  }
  double row_bytes() const { return static_cast<double>(cols) * static_cast<double>(size_of(dtype)); }
};

void mask(benchmark::State& s, bool with_replacement) {
  Fixture f(s);
  bench::measure(s, f.stream, f.work(8, 12), [&] { f.mask(with_replacement); });
}
void mask_without_replacement(benchmark::State& s) { mask(s, false); }
void mask_with_replacement(benchmark::State& s) { mask(s, true); }

void corrupt(benchmark::State& s) {
  Fixture f(s);
  f.mask(false);
  bench::measure(s, f.stream, f.work(12, 12), [&] {
    dispatch(f.stream, [&]<Backend B>() {
      corrupt_tokens<B>({.ids = f.ids,
                         .masked_rows = f.masked_rows,
                         .masked_weights = f.weights,
                         .sampled_ids = f.sampled,
                         .out_ids = f.corrupted,
                         .labels = f.labels},
                        f.stream);
    });
  });
}

void gather(benchmark::State& s) {
  Fixture f(s);
  f.mask(false);
  bench::measure(s, f.stream, f.work(0, 2 * f.row_bytes() + 8), [&] {
    dispatch(f.stream, [&]<Backend B>() { gather_rows<B>({.x = f.x, .rows = f.masked_rows, .weights = f.weights, .y = f.y}, f.stream); });
  });
}

void gather_backward(benchmark::State& s) {
  Fixture f(s);
  f.mask(false);
  bench::measure(s, f.stream, f.work(f.row_bytes(), 3 * f.row_bytes() + 8), [&] {
    dispatch(f.stream, [&]<Backend B>() {
      gather_rows_backward<B>({.rows = f.masked_rows, .weights = f.weights, .dy = f.y, .dx = f.x}, f.stream);
    });
  });
}

void register_all() {
  // ELECTRA-Small at 16 x 128 (generator width 64), electra-tiny at 64 x 64, ELECTRA-Base at 8 x 512; on a GPU Small at 128 x 128 and Base
  // at 64 x 512.
  const bench::Arguments& shapes = bench::pick({{16, 128, 19, 64, 1}, {64, 64, 10, 64, 1}, {8, 512, 77, 256, 1}, {16, 128, 19, 64, 2}},
                                               {{128, 128, 19, 64, 1}, {64, 512, 77, 256, 1}}, {{4, 64, 10, 64, 1}});
  const std::vector<std::string> names = {"sequences", "tokens", "slots", "cols", "threads"};
  bench::apply(bench::add("mask_without_replacement", names, mask_without_replacement), shapes);
  bench::apply(bench::add("mask_with_replacement", names, mask_with_replacement), shapes);
  bench::apply(bench::add("corrupt", names, corrupt), shapes);
  bench::apply(bench::add("gather", names, gather), shapes);
  bench::apply(bench::add("gather_backward", names, gather_backward), shapes);
}

}  // namespace

int main(int argc, char** argv) { return bench::run(argc, argv, register_all); }
