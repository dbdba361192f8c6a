// What ops promise the planner: FLOPs and bytes against figures worked out by hand; and what they refuse to trace.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>

#include "engine/ops/attention.h"
#include "engine/ops/binary_classifier.h"
#include "engine/ops/embedding.h"
#include "engine/ops/gelu.h"
#include "engine/ops/layer_norm.h"
#include "engine/ops/linear.h"
#include "engine/ops/masked_lm.h"
#include "engine/ops/masking.h"
#include "engine/ops/weighted_sum.h"
#include "engine/program.h"
#include "kernels/core/error.h"
#include "kernels/core/philox.h"

using namespace electra;

namespace {

// A graph with one op, and its inputs by the order of their making.
struct Traced {
  Graph graph;
  explicit Traced(DType type = DType::f32) : graph(type) {}
  Value real(const Shape& shape) { return graph.input("x" + std::to_string(graph.values().size()), {shape, graph.float_type()}); }
  Value f32(const Shape& shape) { return graph.input("w" + std::to_string(graph.values().size()), {shape, DType::f32}); }
  Value i32(const Shape& shape) { return graph.input("i" + std::to_string(graph.values().size()), {shape, DType::i32}); }
  const Signature& op() const { return graph.nodes().back().signature; }
};

// The message of what tracing under a scope throws.
template <class F> std::string refusal(F trace) {
  Traced t;
  const Graph::Scope scope(t.graph, "layer_3");
  try {
    trace(t);
  } catch (const Error& error) {
    return error.what();
  }
  return "none";
}

void check_cost(const Signature& s, const Cost& forward, const Cost& backward) {
  CHECK(s.forward.flops == forward.flops);
  CHECK(s.forward.bytes == forward.bytes);
  CHECK(s.backward.flops == backward.flops);
  CHECK(s.backward.bytes == backward.bytes);
}

}  // namespace

TEST_CASE("attention refuses no heads, no tokens and columns that cannot be divided") {
  const auto error = [](int64_t cols, int64_t heads, int64_t max_seq_len) {
    return refusal([=](Traced& t) { attention(t.graph, t.real({6, cols}), t.i32({2}), heads, max_seq_len, 0, "attention"); });
  };
  CHECK(error(24, 2, 6) == "none");
  CHECK(error(24, 0, 6) == "[layer_3/attention] expected at least 1 head, got 0");
  CHECK(error(24, -1, 6) == "[layer_3/attention] expected at least 1 head, got -1");
  CHECK(error(20, 2, 6) == "[layer_3/attention] qkv has shape (6, 20), expected columns divisible by 3 times 2 heads");
  CHECK(error(24, 2, 0) == "[layer_3/attention] expected a max_seq_len of at least 1, got 0");
  CHECK(refusal([](Traced& t) { attention(t.graph, t.real({6, 24}), t.f32({2}), 2, 6, 0, "attention"); }) ==
        "[layer_3/attention] sequence_offsets has type f32, expected i32");
}

TEST_CASE("embedding refuses tables that are empty or have too many segments") {
  const auto error = [](int64_t vocab, int64_t positions, int64_t segments) {
    return refusal([=](Traced& t) {
      embedding(t.graph, t.i32({7}), t.i32({7}), t.i32({3}),
                {t.real({vocab, 4}), t.real({positions, 4}), t.real({segments, 4}), t.real({4}), t.real({4})}, 0, 1e-12, "embeddings");
    });
  };
  CHECK(error(11, 6, 8) == "none");
  CHECK(error(0, 6, 2) == "[layer_3/embeddings] word table has shape (0, 4), expected 1 to 2147483647 rows");
  CHECK(error(11, 0, 2) == "[layer_3/embeddings] position table has shape (0, 4), expected 1 to 2147483647 rows");
  CHECK(error(11, 6, 9) == "[layer_3/embeddings] segment table has shape (9, 4), expected 1 to 8 rows");
  CHECK(error(11, 6, 0) == "[layer_3/embeddings] segment table has shape (0, 4), expected 1 to 8 rows");
}

TEST_CASE("LayerNorm refuses rows without columns") {
  CHECK(refusal([](Traced& t) { layer_norm(t.graph, t.real({5, 0}), t.real({0}), t.real({0}), 1e-12, "norm"); }) ==
        "[layer_3/norm] x has shape (5, 0), expected at least 1 column");
  CHECK(refusal([](Traced& t) {
          embedding(t.graph, t.i32({7}), t.i32({7}), t.i32({3}), {t.real({9, 0}), t.real({8, 0}), t.real({2, 0}), t.real({0}), t.real({0})},
                    0, 1e-12, "embeddings");
        }) == "[layer_3/embeddings] word table has shape (9, 0), expected at least 1 column");
}

TEST_CASE("masked_lm refuses an empty vocabulary") {
  for (const bool uniform : {false, true})
    CHECK(refusal([=](Traced& t) {
            const MaskedLmInputs inputs{.hidden = t.real({3, 4}), .word = t.real({0, 4}), .bias = t.real({0}), .targets = t.i32({3}),
                                        .rows = t.i32({3}), .weights = t.f32({3}), .sequence_offsets = t.i32({2})};
            masked_lm(t.graph, inputs, {.vocab_size = 0, .uniform = uniform}, "masked_lm");
          }) == "[layer_3/masked_lm] expected a vocabulary of at least 1, got 0");
}

TEST_CASE("gather_rows and corrupt_tokens refuse tensors of another type") {
  CHECK(refusal([](Traced& t) { gather_rows(t.graph, t.real({9, 4}), t.f32({3}), t.f32({3}), "gather"); }) ==
        "[layer_3/gather] rows has type f32, expected i32");
  CHECK(refusal([](Traced& t) { gather_rows(t.graph, t.real({9, 4}), t.i32({3}), t.i32({3}), "gather"); }) ==
        "[layer_3/gather] weights has type i32, expected f32");
  CHECK(refusal([](Traced& t) { corrupt_tokens(t.graph, t.i32({9}), t.i32({3}), t.f32({3}), t.f32({3}), "corrupt"); }) ==
        "[layer_3/corrupt] sampled_ids has type f32, expected i32");
}

// With a threshold of 0 the vector kernels would drop nothing and the oracle everything.
TEST_CASE("a dropout that keeps nothing is refused where it is traced") {
  const auto attend = [](Traced& t, double p) { attention(t.graph, t.real({6, 24}), t.i32({2}), 2, 6, p, "op"); };
  const auto embed = [](Traced& t, double p) {
    embedding(t.graph, t.i32({7}), t.i32({7}), t.i32({3}), {t.real({9, 4}), t.real({8, 4}), t.real({2, 4}), t.real({4}), t.real({4})}, p,
              1e-12, "op");
  };
  const auto add = [](Traced& t, double p) {
    dropout_add_layer_norm(t.graph, t.real({5, 8}), t.real({5, 8}), t.real({8}), t.real({8}), t.i32({2}), p, 1e-12, "op");
  };
  const auto check = [](auto trace) {
    const auto error = [&](double p) { return refusal([&](Traced& t) { trace(t, p); }); };
    CHECK(error(0) == "none");
    CHECK(error(1 - 0x1p-17) == "none");
    CHECK(Dropout{.drop_p = 1 - 0x1p-17}.keep_threshold() == 1);
    CHECK(error(0.999995) == "[layer_3/op] expected a dropout probability from 0 to 0.99999, got 0.999995");
    CHECK(error(1) == "[layer_3/op] expected a dropout probability from 0 to 0.99999, got 1");
    CHECK(error(-0.1) == "[layer_3/op] expected a dropout probability from 0 to 0.99999, got -0.1");
    CHECK(error(std::nan("")) == "[layer_3/op] expected a dropout probability from 0 to 0.99999, got nan");
  };
  check(attend);
  check(embed);
  check(add);
}

TEST_CASE("x may be its own residual: both gradients reach it") {
  for (const DType type : {DType::f64, DType::f32}) {
    // The same sums twice: once of one value, once of two equal ones.
    std::vector<std::vector<double>> gradients;
    for (const bool same : {false, true}) {
      Graph g(type);
      const Value x = g.parameter("x", {5, 24}, true), r = same ? x : g.parameter("r", {5, 24}, true);
      const Value gamma = g.parameter("gamma", {24}, true), beta = g.parameter("beta", {24}, true), offsets = g.input("o", {{2}, DType::i32});
      const Value y = dropout_add_layer_norm(g, x, r, gamma, beta, offsets, 0.3, 1e-12, "op");
      const Value labels = g.input("labels", {{5}, DType::f32});
      const Value loss = binary_classifier(g, y, {g.parameter("w", {24, 24}, true), g.parameter("b", {24}, true),
                                                  g.parameter("v", {1, 24}, true), g.parameter("c", {1}, true)}, labels, offsets, "head").loss;
      const Plan plan = make_plan(g, {.train = true, .loss = loss, .keep = {}});
      ThreadPool pool(1);
      ParameterStore store(g, plan, true, Stream(pool));
      Program program(g, plan, store, Stream(pool), {true});
      program.input(offsets).as<int32_t>()[1] = 5;
      const auto fill = [&](const char* name, uint64_t seed) {
        const Tensor t = store.value(store.at(name));
        for (int64_t i = 0; i < t.size(); ++i) {
          const double value = 0.1 + static_cast<double>(philox(seed, {static_cast<uint32_t>(i), 0, 0, 0}).word[0]) * 0x1p-32;
          if (type == DType::f64) t.as<double>()[i] = value;
          else t.as<float>()[i] = static_cast<float>(value);
        }
      };
      for (const char* name : {"x", "gamma", "beta", "w", "b", "v", "c"}) fill(name, fnv1a64(name));
      if (!same) fill("r", fnv1a64("x"));
      program.forward_backward({.seed = 3});
      const auto gradient = [&](const char* name) {
        const Tensor t = store.grad(store.at(name));
        return type == DType::f64 ? std::vector<double>(t.as<double>(), t.as<double>() + t.size())
                                  : std::vector<double>(t.as<float>(), t.as<float>() + t.size());
      };
      gradients.push_back(gradient("x"));
      if (same) continue;
      const std::vector<double> dr = gradient("r");
      CHECK(dr != gradients[0]);  // dropout
      for (size_t i = 0; i < dr.size(); ++i) gradients[0][i] += dr[i];
    }
    double largest = 0;
    for (const double d : gradients[0]) largest = std::max(largest, std::abs(d));
    CHECK(largest > 0);
    for (size_t i = 0; i < gradients[0].size(); ++i)
      CHECK(gradients[1][i] == Approx(gradients[0][i]).margin(largest * (type == DType::f64 ? 1e-15 : 1e-6)));
  }
}

TEST_CASE("evaluation leaves out what only backward reads, and gives the same bits") {
  Graph g(DType::f32, 2);
  const Value x = g.input("x", {{70, 24}, DType::f32}), offsets = g.input("offsets", {{2}, DType::i32});
  const auto parameter = [&](const char* name, const Shape& shape) { return g.parameter(name, shape, true); };
  const Value activated = linear(g, x, parameter("w", {24, 24}), parameter("b", {24}), Epilogue::bias_gelu, "linear");
  const Value y = dropout_add_layer_norm(g, activated, x, parameter("gamma", {24}), parameter("beta", {24}), offsets, 0, 1e-12, "norm");
  const Value labels = g.input("labels", {{70}, DType::f32});
  const auto head = binary_classifier(g, y, {parameter("hw", {24, 24}), parameter("hb", {24}), parameter("v", {1, 24}), parameter("c", {1})},
                                      labels, offsets, "head");
  std::vector<std::vector<float>> logits;
  std::vector<Plan> plans;
  for (const bool train : {true, false}) {
    const Plan plan = plans.emplace_back(make_plan(g, {.train = train, .loss = head.loss, .keep = {head.logits}}));
    ThreadPool pool(2, Assignment::striped);
    ParameterStore store(g, plan, train, Stream(pool));
    Program program(g, plan, store, Stream(pool), {true});
    program.input(offsets).as<int32_t>()[1] = 70;
    uint32_t draws = 0;
    const auto fill = [&](const Tensor& t) {
      for (int64_t i = 0; i < t.size(); ++i) t.as<float>()[i] = static_cast<float>(philox(5, {draws++, 0, 0, 0}).word[0]) * 0x1p-32f - 0.4f;
    };
    fill(program.input(x));
    for (const char* name : {"w", "b", "gamma", "beta", "hw", "hb", "v", "c"}) fill(store.value(store.at(name)));
    program.forward({});
    const Tensor out = program.output(head.logits);
    logits.emplace_back(out.as<float>(), out.as<float>() + out.size());
  }
  CHECK(std::all_of(logits[0].begin(), logits[0].end(), [](float v) { return std::isfinite(v); }));
  CHECK(logits[0][0] != logits[0][1]);
  CHECK(logits[0] == logits[1]);
  // linear saves u; the norm mean, rstd and the sum.
  const auto absent = [](const Call& call) {
    std::vector<bool> result;
    for (const int s : call.saved) result.push_back(s == kNoSlot);
    return result;
  };
  CHECK(absent(plans[0].calls[0]) == std::vector<bool>{false});
  CHECK(absent(plans[0].calls[1]) == std::vector<bool>{false, false, false});
  CHECK(absent(plans[1].calls[0]) == std::vector<bool>{true});
  CHECK(absent(plans[1].calls[1]) == std::vector<bool>{false, false, true});
  // Nor do they count as moved: 70 · 24 · 4 B each.
  double forward = 0;
  for (const Node& node : g.nodes()) forward += node.signature.forward.bytes;
  CHECK(total_cost(g, plans[1]).bytes == forward - 2 * 6720);
  CHECK(format_plan(g, plans[1]).find("norm") != std::string::npos);
}

TEST_CASE("cost of linear") {
  // x (10, 6) 240 B, W (4, 6) 96 B, y (10, 4) 160 B; one product is 2 · 10 · 6 · 4 = 480.
  for (const Epilogue epilogue : {Epilogue::none, Epilogue::bias, Epilogue::bias_gelu}) {
    Traced t;
    linear(t.graph, t.real({10, 6}), t.real({4, 6}), t.real({4}), epilogue, "linear");
    // With GELU forward writes u as well (656), and backward reads u, writes dU and reads it: 832 + 3 · 160.
    if (epilogue == Epilogue::bias_gelu) check_cost(t.op(), {480, 656}, {960, 1312});
    else check_cost(t.op(), {480, 496}, {960, 832});
  }
  Traced exact(DType::f64);
  linear(exact.graph, exact.real({10, 6}), exact.real({4, 6}), exact.real({4}), Epilogue::bias, "linear");
  check_cost(exact.op(), {480, 992}, {960, 1664});
}

TEST_CASE("cost of layer_norm") {
  // 40 elements, 160 B a tensor. Alone: x, y; dy, x, dx. With a residual: x, r, sum, y; sum, dy, dx, dr.
  Traced t;
  layer_norm(t.graph, t.real({5, 8}), t.real({8}), t.real({8}), 1e-12, "alone");
  check_cost(t.op(), {320, 320}, {560, 480});
  dropout_add_layer_norm(t.graph, t.real({5, 8}), t.real({5, 8}), t.real({8}), t.real({8}), t.i32({2}), 0.1, 1e-12, "added");
  check_cost(t.op(), {320, 640}, {560, 640});
}

TEST_CASE("cost of embedding") {
  // 7 rows of 4: 28 elements, 112 B; the word table (11, 4) has 176 B. Backward 6 · 112 + 176.
  Traced t;
  embedding(t.graph, t.i32({7}), t.i32({7}), t.i32({3}), {t.real({11, 4}), t.real({6, 4}), t.real({2, 4}), t.real({4}), t.real({4})}, 0,
            1e-12, "embedding");
  check_cost(t.op(), {280, 224}, {504, 848});
}

TEST_CASE("cost of attention") {
  // Four sequences of 5 tokens, 2 heads of 4: 4 n² D = 400 for each of 8, twice that backward.
  // qkv (20, 24) 1920 B, context (20, 8) 640 B, lse (2, 20) 160 B. Backward: qkv, context, dcontext, lse, dqkv.
  Traced t;
  attention(t.graph, t.real({20, 24}), t.i32({5}), 2, 5, 0.1, "attention");
  check_cost(t.op(), {3200, 2720}, {6400, 5280});
}

TEST_CASE("cost of masked_lm") {
  // 3 slots, 10 ids, 4 columns: one product is 240, hidden 48 B, word 160 B.
  Traced t;
  const MaskedLmInputs inputs{.hidden = t.real({3, 4}), .word = t.real({10, 4}), .bias = t.real({10}), .targets = t.i32({3}),
                              .rows = t.i32({3}), .weights = t.f32({3}), .sequence_offsets = t.i32({2})};
  masked_lm(t.graph, inputs, {.vocab_size = 10}, "masked_lm");
  check_cost(t.op(), {240, 208}, {480, 416});
  masked_lm(t.graph, inputs, {.vocab_size = 10, .uniform = true}, "uniform");
  check_cost(t.op(), {0, 0}, {0, 0});
}

TEST_CASE("cost of binary_classifier") {
  // 6 rows of 4: 2 · 6 · 4 (4 + 1) = 240; x 96 B, W 64 B, labels and logits 24 B each. Backward 5 · 96 + 2 · 64 + 48.
  Traced t;
  binary_classifier(t.graph, t.real({6, 4}), {t.real({4, 4}), t.real({4}), t.real({1, 4}), t.real({1})}, t.f32({6}), t.i32({2}), "head");
  check_cost(t.op(), {240, 208}, {480, 656});
}

TEST_CASE("cost of gelu and weighted_sum") {
  Traced t;
  gelu(t.graph, t.real({5, 10}), "gelu");
  check_cost(t.op(), {1000, 400}, {1500, 600});
  weighted_sum(t.graph, t.real({1}), 1, t.real({1}), 50, "two");
  check_cost(t.op(), {3, 12}, {2, 12});
  weighted_sum(t.graph, t.real({1}), 1, kNoValue, 0, "one");
  check_cost(t.op(), {1, 8}, {1, 8});
}

TEST_CASE("cost of masking, corruption and gathering") {
  // 30 tokens in 3 sequences, 4 slots each: 8 · 30 + 12 · 12, and 12 · 30 + 12 · 12.
  Traced t;
  const MaskedBatch masked = mask_tokens(t.graph, t.i32({30}), t.i32({4}), {.special = {}, .max_predictions = 4}, "mask");
  check_cost(t.op(), {0, 384}, {0, 0});
  corrupt_tokens(t.graph, t.i32({30}), masked.rows, masked.weights, t.i32({12}), "corrupt");
  check_cost(t.op(), {0, 504}, {0, 0});
  // y (12, 5) 240 B, x (30, 5) 600 B, rows and weights 96 B: 2 · 240 + 96, and 600 + 3 · 240 + 96; 60 additions.
  gather_rows(t.graph, t.real({30, 5}), masked.rows, masked.weights, "gather");
  check_cost(t.op(), {0, 576}, {60, 1416});
}
