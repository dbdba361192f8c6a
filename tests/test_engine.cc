// Graph, plan, program and parameter store, with small ops of the test's own.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <random>

#include "engine/ops/weighted_sum.h"
#include "engine/program.h"
#include "kernels/core/error.h"

using namespace electra;

namespace {

// y = x · w elementwise, reads both in backward unless it lies about it.
class Multiply final : public Op {
 public:
  explicit Multiply(bool lie = false) : lie_(lie) {}
  const char* name() const override { return "multiply"; }
  Signature infer(std::span<const TensorSpec> in, const TraceContext& context) const override {
    check_shape(context.where, "w", in[1].shape, in[0].shape);
    Signature s;
    s.outputs = {in[0]};
    s.differentiable_inputs = 0b11;
    s.differentiable_outputs = 0b1;
    s.backward_reads_inputs = lie_ ? 0b10 : 0b11;
    s.forward = {static_cast<double>(in[0].shape.size()), 0};
    s.backward = {2 * static_cast<double>(in[0].shape.size()), 0};
    return s;
  }
  void forward(const Frame& f) const override {
    for (int64_t i = 0; i < f.out[0].size(); ++i) f.out[0].as<double>()[i] = f.in[0].as<double>()[i] * f.in[1].as<double>()[i];
  }
  void backward(const Frame& f) const override {
    for (int k = 0; k < 2; ++k) {
      if (f.mode[static_cast<size_t>(k)] == GradMode::none) continue;
      for (int64_t i = 0; i < f.dout[0].size(); ++i) {
        const double g = f.dout[0].as<double>()[i] * f.in[static_cast<size_t>(1 - k)].as<double>()[i];
        double& d = f.din[static_cast<size_t>(k)].as<double>()[i];
        f.mode[static_cast<size_t>(k)] == GradMode::write ? d = g : d += g;
      }
    }
  }

 private:
  bool lie_;
};

// y = sin(x); saves cos(x), uses scratch.
class Sine final : public Op {
 public:
  const char* name() const override { return "sine"; }
  Signature infer(std::span<const TensorSpec> in, const TraceContext&) const override {
    Signature s;
    s.outputs = {in[0]};
    s.saved = {in[0]};
    s.differentiable_inputs = s.differentiable_outputs = 0b1;
    s.forward_workspace = in[0].bytes();
    return s;
  }
  void forward(const Frame& f) const override {
    for (int64_t i = 0; i < f.out[0].size(); ++i) {
      f.workspace.as<double>()[i] = f.in[0].as<double>()[i];
      f.out[0].as<double>()[i] = std::sin(f.workspace.as<double>()[i]);
      f.saved[0].as<double>()[i] = std::cos(f.workspace.as<double>()[i]);
    }
  }
  void backward(const Frame& f) const override {
    if (f.mode[0] == GradMode::none) return;
    for (int64_t i = 0; i < f.dout[0].size(); ++i) {
      const double g = f.dout[0].as<double>()[i] * f.saved[0].as<double>()[i];
      f.mode[0] == GradMode::write ? f.din[0].as<double>()[i] = g : f.din[0].as<double>()[i] += g;
    }
  }
};

class Sum final : public Op {
 public:
  const char* name() const override { return "sum"; }
  Signature infer(std::span<const TensorSpec> in, const TraceContext&) const override {
    Signature s;
    s.outputs = {{{1}, in[0].dtype}};
    s.differentiable_inputs = s.differentiable_outputs = 0b1;
    return s;
  }
  void forward(const Frame& f) const override {
    double total = 0;
    for (int64_t i = 0; i < f.in[0].size(); ++i) total += f.in[0].as<double>()[i];
    *f.out[0].as<double>() = total;
  }
  void backward(const Frame& f) const override {
    for (int64_t i = 0; i < f.din[0].size(); ++i)
      f.mode[0] == GradMode::write ? f.din[0].as<double>()[i] = *f.dout[0].as<double>() : f.din[0].as<double>()[i] += *f.dout[0].as<double>();
  }
};

// y = round(10 x) as i32: no gradient.
class Round final : public Op {
 public:
  const char* name() const override { return "round"; }
  Signature infer(std::span<const TensorSpec> in, const TraceContext&) const override {
    Signature s;
    s.outputs = {in[0]};
    return s;
  }
  void forward(const Frame& f) const override {
    for (int64_t i = 0; i < f.out[0].size(); ++i) f.out[0].as<double>()[i] = std::round(10 * f.in[0].as<double>()[i]);
  }
  void backward(const Frame&) const override { no_backward(*this); }
};

constexpr int64_t kSize = 50;

// x ∘ a → sine → square → ∘ b → sine → ∘ a → sine …, depth times; loss = Σ. With segments every stage is one segment.
struct Chain {
  Graph graph{DType::f64};
  Value x, a, b, loss, middle;
  explicit Chain(int depth, bool segments = false) {
    x = graph.input("x", {{kSize}, DType::f64});
    a = graph.parameter("a", {kSize}, true);
    b = graph.parameter("b.bias", {kSize}, false);
    Value v = x;
    for (int i = 0; i < depth; ++i) {
      const Graph::Scope scope(graph, "stage_" + std::to_string(i));
      const Graph::Segment segment(graph, segments);
      v = graph.add(std::make_unique<Multiply>(), {v, i % 2 ? b : a}, "multiply")[0];
      v = graph.add(std::make_unique<Sine>(), {v}, "sine")[0];
      if (i > 0) continue;
      v = middle = graph.add(std::make_unique<Multiply>(), {v, v}, "square")[0];
    }
    loss = graph.add(std::make_unique<Sum>(), {v}, "sum")[0];
  }
  Plan plan() const { return make_plan(graph, {.train = true, .loss = loss, .keep = {middle}}); }
};

void fill(Program& program, const Chain& chain, ParameterStore& store) {
  for (int64_t i = 0; i < kSize; ++i) {
    program.input(chain.x).as<double>()[i] = 0.3 + 0.01 * static_cast<double>(i);
    store.value(store.at("a")).as<double>()[i] = 1.2 - 0.005 * static_cast<double>(i);
    store.value(store.at("b.bias")).as<double>()[i] = 0.7 + 0.01 * static_cast<double>(i % 7);
  }
}

std::vector<double> copy(const Tensor& t) { return {t.as<double>(), t.as<double>() + t.size()}; }

struct Running {
  ThreadPool pool{1};
  Chain chain;
  ParameterStore store;
  Program program;
  explicit Running(int depth, bool segments = false, Program::Options options = {.poison = true})
      : chain(depth, segments), store(chain.graph, chain.plan(), true, Stream(pool)), program(chain.graph, chain.plan(), store, Stream(pool), options) {
    fill(program, chain, store);
  }
  double loss() {
    program.forward({});
    return *program.output(chain.loss).as<double>();
  }
};

}  // namespace

TEST_CASE("shapes are checked when the graph is traced, with the scope in the message") {
  Graph g(DType::f64);
  const Value x = g.input("x", {{3, 4}, DType::f64});
  const Graph::Scope outer(g, "discriminator"), inner(g, "layer_3");
  CHECK_THROWS_WITH(g.add(std::make_unique<Multiply>(), {x, g.parameter("w", {4}, true)}, "multiply"),
                    "[discriminator/layer_3/multiply] w has shape (4), expected (3, 4)");
  CHECK_THROWS_AS(g.parameter("w", {5}, true), ShapeError);
}

TEST_CASE("a name stands once in a graph: it is the site of random draws") {
  Graph g(DType::f64);
  const Value x = g.input("x", {{4}, DType::f64});
  g.add(std::make_unique<Sine>(), {x}, "sine");
  CHECK_THROWS_WITH(g.add(std::make_unique<Sine>(), {x}, "sine"), Catch::Contains("[sine] expected a name used once"));
  const Graph::Scope scope(g, "other");
  CHECK_NOTHROW(g.add(std::make_unique<Sine>(), {x}, "sine"));
  CHECK(g.site("dropout") != Graph(DType::f64).site("dropout"));
}

TEST_CASE("slots alive at the same time never overlap") {
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    std::vector<Slot> slots;
    for (int i = 0; i < 30; ++i) {
      const int first = static_cast<int>(random() % 20), last = first + static_cast<int>(random() % 8);
      slots.push_back({(1 + random() % 9) * kArenaAlignment, 0, first, last});
    }
    size_t sum = 0, peak = 0;
    const size_t total = assign_offsets(slots);
    for (int t = 0; t < 30; ++t) {
      size_t alive = 0;
      for (const Slot& s : slots) alive += s.first <= t && t <= s.last ? s.bytes : 0;
      peak = std::max(peak, alive);
    }
    for (size_t i = 0; i < slots.size(); ++i) {
      sum += slots[i].bytes;
      REQUIRE(slots[i].offset + slots[i].bytes <= total);
      for (size_t j = 0; j < i; ++j) {
        const bool together = slots[i].first <= slots[j].last && slots[j].first <= slots[i].last;
        const bool overlap = slots[i].offset < slots[j].offset + slots[j].bytes && slots[j].offset < slots[i].offset + slots[i].bytes;
        REQUIRE(!(together && overlap));
      }
    }
    CHECK(total >= peak);
    CHECK(total < sum);
  }
}

TEST_CASE("gradients of a chain with shared parameters agree with central differences") {
  for (const bool segments : {false, true}) {
    Running r(5, segments);
    r.program.forward_backward({});
    for (const char* name : {"a", "b.bias"}) {
      const Parameter& p = r.store.at(name);
      const auto gradient = copy(r.store.grad(p));
      double norm = 0;
      for (int64_t i = 0; i < kSize; i += 7) {
        double& w = r.store.value(p).as<double>()[i];
        const double w0 = w;
        w = w0 + 1e-6;
        const double up = r.loss();
        w = w0 - 1e-6;
        const double down = r.loss();
        w = w0;
        CHECK((up - down) / 2e-6 == Approx(gradient[static_cast<size_t>(i)]).epsilon(1e-6).margin(1e-8));
        norm += std::abs(gradient[static_cast<size_t>(i)]);
      }
      CHECK(norm > 0.1);
    }
  }
}

TEST_CASE("a second micro-batch adds to the gradients, a first one does not") {
  Running r(3);
  r.program.forward_backward({}, true);
  const auto once = copy(r.store.grads());
  r.program.forward_backward({}, false);
  const auto twice = copy(r.store.grads());
  r.program.forward_backward({}, true);
  CHECK(copy(r.store.grads()) == once);
  for (size_t i = 0; i < once.size(); ++i) CHECK(twice[i] == Approx(2 * once[i]).margin(1e-15));
}

TEST_CASE("poison mode catches a signature that lies about what backward reads") {
  Graph g(DType::f64);
  const Value x = g.input("x", {{kSize}, DType::f64}), a = g.parameter("a", {kSize}, true);
  Value v = g.add(std::make_unique<Sine>(), {x}, "first")[0];
  v = g.add(std::make_unique<Multiply>(/*lie=*/true), {v, a}, "liar")[0];
  for (int i = 0; i < 3; ++i) v = g.add(std::make_unique<Sine>(), {v}, "sine_" + std::to_string(i))[0];
  const Value loss = g.add(std::make_unique<Sum>(), {v}, "sum")[0];
  const PlanOptions options{.train = true, .loss = loss, .keep = {}};
  ThreadPool pool(1);
  const ParameterStore store(g, make_plan(g, options), true, Stream(pool));
  Program program(g, make_plan(g, options), store, Stream(pool), {true});
  for (int64_t i = 0; i < kSize; ++i) store.value(store.at("a")).as<double>()[i] = 1;
  program.forward_backward({});
  CHECK(std::isnan(store.grad(store.at("a")).as<double>()[0]));
}

TEST_CASE("a program that times its calls says how long each took, and computes the same") {
  Running plain(3);
  plain.program.forward_backward({});
  CHECK_THROWS_WITH(plain.program.call_milliseconds(), "[program] expected Options::time_calls, it was not set");

  Running timed(3, false, {.poison = true, .time_calls = true});
  const size_t forward_calls = static_cast<size_t>(timed.program.plan().first_backward);
  for (const bool backward : {true, false}) {
    if (backward) timed.program.forward_backward({});
    else timed.program.forward({});
    const std::vector<double> ms = timed.program.call_milliseconds();
    REQUIRE(ms.size() == timed.program.plan().calls.size());
    double forward = 0, rest = 0;
    for (size_t c = 0; c < ms.size(); ++c) {
      INFO(c);
      CHECK(ms[c] >= 0);
      (c < forward_calls ? forward : rest) += ms[c];
    }
    CHECK(forward > 0);
    // Calls that did not run this time took nothing, whatever they took the time before.
    CHECK((rest > 0) == backward);
  }
  CHECK(copy(timed.store.grads()) == copy(plain.store.grads()));
}

TEST_CASE("segments are computed again, with the same bits and less memory") {
  Running kept(8), again(8, true);
  kept.program.forward_backward({});
  again.program.forward_backward({});
  CHECK(copy(kept.store.grads()) == copy(again.store.grads()));
  CHECK(*kept.program.output(kept.chain.loss).as<double>() == *again.program.output(again.chain.loss).as<double>());
  CHECK(again.program.arena_bytes() < kept.program.arena_bytes());
  CHECK(again.program.plan().calls.size() > kept.program.plan().calls.size());
  CHECK(copy(kept.program.output(kept.chain.middle)) == copy(again.program.output(again.chain.middle)));

  // What another segment reads (all sines but the first and the last) has one place: computing it again writes there.
  const auto& calls = again.program.plan().calls;
  int crossing = 0;
  for (const Call& call : calls) {
    const Node& node = again.chain.graph.nodes()[static_cast<size_t>(call.node)];
    if (call.pass != Pass::recompute || !node.name.ends_with("/sine")) continue;
    if (node.name == "stage_0/sine" || node.name == "stage_7/sine") continue;
    const auto forward = std::find_if(calls.begin(), calls.end(), [&](const Call& c) { return c.pass == Pass::forward && c.node == call.node; });
    REQUIRE(forward != calls.end());
    CAPTURE(node.name);
    CHECK(call.out == forward->out);
    ++crossing;
  }
  CHECK(crossing == 6);
}

TEST_CASE("the arena is smaller than one buffer a tensor") {
  const Plan plan = Chain(10).plan();
  CHECK(plan.arena_bytes < plan.unplanned_bytes);
  const Chain chain(10);
  const Plan eval = make_plan(chain.graph, {.train = false, .loss = chain.loss, .keep = {}});
  CHECK(eval.arena_bytes < plan.arena_bytes / 2);
}

TEST_CASE("no gradient flows through an op that declares none") {
  Graph g(DType::f64);
  const Value x = g.input("x", {{kSize}, DType::f64}), a = g.parameter("a", {kSize}, true), b = g.parameter("b", {kSize}, true);
  const Value rounded = g.add(std::make_unique<Round>(), {g.add(std::make_unique<Multiply>(), {x, a}, "inner")[0]}, "round")[0];
  const Value loss = g.add(std::make_unique<Sum>(), {g.add(std::make_unique<Multiply>(), {rounded, b}, "outer")[0]}, "sum")[0];
  const PlanOptions options{.train = true, .loss = loss, .keep = {}};
  const Plan plan = make_plan(g, options);
  ThreadPool pool(1);
  ParameterStore store(g, plan, true, Stream(pool));
  Program program(g, plan, store, Stream(pool), {true});
  for (int64_t i = 0; i < kSize; ++i) {
    program.input(x).as<double>()[i] = 1;
    store.value(store.at("a")).as<double>()[i] = store.value(store.at("b")).as<double>()[i] = 2;
  }
  program.forward_backward({});
  for (const double d : copy(store.grad(store.at("a")))) CHECK(d == 0);
  for (const double d : copy(store.grad(store.at("b")))) CHECK(d == 20);
  CHECK_THROWS_WITH(make_plan(g, {.train = true, .loss = rounded, .keep = {}}), Catch::Contains("expected a loss that depends on parameters"));
}

TEST_CASE("parameters stand in the order their gradients are complete, aligned, with their group") {
  // b belongs to stage 1 alone, a to stage 0 and 2: backward completes b first.
  const Chain chain(3);
  ThreadPool pool(1);
  const ParameterStore store(chain.graph, chain.plan(), true, Stream(pool));
  REQUIRE(store.parameters().size() == 2);
  CHECK(store.parameters()[0].name == "b.bias");
  CHECK(store.parameters()[1].offset == kGroupElements);
  CHECK(store.elements() == 2 * kGroupElements);
  CHECK(store.count() == 2 * kSize);
  CHECK(std::vector<uint8_t>(store.group_ids().begin(), store.group_ids().end()) == std::vector<uint8_t>{1, 0});
  CHECK(store.find("none") == nullptr);
  CHECK_THROWS_WITH(store.at("none"), "[parameters] expected a parameter named none, the model has none");
  CHECK(!ParameterStore(chain.graph, chain.plan(), false, Stream(pool)).grads());
}

TEST_CASE("a store of another type than the graph is refused") {
  const Chain chain(2);
  Graph other(DType::f32);
  for (const char* name : {"a", "b.bias"}) other.parameter(name, {kSize}, true);
  ThreadPool pool(1);
  const ParameterStore store(other, make_plan(other, {.train = false, .loss = kNoValue, .keep = {}}), true, Stream(pool));
  CHECK_THROWS_AS(Program(chain.graph, chain.plan(), store, Stream(pool)), ShapeError);
  CHECK_THROWS_WITH(Program(chain.graph, chain.plan(), store, Stream(pool)), "[program] the parameter store has type f32, expected f64");
}

TEST_CASE("only kept values can be read after a run") {
  Running r(2);
  r.loss();
  CHECK_NOTHROW(r.program.output(r.chain.middle));
  CHECK_THROWS_WITH(r.program.output(r.chain.middle - 1), Catch::Contains("is not kept"));
  CHECK_THROWS_WITH(r.program.input(r.chain.a), Catch::Contains("is no input"));
}

TEST_CASE("the plan's table names every node and adds up") {
  const Chain chain(4);
  const Plan plan = chain.plan();
  const std::string table = format_plan(chain.graph, plan);
  for (const Node& node : chain.graph.nodes()) CHECK(table.find(node.name + " ") != std::string::npos);
  // Five products, forward 50 and backward 100 each.
  CHECK(total_cost(chain.graph, plan).flops == 5 * 150);
  CHECK(table.find("750 FLOP") != std::string::npos);
}

TEST_CASE("a weighted sum of losses has the weights as gradients") {
  Graph g(DType::f64);
  const Value x = g.input("x", {{kSize}, DType::f64}), a = g.parameter("a", {kSize}, true), b = g.parameter("b", {kSize}, true);
  const auto sum_of = [&](Value w, const char* name) {
    return g.add(std::make_unique<Sum>(), {g.add(std::make_unique<Multiply>(), {x, w}, std::string(name) + "_product")[0]}, name)[0];
  };
  const Value loss = weighted_sum(g, sum_of(a, "first"), 3, sum_of(b, "second"), 50, "loss");
  const Plan plan = make_plan(g, {.train = true, .loss = loss, .keep = {}});
  ThreadPool pool(1);
  ParameterStore store(g, plan, true, Stream(pool));
  Program program(g, plan, store, Stream(pool), {true});
  for (int64_t i = 0; i < kSize; ++i) {
    program.input(x).as<double>()[i] = 1;
    store.value(store.at("a")).as<double>()[i] = 1;
    store.value(store.at("b")).as<double>()[i] = 2;
  }
  program.forward_backward({});
  CHECK(*program.output(loss).as<double>() == 3 * kSize + 50 * 2 * kSize);
  CHECK(store.grad(store.at("a")).as<double>()[7] == 3);
  CHECK(store.grad(store.at("b")).as<double>()[7] == 50);
}
