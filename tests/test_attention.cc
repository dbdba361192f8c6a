// Attention over packed sequences.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <numeric>

#include "kernels/attention.h"
#include "kernels/core/error.h"
#include "kernels/core/gpu.h"
#include "kernels/dispatch.h"
#include "tests/on_device.h"
#include "tests/op_test.h"
#include "tests/traffic.h"

using namespace electra;
using namespace electra::test;

namespace {

struct Options {
  std::vector<int64_t> lengths;
  int64_t spare = 0;  // rows beyond the last offset
  int64_t heads = 2, head_dim = 8;
  double drop_p = 0.1, scale = 1;
};

std::vector<double> offsets_of(const std::vector<int64_t>& lengths) {
  std::vector<double> offsets{0};
  for (const int64_t n : lengths) offsets.push_back(offsets.back() + static_cast<double>(n));
  return offsets;
}

Dropout dropout_of(const Options& o) { return {.drop_p = o.drop_p, .site = fnv1a64("test/attention")}; }

// Extents for the unfused form.
struct Naive {
  int64_t rows, hidden, heads, dim, sequences;
  const int32_t* offsets;
  Dropout dropout;
  const StepState& state;
  float scale;
  Naive(const Arguments& a, const Options& o)
      : rows(a["qkv"].rows()), hidden(o.heads * o.head_dim), heads(o.heads), dim(o.head_dim),
        sequences(a["sequence_offsets"].size() - 1), offsets(a.data<int32_t>("sequence_offsets")), dropout(dropout_of(o)),
        state(*a.state), scale(1 / std::sqrt(static_cast<float>(dim))) {}

  float keep(int64_t s, int64_t h, int64_t i, int64_t j) const {
    if (!dropout.active()) return 1;
    const Bits128 bits =
        philox(state.seed ^ dropout.site, {state.step, state.first_sequence + static_cast<uint32_t>(s), static_cast<uint32_t>(i),
                                           static_cast<uint32_t>(h * 65536 + j / 8)});
    return draw16(bits, static_cast<int>(j % 8)) < dropout.keep_threshold() ? static_cast<float>(dropout.keep_scale()) : 0;
  }
  // Softmax of one query's scores: a product, a scaling, an exponential and a division, each rounded.
  float probabilities(const float* q, const float* k, int64_t n, std::vector<float>& p) const {
    float top = -INFINITY, total = 0;
    for (int64_t j = 0; j < n; ++j) {
      float dot = 0;
      for (int64_t d = 0; d < dim; ++d) dot += q[d] * k[j * 3 * hidden + d];
      p[static_cast<size_t>(j)] = dot * scale;
      top = std::max(top, p[static_cast<size_t>(j)]);
    }
    for (float& x : p) total += x = std::exp(x - top);
    for (float& x : p) x /= total;
    return top + std::log(total);
  }
  template <class Body> void for_queries(const Arguments& a, Body body) const {
    for (int64_t s = 0; s < sequences; ++s)
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t begin = offsets[s], n = offsets[s + 1] - begin;
        std::vector<float> p(static_cast<size_t>(n));
        for (int64_t i = 0; i < n; ++i) {
          const float* q = a.data<float>("qkv") + (begin + i) * 3 * hidden + h * dim;
          const float* k = a.data<float>("qkv") + begin * 3 * hidden + hidden + h * dim;
          const float lse = probabilities(q, k, n, p);
          body(s, h, begin, i, n, p, lse, q, k);
        }
      }
  }
};

void naive_forward(const Arguments& a, const Options& o) {
  const Naive f(a, o);
  std::fill_n(a.data<float>("context"), a["context"].size(), 0.0f);
  std::fill_n(a.data<float>("lse"), a["lse"].size(), 0.0f);
  f.for_queries(a, [&](int64_t s, int64_t h, int64_t begin, int64_t i, int64_t n, const std::vector<float>& p, float lse,
                       const float*, const float* k) {
    a.data<float>("lse")[h * f.rows + begin + i] = lse;
    for (int64_t j = 0; j < n; ++j)
      for (int64_t d = 0; d < f.dim; ++d)
        a.data<float>("context")[(begin + i) * f.hidden + h * f.dim + d] +=
            p[static_cast<size_t>(j)] * f.keep(s, h, i, j) * k[f.hidden + j * 3 * f.hidden + d];
  });
}

void naive_backward(const Arguments& a, const Options& o) {
  const Naive f(a, o);
  std::fill_n(a.data<float>("dqkv"), a["dqkv"].size(), 0.0f);
  f.for_queries(a, [&](int64_t s, int64_t h, int64_t begin, int64_t i, int64_t n, const std::vector<float>& p, float, const float* q,
                       const float* k) {
    const float* dout = a.data<float>("dcontext") + (begin + i) * f.hidden + h * f.dim;
    float* const dq = a.data<float>("dqkv") + (begin + i) * 3 * f.hidden + h * f.dim;
    float* const dk = a.data<float>("dqkv") + begin * 3 * f.hidden + f.hidden + h * f.dim;
    std::vector<float> dp(p.size());
    float delta = 0;
    for (int64_t j = 0; j < n; ++j) {
      const auto at = static_cast<size_t>(j);
      const float factor = f.keep(s, h, i, j);
      float dot = 0;
      for (int64_t d = 0; d < f.dim; ++d) {
        dot += dout[d] * k[f.hidden + j * 3 * f.hidden + d];
        dk[f.hidden + j * 3 * f.hidden + d] += p[at] * factor * dout[d];
      }
      dp[at] = dot * factor;
      delta += dp[at] * p[at];
    }
    for (int64_t j = 0; j < n; ++j) {
      const float ds = p[static_cast<size_t>(j)] * (dp[static_cast<size_t>(j)] - delta) * f.scale;
      for (int64_t d = 0; d < f.dim; ++d) {
        dq[d] += ds * k[j * 3 * f.hidden + d];
        dk[j * 3 * f.hidden + d] += ds * q[d];
      }
    }
  });
}

OpRecord attention_record(const Options& o) {
  const int64_t rows = std::accumulate(o.lengths.begin(), o.lengths.end(), o.spare), hidden = o.heads * o.head_dim;
  const int64_t longest = *std::max_element(o.lengths.begin(), o.lengths.end());
  OpRecord record{.name = "attention " + std::to_string(o.lengths.size()) + " sequences, longest " + std::to_string(longest)};
  if (o.head_dim == 64) record.device_dtypes = {DType::f32, DType::bf16};
  record.bf16_ulps = 2;  // besides the results' own rounding, that of P, dS and context before a product
  record.inputs = {{"qkv", {rows, 3 * hidden}, Random(static_cast<uint64_t>(rows)).normals(rows * 3 * hidden, o.scale)},
                   {"sequence_offsets", {static_cast<int64_t>(o.lengths.size()) + 1}, offsets_of(o.lengths), DType::i32}};
  record.results = {{"context", {rows, hidden}}, {.name = "lse", .shape = {o.heads, rows}, .cotangent = false, .statistic = true}};
  record.gradients = {{"qkv"}};
  record.workspace = [=](DType dtype, Backend backend) {
    return dispatch(backend, [&]<Backend B>() { return attention_workspace<B>(rows, o.heads, o.head_dim, longest, 4, dtype); });
  };
  record.forward = [=](const Arguments& a, Stream& stream) {
    dispatch(stream, [&]<Backend B>() {
      attention_forward<B>({.qkv = a["qkv"],
                            .sequence_offsets = a["sequence_offsets"],
                            .context = a["context"],
                            .lse = a["lse"],
                            .workspace = a["workspace"],
                            .num_heads = o.heads,
                            .max_seq_len = longest,
                            .dropout = dropout_of(o),
                            .state = a.state},
                           stream);
    });
  };
  record.backward = [=](const Arguments& a, Stream& stream) {
    dispatch(stream, [&]<Backend B>() {
      attention_backward<B>({.qkv = a["qkv"],
                             .sequence_offsets = a["sequence_offsets"],
                             .context = a["context"],
                             .lse = a["lse"],
                             .dcontext = a["dcontext"],
                             .dqkv = a["dqkv"],
                             .dqkv_mode = a.mode("dqkv"),
                             .workspace = a["workspace"],
                             .num_heads = o.heads,
                             .max_seq_len = longest,
                             .dropout = dropout_of(o),
                             .state = a.state},
                            stream);
    });
  };
  record.naive_forward = [=](const Arguments& a) { naive_forward(a, o); };
  record.naive_backward = [=](const Arguments& a) { naive_backward(a, o); };
  return record;
}

// Kernels as for a device of a lower compute capability, while it lives.
struct CapabilityLimit {
  explicit CapabilityLimit([[maybe_unused]] int most) {
    if constexpr (kHasCudaBackend) gpu::limit_compute_capability(most);
  }
  ~CapabilityLimit() {
    if constexpr (kHasCudaBackend) gpu::limit_compute_capability(gpu::kNoLimit);
  }
};
int capability() {
  if constexpr (kHasCudaBackend) return gpu::compute_capability();
  return 0;
}

std::vector<double> row(const std::vector<double>& values, int64_t cols, int64_t first, int64_t count) {
  return {values.begin() + first * cols, values.begin() + (first + count) * cols};
}

}  // namespace

TEST_CASE("attention: values and gradients of PyTorch") {
  for (const GoldenCase& golden : read_golden("attention")) {
    const std::vector<double> offsets = golden.values("sequence_offsets");
    Options o{.lengths = {}, .heads = static_cast<int64_t>(golden.attributes.at("num_heads")), .drop_p = golden.attributes.at("drop_p")};
    for (size_t s = 1; s < offsets.size(); ++s) o.lengths.push_back(static_cast<int64_t>(offsets[s] - offsets[s - 1]));
    o.spare = golden.shape("qkv")[0] - static_cast<int64_t>(offsets.back());
    o.head_dim = golden.shape("qkv")[1] / 3 / o.heads;
    OpRecord record = attention_record(o);
    record.inputs[0].values = golden.values("qkv");
    // The record's site is a name; the file's is a number.
    const Dropout dropout{.drop_p = o.drop_p, .site = static_cast<uint64_t>(golden.attributes.at("site"))};
    record.state.seed ^= dropout.site ^ dropout_of(o).site;
    check_golden(record, golden);
  }
}

TEST_CASE("attention: gradients, modes and determinism of small shapes") {
  check_op(attention_record({.lengths = {5, 1, 9}, .spare = 2, .heads = 2, .head_dim = 4}));
  check_op(attention_record({.lengths = {17, 0, 3}, .heads = 1, .head_dim = 5, .drop_p = 0.5}));
  check_op(attention_record({.lengths = {7, 8}, .spare = 1, .heads = 3, .head_dim = 8, .drop_p = 0}));
}

TEST_CASE("attention: the kernel at every edge of a vector, a call of draws and a tile") {
  for (const int64_t n : {1, 7, 8, 9, 15, 16, 17, 63, 64, 65, 127, 128, 129})
    check_kernel(attention_record({.lengths = {n}, .heads = 2, .head_dim = n % 2 ? 64 : 16}));
  check_kernel(attention_record({.lengths = {128, 1, 65, 40}, .spare = 22, .heads = 4, .head_dim = 64}));
  check_kernel(attention_record({.lengths = {33, 128}, .heads = 4, .head_dim = 64, .drop_p = 0}));
  check_kernel(attention_record({.lengths = {300}, .heads = 1, .head_dim = 24}));
  check_kernel(attention_record({.lengths = {511, 512, 1}, .heads = 2, .head_dim = 64}));
}

TEST_CASE("attention: the same bits with 1, 2 and 4 threads") {
  check_determinism(attention_record({.lengths = {64, 1, 100, 65, 128}, .spare = 7, .heads = 4, .head_dim = 64}));
}

TEST_CASE("attention: a gradient is accumulated in float too") {
  check_grad_modes(attention_record({.lengths = {64, 33}, .spare = 3, .heads = 2, .head_dim = 64}));
}

TEST_CASE("attention: a sequence does not see the others, nor its place in a micro-batch") {
  const Options both{.lengths = {23, 40}, .heads = 2, .head_dim = 16};
  Options second = both;
  second.lengths = {40};
  const OpRecord record = attention_record(both);
  OpRecord alone = attention_record(second);
  alone.inputs[0].values = row(record.inputs[0].values, 96, 23, 40);
  alone.state.first_sequence += 1;
  for (const DType dtype : {DType::f64, DType::f32}) {
    Run all(record, dtype), one(alone, dtype);
    one.set("dcontext", row(all.values("dcontext"), 32, 23, 40));
    all.forward();
    one.forward();
    all.backward();
    one.backward();
    CHECK(one.values("context") == row(all.values("context"), 32, 23, 40));
    CHECK(one.values("dqkv") == row(all.values("dqkv"), 96, 23, 40));
  }
}

TEST_CASE("attention: with one token the context is the value, and neither query nor key has a gradient") {
  const OpRecord record = attention_record({.lengths = {1, 1}, .heads = 2, .head_dim = 16, .drop_p = 0});
  for (const DType dtype : {DType::f64, DType::f32}) {
    Run run(record, dtype);
    run.forward();
    run.backward();
    for (int64_t r = 0; r < 2; ++r) {
      check_close("context", row(run.values("context"), 32, r, 1), row(run.values("qkv"), 32, 3 * r + 2, 1), 0);
      check_close("dq", row(run.values("dqkv"), 32, 3 * r, 1), std::vector<double>(32, 0), 1e-6);
      check_close("dk", row(run.values("dqkv"), 32, 3 * r + 1, 1), std::vector<double>(32, 0), 1e-6);
      check_close("dv", row(run.values("dqkv"), 32, 3 * r + 2, 1), row(run.values("dcontext"), 32, r, 1), 1e-6);
    }
  }
}

TEST_CASE("attention: equal keys give the mean of the values") {
  const int64_t n = 21;
  OpRecord record = attention_record({.lengths = {n}, .heads = 1, .head_dim = 16, .drop_p = 0});
  for (int64_t i = 0; i < n; ++i)
    for (int64_t d = 0; d < 32; ++d) record.inputs[0].values[static_cast<size_t>(i * 48 + d)] = 3;
  for (const DType dtype : {DType::f64, DType::f32}) {
    Run run(record, dtype);
    run.forward();
    const std::vector<double> qkv = run.values("qkv"), context = run.values("context");
    for (int64_t d = 0; d < 16; ++d) {
      double mean = 0;
      for (int64_t i = 0; i < n; ++i) mean += qkv[static_cast<size_t>(i * 48 + 32 + d)] / static_cast<double>(n);
      CHECK(context[static_cast<size_t>(5 * 16 + d)] == Approx(mean).margin(1e-6));
    }
    CHECK(run.values("lse")[3] == Approx(std::sqrt(16.0) * 9 + std::log(static_cast<double>(n))));
  }
}

TEST_CASE("attention: scores of 1e4 and more neither overflow nor make a NaN") {
  // Products of entries around 60 times 16 columns: scores up to about 2e4 in either direction, one key takes all.
  const OpRecord record = attention_record({.lengths = {40}, .heads = 1, .head_dim = 16, .scale = 60});
  check_kernel(record);
  Run run(record, DType::f32);
  run.forward();
  const std::vector<double> lse = run.values("lse");
  CHECK(*std::max_element(lse.begin(), lse.end()) > 1e4);
}

TEST_CASE("attention: dropout drops the fraction it says and keeps the expectation") {
  // One-hot values: context is the matrix of dropped-out probabilities, all 1/64 before.
  const int64_t n = 64;
  const Options o{.lengths = std::vector<int64_t>(20, n), .heads = 1, .head_dim = n, .drop_p = 0.1};
  OpRecord record = attention_record(o);
  std::fill(record.inputs[0].values.begin(), record.inputs[0].values.end(), 0);
  for (int64_t i = 0; i < 20 * n; ++i) record.inputs[0].values[static_cast<size_t>(i * 3 * n + 2 * n + i % n)] = 1;
  Run run(record, DType::f32);
  run.forward();
  const std::vector<double> context = run.values("context");
  double dropped = 0, sum = 0;
  for (const double p : context) {
    dropped += p == 0;
    sum += p;
  }
  const double count = static_cast<double>(context.size());  // 81,920: standard deviation of the fraction 0.001
  CHECK(dropped / count == Approx(0.1).margin(0.005));
  CHECK(sum / count == Approx(1.0 / 64).epsilon(0.006));
}

TEST_CASE("attention: bad input is named") {
  const Options o{.lengths = {5, 3}, .spare = 1, .heads = 2, .head_dim = 4};
  const OpRecord record = attention_record(o);
  const auto with = [&](const std::string& name, auto change) {
    Run run(record, DType::f32);
    change(run.arguments().tensors[name]);
    return error_of<Error>([&] { run.forward(1); });
  };
  const auto reshape = [](const Shape& shape) { return [=](Tensor& t) { t.shape = shape; }; };
  const auto retype = [](DType type) { return [=](Tensor& t) { t.dtype = type; }; };
  CHECK(with("qkv", reshape({9, 20})) == "[attention] qkv has shape (9, 20), expected columns divisible by 3 times 2 heads");
  CHECK(with("context", reshape({9, 7})) == "[attention] context has shape (9, 7), expected (9, 8)");
  CHECK(with("lse", reshape({9, 2})) == "[attention] lse has shape (9, 2), expected (2, 9)");
  CHECK(with("lse", retype(DType::f64)) == "[attention] lse has type f64, expected f32");
  CHECK(with("qkv", retype(DType::i32)).find("[attention] ") == 0);
  CHECK(with("sequence_offsets", retype(DType::i64)) == "[attention] sequence_offsets has type i64, expected i32");
  CHECK(with("workspace", reshape({8})).find("[attention] workspace has 8 bytes, expected at least ") == 0);

  Options headless = o;
  headless.heads = 0;
  OpRecord none = record;
  none.forward = attention_record(headless).forward;
  Run without(none, DType::f32);
  CHECK(error_of<ShapeError>([&] { without.forward(1); }) == "[attention] expected at least 1 head, got 0");

  const auto with_offsets = [&](const std::vector<double>& offsets) {
    Run run(record, DType::f32);
    run.set("sequence_offsets", offsets);
    return error_of<DataError>([&] { run.forward(1); });
  };
  CHECK(with_offsets({0, 2, 8}) == "[attention] sequence 1 has 6 tokens, expected 0 to 5");
  CHECK(with_offsets({0, 5, 10}) == "[attention] the last offset is 10, expected at most 9");
  CHECK(with_offsets({0, 5, 4}) == "[attention] expected ascending offsets, got 5 before 4");
  CHECK(with_offsets({1, 5, 8}) == "[attention] expected the first offset to be 0, got 1");

  Run run(record, DType::f32);
  run.forward(1);
  run.arguments().tensors["dqkv"].shape = {9, 8};
  CHECK(error_of<ShapeError>([&] { run.backward(1); }) == "[attention] dqkv has shape (9, 8), expected (9, 24)");
  run.arguments().tensors["dcontext"].shape = {9, 24};
  CHECK(error_of<ShapeError>([&] { run.backward(1); }) == "[attention] dcontext has shape (9, 24), expected (9, 8)");
  run.arguments().state = nullptr;
  CHECK(error_of<ConfigError>([&] { run.forward(1); }) == "[attention] expected a step state, got none");
}

// Lengths around the row groups of a product (8), a warp's rows (16), a step of the short kernels (32), a tile (64) and their limit.
TEST_CASE("attention: the CUDA kernels for sequences of at most 128 tokens", kOnDevice) {
  for (const double drop_p : {0.0, 0.1}) {
    check_device(attention_record({.lengths = {1, 2, 15, 16, 0, 17}, .spare = 3, .heads = 2, .head_dim = 64, .drop_p = drop_p}));
    check_device(attention_record({.lengths = {63, 64, 65}, .spare = 1, .heads = 1, .head_dim = 64, .drop_p = drop_p}));
    check_device(attention_record({.lengths = {100, 33, 127}, .heads = 1, .head_dim = 64, .drop_p = drop_p}));
  }
  check_device(attention_record({.lengths = {128, 31, 96}, .spare = 70, .heads = 3, .head_dim = 64}));
  check_device(attention_record({.lengths = {1}, .heads = 2, .head_dim = 64, .drop_p = 0}));
  check_device(attention_record({.lengths = {0, 0}, .spare = 5, .heads = 2, .head_dim = 64}));
}

// A tile has 64 rows, a block 128; 300 and 512 fill each of the two buffers several times.
TEST_CASE("attention: the CUDA kernels for longer sequences", kOnDevice) {
  const CapabilityLimit limit(80);
  check_device(attention_record({.lengths = {129, 1, 64, 0, 200}, .spare = 5, .heads = 2, .head_dim = 64}));
  check_device(attention_record({.lengths = {300, 17}, .heads = 1, .head_dim = 64, .drop_p = 0}));
  check_device(attention_record({.lengths = {512}, .heads = 1, .head_dim = 64}));
}

// The kernels for compute capability 9.x take over from 256 tokens. Their blocks hold 128 rows, in halves of 64, against tiles of 128 (forward) or 64.
TEST_CASE("attention: the Hopper kernels at every edge of a tile", kOnDevice) {
  const auto check = [](const Options& o) {
    OpRecord record = attention_record(o);
    record.device_dtypes = {DType::bf16};
    check_device(record);
  };
  check({.lengths = {256}, .heads = 1, .head_dim = 64});
  check({.lengths = {255, 0, 257, 1, 64}, .spare = 5, .heads = 2, .head_dim = 64});
  check({.lengths = {65, 300, 127, 128, 129}, .spare = 70, .heads = 1, .head_dim = 64, .drop_p = 0});
  check({.lengths = {511, 192}, .heads = 1, .head_dim = 64});
  check({.lengths = {512}, .heads = 1, .head_dim = 64, .drop_p = 0});
  check({.lengths = {513}, .spare = 1, .heads = 1, .head_dim = 64});
  check({.lengths = {1024}, .heads = 1, .head_dim = 64});
}

TEST_CASE("attention: the device's compute capability chooses the kernels, and both agree", kOnDevice) {
  OpRecord record = attention_record({.lengths = {300, 20}, .spare = 3, .heads = 2, .head_dim = 64});
  const auto run = [&] {
    Run run(record, DType::bf16, {}, Backend::cuda);
    run.forward();
    run.backward();
    return run;
  };
  const Run own = run();
  const bool is_hopper = capability() / 10 == 9;
  const CapabilityLimit limit(80);
  CHECK(capability() == 80);
  const Run limited = run();
  for (const std::string name : {"context", "dqkv"}) {
    const std::vector<double> expected = limited.values(name);
    double largest = 0;
    for (const double x : expected) largest = std::max(largest, std::abs(x));
    check_close(name, own.values(name), expected, largest * 0x1p-6);
    CHECK((own.bytes(name) == limited.bytes(name)) == !is_hopper);  // they add up in different orders
  }
}

// Tiles are cut at multiples of their height: the last one of a sequence holds rows of the next, or of nobody.
TEST_CASE("attention: what rows of others hold is not seen by the CUDA kernels", kOnDevice) {
  const int64_t n = 300, foreign = 90;
  for (const int most : {80, 90}) {
    const CapabilityLimit limit(most);
    const OpRecord record = attention_record({.lengths = {n, foreign - 30}, .spare = 30, .heads = 1, .head_dim = 64});
    const auto run = [&](double value) {
      Run run(record, DType::bf16, {}, Backend::cuda);
      for (const auto& [name, cols] : {std::pair<std::string, int64_t>{"qkv", 192}, {"dcontext", 64}}) {
        std::vector<double> values = run.values(name);
        std::fill(values.begin() + n * cols, values.end(), value);
        run.set(name, values);
      }
      run.forward();
      run.backward();
      return std::pair{row(run.values("context"), 64, 0, n), row(run.values("dqkv"), 192, 0, n)};
    };
    INFO("compute capability at most " << most);
    CHECK((run(1) == run(std::nan(""))));
  }
}

// Scores around ±3000 leave one key each; scores of −512 everywhere make exp(−lse) overflow where a padding row takes part. Backward computes P
// again from lse, whose own rounding is 3e-5 at 512 and 2e-4 at 3000; where P is nearly 1, dP − delta carries the rounding of a bf16 context.
TEST_CASE("attention: extreme scores in the CUDA kernels", kOnDevice) {
  for (const int64_t n : {40, 150, 260}) {
    const std::vector<DType> dtypes = n < 256 ? std::vector{DType::f32, DType::bf16} : std::vector{DType::bf16};
    OpRecord wide = attention_record({.lengths = {n}, .heads = 1, .head_dim = 64, .scale = 20});
    wide.device_dtypes = dtypes;
    wide.ulps = 4096;
    wide.bf16_ulps = 8;
    check_device(wide);
    OpRecord low = attention_record({.lengths = {n}, .heads = 1, .head_dim = 64});
    std::vector<double>& qkv = low.inputs[0].values;
    for (int64_t i = 0; i < n; ++i)
      for (int64_t d = 0; d < 64; ++d) {
        qkv[static_cast<size_t>(i * 192 + d)] = 8;
        qkv[static_cast<size_t>(i * 192 + 64 + d)] = -8 + 0.0625 * static_cast<double>((i + d) % 4);
      }
    low.ulps = 512;
    low.device_dtypes = dtypes;
    check_device(low);
  }
}

// Each probability dropped alone becomes visible through one-hot rows, 64 of them at a time, in 64 columns.
TEST_CASE("attention: the CUDA kernels drop what the CPU drops, in both directions", kOnDevice) {
  const int64_t before = 3;  // tokens of another sequence
  for (const int64_t n : {100, 200, 300})
    for (int64_t window = 0; window < n; window += 64) {
      const Options o{.lengths = {before, n}, .heads = n == 100 ? 2 : 1, .head_dim = 64};
      const int64_t hidden = 64 * o.heads, shown = std::min<int64_t>(64, n - window);
      OpRecord record = attention_record(o);
      if (n == 300) record.device_dtypes = {DType::bf16};
      std::vector<double>& qkv = record.inputs[0].values;
      std::vector<double> dcontext(static_cast<size_t>((before + n) * hidden), 0);
      const auto set_hot = [&](std::vector<double>& values, int64_t cols, int64_t column) {
        for (int64_t i = 0; i < shown; ++i)
          for (int64_t h = 0; h < o.heads; ++h) values[static_cast<size_t>((before + window + i) * cols + column + 64 * h + i)] = 1;
      };
      const auto run_on = [&](DType dtype, Backend backend) {
        Run run(record, dtype, {}, backend);
        run.set("dcontext", dcontext);
        run.forward(1);
        run.backward(1);
        return run;
      };
      // Which elements of `shown` columns of each head are dropped; `part` of dqkv, or context.
      const auto pattern = [&](const Run& run, const std::string& name, int64_t part, auto dropped) {
        const std::vector<double> values = run.values(name);
        const int64_t cols = name == "context" ? hidden : 3 * hidden;
        std::vector<bool> result;
        for (int64_t i = before; i < before + n; ++i)
          for (int64_t h = 0; h < o.heads; ++h)
            for (int64_t d = 0; d < shown; ++d) result.push_back(dropped(values[static_cast<size_t>(i * cols + part * hidden + 64 * h + d)]));
        return result;
      };
      const auto check = [&](const std::string& name, int64_t part, auto dropped) {
        const std::vector<bool> expected = pattern(run_on(DType::f32, Backend::cpu), name, part, dropped);
        const double share = static_cast<double>(std::count(expected.begin(), expected.end(), true)) / static_cast<double>(expected.size());
        CHECK(share == Approx(0.1).margin(0.03));
        for (const DType dtype : record.device_dtypes) {
          INFO(name << " part " << part << ", " << name_of(dtype) << ", length " << n << ", from " << window);
          CHECK(pattern(run_on(dtype, Backend::cuda), name, part, dropped) == expected);
        }
      };
      // Equal scores, one-hot values and cotangents: context and dV are P times the dropout factor.
      std::fill(qkv.begin(), qkv.end(), 0);
      set_hot(qkv, 3 * hidden, 2 * hidden);
      set_hot(dcontext, hidden, 0);
      check("context", 0, [](double x) { return x == 0; });
      check("dqkv", 2, [](double x) { return x == 0; });
      // Constant dP, one-hot queries and keys: dQ and dK are dS, which is negative where the probability is dropped.
      std::fill(qkv.begin(), qkv.end(), 0);
      std::fill(dcontext.begin(), dcontext.end(), 1);
      for (int64_t i = 0; i < before + n; ++i) std::fill_n(qkv.begin() + i * 3 * hidden + 2 * hidden, hidden, 0.25);
      set_hot(qkv, 3 * hidden, 0);
      set_hot(qkv, 3 * hidden, hidden);
      check("dqkv", 0, [](double x) { return x < 0; });
      check("dqkv", 1, [](double x) { return x < 0; });
    }
}

TEST_CASE("attention: bad input to the CUDA kernels is named", kOnDevice) {
  const auto error = [](const Options& o, auto change) {
    Run run(attention_record(o), DType::f32, {}, Backend::cuda);
    change(run.arguments());
    return error_of<Error>([&] {
      run.forward(1);
      run.backward(1);
    });
  };
  const Options o{.lengths = {5, 3}, .spare = 1, .heads = 2, .head_dim = 64};
  const auto reshape = [](const std::string& name, const Shape& shape) { return [=](Arguments& a) { a.tensors[name].shape = shape; }; };
  const auto retype = [](const std::string& name, DType type) { return [=](Arguments& a) { a.tensors[name].dtype = type; }; };
  CHECK(error({.lengths = {5}, .heads = 2, .head_dim = 8}, [](Arguments&) {}) == "[attention] head_dim is 8, expected 64 on this device");
  CHECK(error(o, reshape("qkv", {9, 380})) == "[attention] qkv has shape (9, 380), expected columns divisible by 3 times 2 heads");
  CHECK(error(o, reshape("context", {9, 64})) == "[attention] context has shape (9, 64), expected (9, 128)");
  CHECK(error(o, reshape("lse", {9, 2})) == "[attention] lse has shape (9, 2), expected (2, 9)");
  CHECK(error(o, reshape("dcontext", {9, 64})) == "[attention] dcontext has shape (9, 64), expected (9, 128)");
  CHECK(error(o, reshape("dqkv", {9, 128})) == "[attention] dqkv has shape (9, 128), expected (9, 384)");
  CHECK(error(o, reshape("workspace", {8})) == "[attention] workspace has 8 bytes, expected at least 72");
  CHECK(error(o, reshape("sequence_offsets", {0})) == "[attention] sequence_offsets is empty, expected at least one offset");
  CHECK(error(o, retype("lse", DType::bf16)) == "[attention] lse has type bf16, expected f32");
  CHECK(error(o, retype("sequence_offsets", DType::i64)) == "[attention] sequence_offsets has type i64, expected i32");
  CHECK(error(o, [](Arguments& a) { a.tensors["qkv"].dtype = a.tensors["context"].dtype = DType::f64; }) ==
        "[attention] expected f32 or bf16 on this device, got f64");
  CHECK(error(o, [](Arguments& a) { a.state = nullptr; }) == "[attention] expected a step state, got none");
}

// Operands are Q, K, V, O, dO and the gradients of a head, 128 bytes a token; they and lse and δ are to the byte what the tiles imply
// (docs/ops/attention.md). What is left is sequence offsets and state, read by the warps of each block.
TEST_CASE("attention on the device: traffic", traffic_tag()) {
  if constexpr (kGpuBuild == GpuBuild::SIMT) {
    struct Case {
      int64_t tokens;
      int capability;
      uint64_t forward, forward_rest;                // operands read, and bytes of the rest
      uint64_t backward, statistics, backward_rest;  // operands and times that lse or δ are read
      uint64_t delta;                                // times that it is written
    };
    for (const Case& c : {Case{128, 80, 3, 64, 5, 1, 320, 0}, Case{512, 80, 1 + 2 * 4, 208, 5 + 4 * 8, 1 + 2 * 8, 1552, 1},
                          Case{512, 90, 1 + 2 * 4, 160, 5 + 4 * 4, 1 + 2 * 4, 256, 1}}) {
      const CapabilityLimit limit(c.capability);
      const auto n = static_cast<uint64_t>(c.tokens), operand = 128 * n, statistic = 4 * n;
      Run run(attention_record({.lengths = {c.tokens}, .heads = 1, .head_dim = 64}), DType::bf16, {}, Backend::cuda);
      INFO(n << " tokens, compute capability " << c.capability);
      check_moved(moved([&] { run.forward(); }), c.forward * operand + c.forward_rest, operand + statistic);
      check_moved(moved([&] { run.backward(); }), c.backward * operand + c.statistics * statistic + c.backward_rest,
                  3 * operand + c.delta * statistic);
    }
  }
}

// Every length up to a block, alone in its tile and beside others.
TEST_CASE("attention on the device: a sweep of short sequences", kDeviceSweep) {
  for (int64_t n = 1; n <= 128; ++n)
    check_device(attention_record({.lengths = {n, 0, 129 - n}, .spare = n % 3, .heads = 1 + n % 3, .head_dim = 64, .drop_p = n % 2 ? 0.1 : 0}));
}

TEST_CASE("attention on the device: a sweep of long sequences, by the kernels of either compute capability", kDeviceSweep) {
  for (const int most : {80, 90}) {
    const CapabilityLimit limit(most);
    for (int64_t n = 129; n <= 640; n += 19)
      check_device(attention_record({.lengths = {n, n % 100}, .spare = n % 5, .heads = 1, .head_dim = 64, .drop_p = n % 2 ? 0.1 : 0}));
  }
}
