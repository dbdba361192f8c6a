// The whole pre-training graph: gradients, options, precision, threads, recomputation, names and sizes.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <map>
#include <set>

#include "model/names.h"
#include "tests/toy_model.h"
#include "trainer/synthetic.h"
#include "trainer/training_step.h"

using namespace electra;

namespace {

std::unique_ptr<ElectraProgram> make_toy(const ElectraConfig& config, const ElectraGraphOptions& options, ThreadPool& pool, bool poison = true) {
  auto program = std::make_unique<ElectraProgram>(trace_electra(config, kToyShape, options), true, Stream(pool), nullptr, Program::Options{poison});
  perturb_weights(*program->store());
  fill_toy_batch(*program);
  return program;
}

double loss_of(ElectraProgram& p) {
  p.forward(toy_state());
  return get(p.output(p.traced().loss), 0);
}

std::vector<double> gradients(const ElectraProgram& p) {
  std::vector<double> all;
  for (const Parameter& q : p.store()->parameters())
    for (int64_t i = 0; i < q.shape.size(); ++i) all.push_back(get(p.store()->grad(q), i));
  return all;
}

// Central differences along two random directions of every parameter tensor.
void check_gradients(const ElectraConfig& config, Recompute recompute = Recompute::none) {
  ThreadPool pool(1);
  auto options = toy_options(DType::f64);
  options.recompute = recompute;
  auto p = make_toy(config, options, pool);
  p->forward_backward(toy_state(), true);
  double total = 0;
  for (const double g : gradients(*p)) total += g * g;
  REQUIRE(std::isfinite(total));
  REQUIRE(total > 0);
  const double norm = std::sqrt(total);
  uint32_t draws = 0;
  for (const Parameter& q : p->store()->parameters()) {
    const int64_t n = q.shape.size();
    std::vector<double> g, before;
    double largest = 0;
    for (int64_t i = 0; i < n; ++i) {
      g.push_back(get(p->store()->grad(q), i));
      before.push_back(get(p->store()->value(q), i));
      largest = std::max(largest, std::abs(g.back()));
    }
    INFO(q.name);
    CHECK(largest > 0);
    for (int direction = 0; direction < 2; ++direction) {
      std::vector<double> d;
      double expected = 0, length = 0;
      for (int64_t i = 0; i < n; ++i) {
        d.push_back(toy_draw(10, draws++) * 0x1p-31 - 1);
        expected += d.back() * g[static_cast<size_t>(i)];
        length += d.back() * d.back();
      }
      constexpr double kStep = 1e-6;
      const auto moved = [&](double by) {
        for (int64_t i = 0; i < n; ++i) set(p->store()->value(q), i, before[static_cast<size_t>(i)] + by * d[static_cast<size_t>(i)]);
        return loss_of(*p);
      };
      const double difference = (moved(kStep) - moved(-kStep)) / (2 * kStep);
      moved(0);
      // The loss is about 40, so a difference quotient carries about 1e-8 of rounding whatever the gradient.
      CHECK(std::abs(difference - expected) <= 1e-7 * std::sqrt(length) * std::max(largest, 1e-2 * norm));
      CHECK(difference != expected);
    }
  }
}

}  // namespace

TEST_CASE("gradients of the joint loss agree with central differences") { check_gradients(toy_config()); }

TEST_CASE("gradients are right with every option of the objective") {
  ElectraConfig masked_lm = toy_config(), tied = toy_config(), own = toy_config(), uniform = toy_config(),
                direct = toy_config(), weighted = toy_config();
  masked_lm.electra_objective = false;
  tied.untied_generator = false;
  own.untied_generator_embeddings = true;
  uniform.uniform_generator = true;
  direct.embedding_size = direct.discriminator.hidden_size;
  weighted.gen_weight = 3;
  weighted.disc_weight = 7;
  weighted.temperature = 0.5;
  weighted.disallow_correct = true;
  for (const auto& [name, config] : {std::pair{"masked-LM objective", masked_lm}, {"tied generator", tied}, {"embeddings of its own", own},
                                     {"uniform generator", uniform}, {"no projection", direct}, {"weights and temperature", weighted}}) {
    INFO(name);
    check_gradients(config);
  }
}

TEST_CASE("gradients are right when activations are computed again") {
  check_gradients(toy_config(), Recompute::gelu);
  check_gradients(toy_config(), Recompute::layers);
}

TEST_CASE("recomputation changes no bit and needs less memory") {
  ThreadPool pool(1);
  auto options = toy_options(DType::f32);
  auto none = make_toy(toy_config(), options, pool);
  options.recompute = Recompute::layers;
  auto layers = make_toy(toy_config(), options, pool);
  none->forward_backward(toy_state(), true);
  layers->forward_backward(toy_state(), true);
  CHECK(gradients(*none) == gradients(*layers));
  CHECK(layers->program().arena_bytes() < none->program().arena_bytes());
}

TEST_CASE("poisoning what is dead changes no bit, whatever draws the masks and samples") {
  ElectraConfig uniform = toy_config(), tied = toy_config(), masked_lm = toy_config();
  uniform.uniform_generator = true;
  tied.untied_generator = false;
  masked_lm.electra_objective = false;
  for (const ElectraConfig& config : {toy_config(), uniform, tied, masked_lm})
    for (const Recompute recompute : {Recompute::none, Recompute::gelu, Recompute::layers})
      for (const bool with_replacement : {false, true}) {
        std::vector<std::vector<double>> results;
        for (const bool poison : {false, true}) {
          ThreadPool pool(2, Assignment::striped);
          ElectraGraphOptions options = toy_options(DType::f32, 2);
          options.corruption = Corruption::drawn;
          options.masking.mask_prob = 0.2;
          options.masking.with_replacement = with_replacement;
          options.recompute = recompute;
          // Nothing is kept but the loss: masks and samples, too, are dead when the last op that says so has read them.
          const ElectraGraph g = trace_electra(config, kToyShape, options);
          const Plan plan = make_plan(*g.graph, {.train = true, .loss = g.loss, .keep = {}});
          ParameterStore store(*g.graph, plan, true, Stream(pool));
          perturb_weights(store);
          Program program(*g.graph, plan, store, Stream(pool), {poison});
          fill_toy_batch(g, program);
          program.forward_backward(toy_state(), true);
          program.forward_backward(toy_state(), false);
          const Tensor all = store.grads();
          results.emplace_back(all.as<float>(), all.as<float>() + all.size());
          results.back().push_back(get(program.output(g.loss), 0));
        }
        CHECK(std::all_of(results[0].begin(), results[0].end(), [](double x) { return std::isfinite(x); }));
        CHECK(std::any_of(results[0].begin(), results[0].end(), [](double x) { return x != 0; }));
        CHECK(results[0] == results[1]);
      }
}

TEST_CASE("fp32 follows double") {
  ThreadPool pool(2);
  auto exact = make_toy(toy_config(), toy_options(DType::f64, 2), pool), single = make_toy(toy_config(), toy_options(DType::f32, 2), pool);
  exact->forward_backward(toy_state(), true);
  single->forward_backward(toy_state(), true);
  CHECK(get(single->output(single->traced().loss), 0) == Approx(get(exact->output(exact->traced().loss), 0)).epsilon(1e-5));
  const auto a = gradients(*exact), b = gradients(*single);
  double norm = 0;
  for (const double g : a) norm += g * g;
  for (size_t i = 0; i < a.size(); ++i) REQUIRE(std::abs(a[i] - b[i]) <= 1e-5 * std::sqrt(norm));
}

// 384 rows, 96 masked slots, 1,300 ids, layers of 128 and more outputs and 300,000 parameters: every kernel has several work items.
TEST_CASE("the number of threads changes no bit") {
  ElectraConfig c = toy_config();
  c.vocab_size = 1300;
  c.embedding_size = 64;
  c.max_position_embeddings = 32;
  c.discriminator = {.hidden_size = 128, .num_layers = 1, .num_heads = 2, .intermediate_size = 192};
  c.generator = {.hidden_size = 128, .num_layers = 1, .num_heads = 2, .intermediate_size = 128};
  const BatchShape shape{.sequences = 12, .tokens = 384, .max_seq_len = 32};
  SyntheticBatch source(shape, c.vocab_size, 1);
  const auto train = [&](int threads, Assignment assignment) {
    ThreadPool pool(threads, assignment);
    ElectraGraphOptions options;
    options.masking = {.special = kSyntheticSpecialIds, .max_predictions = 8, .mask_prob = 0.25};
    options.max_threads = threads;
    TrainingStep step(c, shape, options, {}, Stream(pool));
    initialize(*step.store(), 1);
    MetricSums sums;
    std::vector<double> result;
    for (uint32_t n = 0; n < 2; ++n)
      result.push_back(step.run({&source.fill(n), 1}, {.seed = 1, .step = n, .learning_rate = 1e-3, .adam_step = n + 1}, sums).loss);
    for (const Tensor& t : {step.store()->values(), step.store()->first_moments(), step.store()->second_moments()})
      result.insert(result.end(), t.as<float>(), t.as<float>() + t.size());
    return result;
  };
  const std::vector<double> one = train(1, Assignment::free);
  REQUIRE(one.size() > 3 * 300000);
  REQUIRE(std::all_of(one.begin(), one.end(), [](double x) { return std::isfinite(x); }));
  for (const int threads : {2, 4})
    for (const Assignment assignment : {Assignment::free, Assignment::striped}) {
      INFO(threads << " threads");
      CHECK((train(threads, assignment) == one));
    }
}

TEST_CASE("gradients of micro-batches add up to those of the whole batch") {
  // The three sequences at once, and one at a time.
  ThreadPool pool(1);
  auto whole = make_toy(toy_config(), toy_options(DType::f64), pool), parts = make_toy(toy_config(), toy_options(DType::f64), pool);
  whole->forward_backward(toy_state(), true);
  const ElectraGraph& g = parts->traced();
  const ElectraGraph& w = whole->traced();
  for (int32_t s = 0; s < 3; ++s) {
    const int32_t begin = kToyOffsets[s], length = kToyOffsets[s + 1] - begin;
    const auto move = [&](Value to, Value from, int64_t n, int64_t at) {
      std::memset(parts->input(to).data, 0, parts->input(to).bytes());
      std::memcpy(parts->input(to).data, whole->input(from).as<int32_t>() + at, static_cast<size_t>(n) * 4);
    };
    move(g.batch.ids, w.batch.ids, length, begin);
    move(g.batch.segments, w.batch.segments, length, begin);
    move(g.masked.masked_ids, w.masked.masked_ids, length, begin);
    move(g.masked.rows, w.masked.rows, 3, 3 * s);
    move(g.masked.weights, w.masked.weights, 3, 3 * s);
    move(g.masked.targets, w.masked.targets, 3, 3 * s);
    move(g.sampled_ids, w.sampled_ids, 3, 3 * s);
    for (int64_t k = 0; k < 3; ++k)
      if (parts->input(g.masked.weights).as<float>()[k] != 0) parts->input(g.masked.rows).as<int32_t>()[k] -= begin;
    for (int64_t k = 0; k <= 3; ++k) parts->input(g.batch.sequence_offsets).as<int32_t>()[k] = k == 0 ? 0 : length;
    StepState state = toy_state();
    state.first_sequence += static_cast<uint32_t>(s);
    parts->forward_backward(state, s == 0);
  }
  const auto a = gradients(*whole), b = gradients(*parts);
  for (size_t i = 0; i < a.size(); ++i) REQUIRE(b[i] == Approx(a[i]).epsilon(1e-10).margin(1e-12));
}

TEST_CASE("a sequence's logits depend on no other sequence") {
  ThreadPool pool(1);
  auto p = make_toy(toy_config(), toy_options(DType::f32), pool);
  p->forward(toy_state());
  std::vector<double> before;
  for (int64_t r = 0; r < 40; ++r) before.push_back(get(p->output(p->traced().disc_logits), r));
  p->input(p->traced().batch.ids).as<int32_t>()[18] = 6;  // in the second sequence
  p->input(p->traced().batch.ids).as<int32_t>()[19] = 7;
  p->forward(toy_state());
  bool changed = false;
  for (int64_t r = 0; r < 40; ++r) {
    const double now = get(p->output(p->traced().disc_logits), r);
    if (r >= 16 && r < 20) changed |= now != before[static_cast<size_t>(r)];
    else CHECK(now == before[static_cast<size_t>(r)]);
  }
  CHECK(changed);
}

TEST_CASE("labels are 1 only where a sample differs from the original") {
  ThreadPool pool(1);
  auto p = make_toy(toy_config(), toy_options(DType::f32), pool);
  p->forward(toy_state());
  const ElectraGraph& g = p->traced();
  int ones = 0;
  for (int64_t r = 0; r < 33; ++r) {
    const bool differs = p->output(g.corrupted_ids).as<int32_t>()[r] != p->input(g.batch.ids).as<int32_t>()[r];
    CHECK(p->output(g.labels).as<float>()[r] == (differs ? 1.0f : 0.0f));
    ones += differs;
  }
  CHECK(ones == 6);  // seven masked, one sample is the original
}

TEST_CASE("parameters have transformers' names and counts") {
  // spec: ElectraForPreTraining and ElectraForMaskedLM of the published sizes; the tied LM head weight is not counted.
  struct Row {
    EncoderConfig discriminator, generator;
    int64_t embedding, disc_tensors, disc_parameters, gen_tensors, gen_parameters;
  };
  const Row rows[] = {{{256, 12, 4, 1024}, {64, 12, 1, 256}, 128, 203, 13549057, 204, 4620026},
                      {{768, 12, 12, 3072}, {256, 12, 4, 1024}, 768, 201, 109483009, 204, 33740602},
                      {{1024, 24, 16, 4096}, {256, 24, 4, 1024}, 1024, 393, 335142913, 396, 51295290}};
  for (const Row& row : rows) {
    ElectraConfig c;
    c.vocab_size = 30522;
    c.embedding_size = row.embedding;
    c.discriminator = row.discriminator;
    c.generator = row.generator;
    ElectraGraphOptions options;
    options.masking.max_predictions = 2;
    const ElectraGraph g = trace_electra(c, {.sequences = 1, .tokens = 8, .max_seq_len = 8}, options);
    const Plan plan = make_plan(*g.graph, {.train = true, .loss = g.loss, .keep = {}});
    // Counted from the graph: no store, so no memory for 335 million parameters.
    std::map<Half, std::pair<int64_t, int64_t>> counts;
    for (const Value v : plan.parameters) {
      const ValueInfo& info = g.graph->value(v);
      for (const PublishedSlice& s : published_slices({info.name, info.spec.shape, 0, info.decay})) {
        const bool shared = s.name.rfind("electra.embeddings.", 0) == 0;
        for (const Half half : {Half::discriminator, Half::generator})
          if (half == s.half || shared) {
            counts[half].first += 1;
            counts[half].second += s.shape.size();
          }
      }
    }
    CHECK(counts[Half::discriminator] == std::pair{row.disc_tensors, row.disc_parameters});
    // The published count includes the LM head's tied weight as a tensor, not its elements.
    CHECK(counts[Half::generator] == std::pair{row.gen_tensors, row.gen_parameters});
  }
}

TEST_CASE("published slices cover every parameter once") {
  ThreadPool pool(1);
  auto p = make_toy(toy_config(), toy_options(DType::f32), pool);
  std::set<std::string> names;
  for (const Parameter& q : p->store()->parameters()) {
    int64_t elements = 0;
    for (const PublishedSlice& s : published_slices(q)) {
      CHECK(s.begin == elements);
      elements += s.shape.size();
      CHECK(names.insert(parameter_name(s.half, s.name)).second);
      CHECK(s.name.find("qkv") == std::string::npos);
    }
    CHECK(elements == q.shape.size());
  }
}

TEST_CASE("initial weights are truncated normal, glorot where TensorFlow's default applied") {
  ElectraConfig c = toy_config();
  c.vocab_size = 2000;
  ThreadPool pool(1);
  ElectraProgram p(trace_electra(c, kToyShape, toy_options(DType::f64)), true, Stream(pool));
  initialize(*p.store(), 1);
  const Parameter& word = p.store()->at("discriminator/electra.embeddings.word_embeddings.weight");
  double sum = 0, squares = 0, largest = 0;
  const auto n = static_cast<double>(word.shape.size());
  for (int64_t i = 0; i < word.shape.size(); ++i) {
    const double x = get(p.store()->value(word), i);
    sum += x;
    squares += x * x;
    largest = std::max(largest, std::abs(x));
  }
  CHECK(std::abs(sum / n) < 4 * 0.0176 / std::sqrt(n));
  // A normal cut at two standard deviations has 0.8796 of its standard deviation.
  CHECK(std::sqrt(squares / n) == Approx(0.02 * 0.87962566).epsilon(0.02));
  CHECK(largest <= 0.04);
  CHECK(largest > 0.0399);
  const Parameter& project = p.store()->at("discriminator/electra.embeddings_project.weight");
  const double limit = std::sqrt(6.0 / (16 + 32));
  largest = 0;
  for (int64_t i = 0; i < project.shape.size(); ++i) largest = std::max(largest, std::abs(get(p.store()->value(project), i)));
  CHECK(largest <= limit);
  CHECK(largest > 0.95 * limit);
  for (int64_t i = 0; i < 32; ++i) {
    CHECK(get(p.store()->value(p.store()->at("discriminator/electra.encoder.layer.0.output.LayerNorm.weight")), i) == 1);
    CHECK(get(p.store()->value(p.store()->at("discriminator/electra.encoder.layer.0.output.LayerNorm.bias")), i) == 0);
  }
  // Query and key of a layer are not the same numbers.
  const Parameter& qkv = p.store()->at("discriminator/electra.encoder.layer.0.attention.self.qkv.weight");
  CHECK(get(p.store()->value(qkv), 0) != get(p.store()->value(qkv), 32 * 32));
}
