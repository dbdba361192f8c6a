// Word, position and segment embeddings, LayerNorm, dropout.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>

#include "kernels/core/error.h"
#include "kernels/dispatch.h"
#include "kernels/embedding.h"
#include "tests/op_test.h"
#include "tests/traffic.h"
#include "tests/row_dropout.h"

using namespace electra;
using namespace electra::test;

namespace {

struct Options {
  int64_t capacity = 8, vocab = 11, positions = 6, segments = 2, cols = 16;
  std::vector<double> offsets = {0, 3, 8};
  double drop_p = 0;
};

struct Place {
  int64_t position = 0;  // 0 beyond the last offset
  bool used = false;
};
Place place_of(const Options& o, int64_t row) {
  for (size_t s = 0; s + 1 < o.offsets.size(); ++s)
    if (row >= static_cast<int64_t>(o.offsets[s]) && row < static_cast<int64_t>(o.offsets[s + 1]))
      return {row - static_cast<int64_t>(o.offsets[s]), true};
  return {};
}

std::vector<float> naive_sum(const Arguments& a, const Options& o, int64_t row) {
  const float* w = a.data<float>("word") + a.data<int32_t>("ids")[row] * o.cols;
  const float* p = a.data<float>("position") + place_of(o, row).position * o.cols;
  const float* s = a.data<float>("segment") + a.data<int32_t>("segments")[row] * o.cols;
  std::vector<float> sum(static_cast<size_t>(o.cols));
  for (size_t c = 0; c < sum.size(); ++c) sum[c] = w[c] + p[c] + s[c];
  return sum;
}

void naive_forward(const Arguments& a, const Options& o, const Dropout& dropout) {
  const auto width = static_cast<float>(o.cols);
  for (int64_t r = 0; r < o.capacity; ++r) {
    const std::vector<float> sum = naive_sum(a, o, r);
    float mean = 0, variance = 0;
    for (const float v : sum) mean += v;
    mean /= width;
    for (const float v : sum) variance += (v - mean) * (v - mean);
    const float rstd = 1 / std::sqrt(variance / width + 1e-12f);
    a.data<float>("mean")[r] = mean;
    a.data<float>("rstd")[r] = rstd;
    for (int64_t c = 0; c < o.cols; ++c)
      a.data<float>("y")[r * o.cols + c] =
          ((sum[static_cast<size_t>(c)] - mean) * rstd * a.data<float>("gamma")[c] + a.data<float>("beta")[c]) *
          static_cast<float>(row_keep_factor(dropout, *a.state, o.offsets, r, c));
  }
}

void naive_backward(const Arguments& a, const Options& o, const Dropout& dropout) {
  for (const char* name : {"dword", "dposition", "dsegment", "dgamma", "dbeta"})
    std::fill_n(a.data<float>(name), a[name].size(), 0.0f);
  for (int64_t r = 0; r < o.capacity; ++r) {
    const Place place = place_of(o, r);
    if (!place.used) continue;
    const std::vector<float> sum = naive_sum(a, o, r);
    const float mean = a.data<float>("mean")[r], rstd = a.data<float>("rstd")[r];
    std::vector<float> dn(sum.size()), xhat(sum.size());
    float average = 0, average_xhat = 0;
    for (int64_t c = 0; c < o.cols; ++c) {
      const auto i = static_cast<size_t>(c);
      const float g = a.data<float>("dy")[r * o.cols + c] * static_cast<float>(row_keep_factor(dropout, *a.state, o.offsets, r, c));
      xhat[i] = (sum[i] - mean) * rstd;
      dn[i] = g * a.data<float>("gamma")[c];
      average += dn[i];
      average_xhat += dn[i] * xhat[i];
      a.data<float>("dgamma")[c] += g * xhat[i];
      a.data<float>("dbeta")[c] += g;
    }
    average /= static_cast<float>(o.cols);
    average_xhat /= static_cast<float>(o.cols);
    for (int64_t c = 0; c < o.cols; ++c) {
      const auto i = static_cast<size_t>(c);
      const float d = rstd * (dn[i] - average - xhat[i] * average_xhat);
      a.data<float>("dword")[a.data<int32_t>("ids")[r] * o.cols + c] += d;
      a.data<float>("dposition")[place.position * o.cols + c] += d;
      a.data<float>("dsegment")[a.data<int32_t>("segments")[r] * o.cols + c] += d;
    }
  }
}

OpRecord record_of(const Options& o) {
  const Dropout dropout{.drop_p = o.drop_p, .site = fnv1a64("test/embedding")};
  OpRecord record{.name = "embedding (" + std::to_string(o.capacity) + ", " + std::to_string(o.cols) + ") of " +
                          std::to_string(o.vocab) + (o.drop_p > 0 ? " + dropout" : "")};
  record.inputs = {{"ids", {o.capacity}, Random(1).integers(o.capacity, o.vocab), DType::i32},
                   {"segments", {o.capacity}, Random(2).integers(o.capacity, o.segments), DType::i32},
                   {"sequence_offsets", {static_cast<int64_t>(o.offsets.size())}, o.offsets, DType::i32},
                   {"word", {o.vocab, o.cols}, Random(3).normals(o.vocab * o.cols)},
                   {"position", {o.positions, o.cols}, Random(4).normals(o.positions * o.cols)},
                   {"segment", {o.segments, o.cols}, Random(5).normals(o.segments * o.cols)},
                   {"gamma", {o.cols}, Random(6).normals(o.cols, 0.5, 1)},
                   {"beta", {o.cols}, Random(7).normals(o.cols)}};
  record.results = {{"y", {o.capacity, o.cols}},
                    {.name = "mean", .shape = {o.capacity}, .cotangent = false, .statistic = true},
                    {.name = "rstd", .shape = {o.capacity}, .cotangent = false, .statistic = true}};
  record.device_dtypes = {DType::f32, DType::bf16};
  // Nothing comes back from rows beyond the last offset.
  std::vector<double> dy = Random(8).normals(o.capacity * o.cols);
  std::fill(dy.begin() + static_cast<int64_t>(o.offsets.back()) * o.cols, dy.end(), 0.0);
  record.results[0].cotangent_values = dy;
  for (const char* parameter : {"word", "position", "segment", "gamma", "beta"}) record.gradients.push_back({.of = parameter, .parameter = true});
  record.workspace = [o](DType dtype, Backend backend) {
    return dispatch(backend, [&]<Backend B>() { return embedding_backward_workspace<B>(o.capacity, o.vocab, o.cols, dtype); });
  };
  record.forward = [dropout](const Arguments& a, Stream& stream) {
    dispatch(stream, [&]<Backend B>() {
      embedding_forward<B>(
          {.ids = a["ids"], .segments = a["segments"], .sequence_offsets = a["sequence_offsets"], .word = a["word"],
           .position = a["position"], .segment = a["segment"], .gamma = a["gamma"], .beta = a["beta"], .y = a["y"],
           .mean = a["mean"], .rstd = a["rstd"], .dropout = dropout, .state = a.state},
          stream);
    });
  };
  record.backward = [dropout](const Arguments& a, Stream& stream) {
    dispatch(stream, [&]<Backend B>() {
      embedding_backward<B>(
          {.ids = a["ids"], .segments = a["segments"], .sequence_offsets = a["sequence_offsets"], .word = a["word"],
           .position = a["position"], .segment = a["segment"], .gamma = a["gamma"], .mean = a["mean"], .rstd = a["rstd"],
           .dy = a["dy"], .dword = a["dword"], .dposition = a["dposition"], .dsegment = a["dsegment"], .dgamma = a["dgamma"],
           .dbeta = a["dbeta"], .dword_mode = a.mode("dword"), .dposition_mode = a.mode("dposition"),
           .dsegment_mode = a.mode("dsegment"), .dgamma_mode = a.mode("dgamma"), .dbeta_mode = a.mode("dbeta"),
           .workspace = a["workspace"], .dropout = dropout, .state = a.state},
          stream);
    });
  };
  record.naive_forward = [o, dropout](const Arguments& a) { naive_forward(a, o, dropout); };
  record.naive_backward = [o, dropout](const Arguments& a) { naive_backward(a, o, dropout); };
  return record;
}

}  // namespace

TEST_CASE("embedding agrees with PyTorch") {
  for (const GoldenCase& golden : read_golden("embedding")) {
    OpRecord record = record_of({.capacity = golden.shape("ids")[0], .vocab = golden.shape("word")[0],
                                 .positions = golden.shape("position")[0], .segments = golden.shape("segment")[0],
                                 .cols = golden.shape("word")[1], .offsets = golden.values("sequence_offsets"),
                                 .drop_p = golden.attributes.at("drop_p")});
    record.state = {.seed = 20200323, .step = 11, .first_sequence = 5};
    for (Input& input : record.inputs) input.values = golden.values(input.name);
    check_golden(record, golden);
  }
}

TEST_CASE("embedding: gradients, kernel, modes, determinism") {
  for (const double drop_p : {0.0, 0.2}) {
    check_op(record_of({.drop_p = drop_p}));
    // Empty sequences, unused capacity, more segments than BERT's.
    check_op(record_of({.capacity = 13, .segments = 3, .cols = 33, .offsets = {0, 0, 4, 4, 9}, .drop_p = drop_p}));
  }
  for (const int64_t cols : {3, 15, 17, 31, 129}) check_op(record_of({.cols = cols, .drop_p = 0.1}));
}

TEST_CASE("embedding: sizes of ELECTRA") {
  std::vector<double> offsets;
  for (int i = 0; i <= 3; ++i) offsets.push_back(64 * i);
  const OpRecord record = record_of({.capacity = 200, .vocab = 700, .positions = 128, .cols = 128, .offsets = offsets, .drop_p = 0.1});
  check_kernel(record);
  check_determinism(record);
  check_device(record);
  for (const int64_t cols : {256, 768, 1024}) {
    check_kernel(record_of({.capacity = 70, .vocab = 40, .positions = 64, .cols = cols, .offsets = {0, 64, 66}, .drop_p = 0.1}));
    check_device(record_of({.capacity = 20, .vocab = 9, .positions = 12, .cols = cols, .offsets = {0, 12, 18}, .drop_p = 0.1}));
  }
}

std::vector<double> offsets_of(int64_t sequences, int64_t length) {
  std::vector<double> offsets;
  for (int64_t i = 0; i <= sequences; ++i) offsets.push_back(static_cast<double>(i * length));
  return offsets;
}

// The device's kernels have a layout for each range of widths; tables are added up in tiles of 128 columns.
TEST_CASE("embedding: widths where the device's layouts change") {
  for (const int64_t cols : {4, 64, 72, 132, 260, 512, 1032}) {
    const OpRecord record = record_of({.capacity = 9, .cols = cols, .offsets = {0, 3, 8}, .drop_p = 0.1});
    check_kernel(record);
    check_device(record);
  }
}

// Three digits of the sort, and five blocks of it; rows of one token over many warps, and over more parts than a warp looks at
// at once; more positions than blocks.
TEST_CASE("embedding: many rows, a large vocabulary and frequent tokens") {
  OpRecord record = record_of({.capacity = 2560, .vocab = 66000, .positions = 300, .cols = 8, .offsets = offsets_of(10, 251), .drop_p = 0.1});
  std::vector<double>& ids = record.inputs[0].values;
  Random random(9);
  for (double& id : ids)
    if (random.uniform() < 0.55) id = 65537;
    else if (random.uniform() < 0.2) id = 258;
  ids[0] = 65999;
  ids[1] = 0;
  check_kernel(record);
  check_device(record);
}

// More rows than the sort's blocks take with the fewest rows a warp, and than backward's blocks take at a time, seven times over.
TEST_CASE("embedding: a batch of 33,000 rows") {
  const OpRecord record = record_of({.capacity = 33000, .vocab = 300, .positions = 512, .cols = 3, .offsets = offsets_of(65, 507)});
  Run exact(record, DType::f64);
  exact.forward();
  exact.backward();
  for (const Execution& e : executions(record)) {
    if (e.dtype != DType::f32) continue;
    Run run(record, e.dtype, {}, e.backend);
    run.forward();
    run.backward();
    run.check_memory(true);
    // A hundred thousand numbers of magnitude one, added in fp32 in parts of at most a few hundred.
    for (const char* name : {"dword", "dposition", "dsegment", "dgamma", "dbeta"}) {
      const std::vector<double> expected = exact.values(name);
      double most = 0;
      for (const double g : expected) most = std::max(most, std::abs(g));
      CHECK(most > 0);
      check_close(name + (", " + name_of(e)), run.values(name), expected, 3e-5 * most);
    }
  }
}

// One id in every row: the longest sum that the table's gradient can have.
TEST_CASE("embedding: a single id") {
  OpRecord record = record_of({.capacity = 150, .positions = 150, .cols = 20, .offsets = {0, 150}});
  record.inputs[0].values.assign(150, 7);
  check_kernel(record);
  check_determinism(record);
  check_device(record);
}

TEST_CASE("embedding: a constant row gives beta exactly") {
  for (const int64_t cols : {40, 128, 768})
    for (const Execution& e : executions(record_of({}))) {
      OpRecord record = record_of({.cols = cols});
      for (const char* table : {"word", "position", "segment"})
        for (Input& input : record.inputs)
          if (input.name == table) input.values.assign(input.values.size(), 3.3);
      Run run(record, e.dtype, {}, e.backend);
      run.forward();
      run.backward();
      run.check_memory(true);
      INFO(cols << " columns in " << name_of(e));
      const std::vector<double> y = run.values("y"), beta = run.values("beta");
      for (int64_t r = 0; r < 8; ++r) CHECK(std::equal(beta.begin(), beta.end(), y.begin() + r * cols));
      for (const double d : run.values("dword")) REQUIRE(std::isfinite(d));
    }
}

TEST_CASE("embedding: rows of the tables that no token mentions get exactly zero") {
  OpRecord record = record_of({.vocab = 600, .positions = 9});
  for (const Execution& e : executions(record)) {
    Run run(record, e.dtype, {}, e.backend);
    run.forward();
    run.backward();
    const std::vector<double> ids = run.values("ids"), dword = run.values("dword"), dposition = run.values("dposition");
    for (int64_t id = 0; id < 600; ++id) {
      const bool mentioned = std::find(ids.begin(), ids.end(), static_cast<double>(id)) != ids.end();
      for (int64_t c = 0; c < 16; ++c) CHECK((dword[static_cast<size_t>(id * 16 + c)] != 0) == mentioned);
    }
    for (int64_t position = 0; position < 9; ++position)  // the longest sequence has five tokens
      for (int64_t c = 0; c < 16; ++c) CHECK((dposition[static_cast<size_t>(position * 16 + c)] != 0) == (position < 5));
  }
}

TEST_CASE("embedding: what the gradient of rows beyond the last offset holds reaches nothing") {
  for (const DType dtype : {DType::f64, DType::f32}) {
    std::vector<std::vector<double>> results(2);
    for (const bool nan : {false, true}) {
      OpRecord record = record_of({.capacity = 80, .positions = 70, .offsets = {0, 3, 70}, .drop_p = 0.1});
      if (nan) std::fill(record.results[0].cotangent_values.begin() + 70 * 16, record.results[0].cotangent_values.end(), std::nan(""));
      Run run(record, dtype);
      run.forward();
      run.backward();
      for (const char* name : {"dword", "dposition", "dsegment", "dgamma", "dbeta"}) {
        const std::vector<double> v = run.values(name);
        results[nan].insert(results[nan].end(), v.begin(), v.end());
      }
    }
    CHECK(results[0] == results[1]);
  }
}

TEST_CASE("embedding: ids outside a table are named, and nothing is written") {
  const auto error = [](const char* input, size_t row, double value) {
    OpRecord record = record_of({});
    for (Input& i : record.inputs)
      if (i.name == input) i.values[row] = value;
    Run run(record, DType::f32);
    const std::vector<std::byte> before = run.bytes("y");
    const std::string message = error_of<DataError>([&] { run.forward(); });
    CHECK(run.bytes("y") == before);
    return message;
  };
  CHECK(error("ids", 5, 11) == "[embedding] id of row 5 is 11, expected 0 to 10");
  CHECK(error("ids", 7, -1) == "[embedding] id of row 7 is -1, expected 0 to 10");
  CHECK(error("segments", 0, 2) == "[embedding] segment of row 0 is 2, expected 0 to 1");
  CHECK(error("sequence_offsets", 1, 1) == "[embedding] sequence 1 has 7 tokens, expected at most 6 positions");
  CHECK(error("sequence_offsets", 2, 9) == "[embedding] the last offset is 9, expected at most 8");
  CHECK(error("sequence_offsets", 1, 9) == "[embedding] expected ascending offsets, got 9 before 8");
  CHECK(error("sequence_offsets", 0, 1) == "[embedding] expected the first offset to be 0, got 1");
}

void check_device_refuses(const OpRecord& record) {
  if constexpr (kHasCudaBackend) {
    const auto error = [&](const char* name, const Shape& shape, DType dtype, int shift = 0) {
      return refusal(record, {DType::bf16, Backend::cuda}, name, shape, dtype, shift);
    };
    CHECK(error("ids", {8}, DType::i64) == "[embedding] ids has type i64, expected i32");
    CHECK(error("position", {6, 15}, DType::bf16) == "[embedding] position has shape (6, 15), expected (6, 16)");
    CHECK(error("segment", {9, 16}, DType::bf16) == "[embedding] segment has shape (9, 16), expected 1 to 8 rows");
    CHECK(error("rstd", {8}, DType::bf16) == "[embedding] rstd has type bf16, expected f32");
    CHECK(error("beta", {17}, DType::bf16) == "[embedding] beta has shape (17), expected (16)");
    CHECK(error("y", {8, 16}, DType::f32) == "[embedding] y has type f32, expected bf16");
    CHECK(error("dy", {8, 15}, DType::bf16) == "[embedding] dy has shape (8, 15), expected (8, 16)");
    CHECK(error("dword", {11, 16}, DType::bf16) == "[embedding] dword has type bf16, expected f32");
    CHECK(error("dsegment", {2, 16}, DType::f32, 4) == "[embedding] dsegment lies at an address that is no multiple of 16 bytes");
    CHECK(error("workspace", {64}, DType::u8).starts_with("[embedding] workspace has 64 bytes, expected at least "));
    Run stateless(record, DType::f32, {}, Backend::cuda);
    stateless.arguments().state = nullptr;
    CHECK(error_of<ConfigError>([&] { stateless.forward(); }) == "[embedding] expected a step state, got none");
  }
}

TEST_CASE("embedding refuses what does not fit") {
  const OpRecord record = record_of({.drop_p = 0.1});
  const auto error = [&](const char* name, const Shape& shape, DType dtype) {
    return refusal(record, {DType::f32, Backend::cpu}, name, shape, dtype);
  };
  CHECK(error("ids", {8}, DType::i64) == "[embedding] ids has type i64, expected i32");
  CHECK(error("segments", {7}, DType::i32) == "[embedding] segments has shape (7), expected (8)");
  CHECK(error("position", {6, 15}, DType::f32) == "[embedding] position has shape (6, 15), expected (6, 16)");
  CHECK(error("segment", {2, 16}, DType::f64) == "[embedding] segment has type f64, expected f32");
  CHECK(error("gamma", {15}, DType::f32) == "[embedding] gamma has shape (15), expected (16)");
  CHECK(error("beta", {17}, DType::f32) == "[embedding] beta has shape (17), expected (16)");
  CHECK(error("y", {8, 15}, DType::f32) == "[embedding] y has shape (8, 15), expected (8, 16)");
  CHECK(error("dy", {7, 16}, DType::f32) == "[embedding] dy has shape (7, 16), expected (8, 16)");
  CHECK(error("dword", {10, 16}, DType::f32) == "[embedding] dword has shape (10, 16), expected (11, 16)");
  CHECK(error("dposition", {6, 16}, DType::f64) == "[embedding] dposition has type f64, expected f32");
  CHECK(error("dbeta", {16, 1}, DType::f32) == "[embedding] dbeta has shape (16, 1), expected (16)");
  CHECK(error("workspace", {64}, DType::u8).starts_with("[embedding] workspace has 64 bytes, expected at least "));
  CHECK(error_of<ShapeError>([] {
          Run run(record_of({.segments = 9}), DType::f32);
          run.forward();
        }) == "[embedding] segment has shape (9, 16), expected 1 to 8 rows");
  CHECK(error("word", {0, 16}, DType::f32) == "[embedding] word has shape (0, 16), expected 1 to 2147483647 rows");

  Run stateless(record, DType::f32);
  stateless.arguments().state = nullptr;
  CHECK(error_of<ConfigError>([&] { stateless.forward(); }) == "[embedding] expected a step state, got none");
  check_device_refuses(record);
}

// Nothing to read; what is asked for is still written.
TEST_CASE("embedding: no rows, and none that are used") {
  for (const int64_t capacity : {0, 5}) {
    const OpRecord record = record_of({.capacity = capacity, .offsets = {0, 0}});
    for (const Execution& e : executions(record)) {
      Run run(record, e.dtype, {}, e.backend);
      run.forward();
      run.backward();
      run.check_memory(true);
      INFO(capacity << " rows, " << name_of(e));
      for (const char* name : {"dword", "dposition", "dsegment", "dgamma", "dbeta"})
        for (const double g : run.values(name)) CHECK(g == 0);
    }
  }
}

// Two rows share a warp, and here their sequence and their segment, so that these are read once for both.
TEST_CASE("embedding on the device: traffic", traffic_tag()) {
  if constexpr (kGpuBuild == GpuBuild::SIMT) {
    constexpr uint64_t kSequences = 32, kLength = 512, kRows = kSequences * kLength, kCols = 128, kVocab = 3000, kWarps = 8;
    constexpr uint64_t kForwardBlocks = 528, kBackwardBlocks = 396, kPositionBlocks = 256, kTable = 4 * kRows * kCols;  // the last: de
    OpRecord record = record_of({.capacity = kRows, .vocab = kVocab, .positions = kLength, .cols = kCols, .offsets = offsets_of(kSequences, kLength), .drop_p = 0.1});
    for (uint64_t i = 0; i < kRows; ++i) {
      record.inputs[0].values[i] = static_cast<double>(i * 7 % kVocab);
      record.inputs[1].values[i] = i % kLength < kLength / 2 ? 0 : 1;
    }
    // Rows of the word, position and segment tables, ids and segments, mean and rstd.
    constexpr uint64_t kGathered = 2 * kRows * kCols * 5 / 2 + 8 * kRows, kStatistics = 8 * kRows;
    // Of a row's place, the last offset, five steps of bisection and where its sequence begins.
    constexpr uint64_t kPlaces = 4 * (1 + 5 + 1) * kRows / 2;
    const auto once_a_block = [](uint64_t blocks, uint64_t vectors) { return blocks * (vectors * 2 * kCols + kWarps * sizeof(StepState)); };
    Run run(record, DType::bf16, {}, Backend::cuda);
    const auto backward = [&](const std::vector<std::string>& gradients) {
      for (const char* name : {"dword", "dposition", "dsegment", "dgamma", "dbeta"})
        run.arguments().modes[name] = std::count(gradients.begin(), gradients.end(), name) > 0 ? GradMode::write : GradMode::none;
      return moved([&] { run.backward(); });
    };
    const simt::Traffic forward = moved([&] { run.forward(); });
    check_moved(forward, kGathered + kPlaces + once_a_block(kForwardBlocks, 2), 2 * kRows * kCols + kStatistics);
    check_near(forward.read_bytes + forward.write_bytes, kGathered + 2 * kRows * kCols + kStatistics);

    // The rows, which every gradient needs: without, with their sums, with de.
    const uint64_t rows = kGathered + 2 * kRows * kCols + kStatistics + kPlaces + once_a_block(kBackwardBlocks, 1) + 4 * kBackwardBlocks * kWarps;
    const simt::Traffic alone = backward({});
    check_moved(alone, rows, 0);
    check_near(alone.read_bytes, kGathered + 2 * kRows * kCols + kStatistics);
    constexpr uint64_t kPartial = 4 * 2 * kCols * kBackwardBlocks;
    check_moved(backward({"dgamma", "dbeta"}), rows + kPartial, kPartial + 4 * 2 * kCols);
    // de once; a warp looks at the two offsets of each of its sequences, and at the segment of each row.
    check_moved(backward({"dposition"}), rows + kTable + (2 + 1) * 4 * kRows, kTable + 4 * kLength * kCols);
    constexpr uint64_t kSegments = 4 * kPositionBlocks * 2 * kCols;
    check_moved(backward({"dsegment"}), rows + kTable + (2 + 1) * 4 * kRows + kSegments, kTable + kSegments + 4 * 2 * kCols);
    // The sort, two digits: keys three times (one of a block's warps), row numbers, every block's counts by every block. Then keys, the keys
    // after them and row numbers, de once, a row of dword for every token; little is left for runs that leave their 32 rows, and to look for
    // tokens that do not occur. Where two keys' digits share a bank is chance, but always the same.
    constexpr uint64_t kSortBlocks = kRows / 512, kSort = 2 * (3 * 4 * kRows + kSortBlocks * kSortBlocks * 1024) + 4 * kRows;
    const simt::Traffic words = backward({"dword"});
    check_near(words.read_bytes, rows + kTable + kSort + 3 * 4 * kRows);
    check_near(words.write_bytes, kTable + 4 * kVocab * kCols + 2 * (8 * kRows + kSortBlocks * 1024));
    CHECK(words.shared_read_conflicts == 148);
    CHECK(words.shared_write_conflicts == 37);
  }
}

TEST_CASE("embedding on the device: a sweep of widths, lengths and vocabularies", kDeviceSweep) {
  Random random(14);
  for (int i = 0; i < 120; ++i) {
    std::vector<double> offsets{0};
    for (const int64_t n : random.parts(7 + random.extent(300), 64)) offsets.push_back(offsets.back() + static_cast<double>(n));
    // Of two numbers the normalized values are 1 and −1, and gradients nothing but roundings.
    OpRecord record = record_of({.capacity = static_cast<int64_t>(offsets.back()) + random.below(3), .vocab = random.extent(5000), .positions = 64,
                                 .cols = 2 + random.extent(i % 10 == 0 ? 1100 : 300), .offsets = offsets, .drop_p = i % 2 ? 0.1 : 0});
    record.ulps = kSweepUlps;
    check_device(record);
  }
}
