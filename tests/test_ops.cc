// What ops promise the planner: FLOPs and bytes against figures worked out by hand.
#include <catch2/catch.hpp>

#include "engine/ops/attention.h"
#include "engine/ops/binary_classifier.h"
#include "engine/ops/embedding.h"
#include "engine/ops/gelu.h"
#include "engine/ops/layer_norm.h"
#include "engine/ops/linear.h"
#include "engine/ops/masked_lm.h"
#include "engine/ops/masking.h"
#include "engine/ops/weighted_sum.h"
#include "kernels/core/error.h"

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

void check_cost(const Signature& s, const Cost& forward, const Cost& backward) {
  CHECK(s.forward.flops == forward.flops);
  CHECK(s.forward.bytes == forward.bytes);
  CHECK(s.backward.flops == backward.flops);
  CHECK(s.backward.bytes == backward.bytes);
}

}  // namespace

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
