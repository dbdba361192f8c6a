// A training step on the device of the build (a GPU, or the host executor): its batches arrive beside what computes, it is replayed,
// and neither changes a bit. Without a CUDA backend the same cases run on the CPU.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <sstream>

#include "kernels/core/gpu.h"
#include "kernels/gemm.h"
#include "kernels/simt/simt.h"
#include "tests/on_device.h"
#include "tests/temporary_directory.h"
#include "tests/toy_model.h"
#include "trainer/checkpoint.h"
#include "trainer/evaluate.h"
#include "trainer/gemm_algorithms.h"
#include "trainer/log.h"
#include "trainer/optimizer.h"
#include "trainer/pretrain.h"
#include "trainer/synthetic.h"
#include "trainer/training_step.h"

using namespace electra;

namespace {

constexpr DeviceKind kDevice = kGpuBuild == GpuBuild::CUDA   ? DeviceKind::cuda
                               : kGpuBuild == GpuBuild::SIMT ? DeviceKind::simt
                                                             : DeviceKind::cpu;
constexpr BatchShape kShape{.sequences = 2, .tokens = 32, .max_seq_len = 16};

// head_dim 64, which the CUDA kernels of attention take.
ElectraConfig small_config() {
  ElectraConfig c = toy_config();
  c.discriminator = {.hidden_size = 64, .num_layers = 1, .num_heads = 1, .intermediate_size = 96};
  c.generator = {.hidden_size = 64, .num_layers = 1, .num_heads = 1, .intermediate_size = 64};
  return c;
}

// Restores what a test has chosen.
struct TestStreams {
  explicit TestStreams(gpu::StreamOrder order) { use(order); }
  ~TestStreams() { use(gpu::StreamOrder::issued); }
  static void use([[maybe_unused]] gpu::StreamOrder order) {
    if constexpr (kHasCudaBackend) gpu::use_test_streams(order);
  }
};

ElectraGraphOptions options_of(DType type, const Stream& stream) {
  ElectraGraphOptions o;
  o.masking = {.special = kSyntheticSpecialIds, .max_predictions = 3, .mask_prob = 0.2};
  o.float_type = type;
  o.max_threads = stream.pool().threads();
  o.backend = stream.backend();
  return o;
}

// A toy model in training on the device, with a held-out batch.
struct Training {
  explicit Training(DType type = DType::f32, Program::Options options = {}, int64_t micro_batches = 1)
      : step(small_config(), kShape, options_of(type, device.stream()), {.weight_decay = 0.1}, device.stream(), options),
        evaluator(small_config(), kShape, options_of(type, device.stream()), 9, device.stream(), step.store()) {
    initialize(step.store()->on_host(), 1);
    step.store()->to_device();
    for (int64_t i = 0; i < micro_batches; ++i) sources.emplace_back(kShape, small_config().vocab_size, 4);
    views.resize(sources.size());
  }
  std::span<const HostBatch> batches(uint32_t n) {
    for (size_t i = 0; i < sources.size(); ++i) views[i] = sources[i].fill(static_cast<int64_t>(n * sources.size() + i));
    return views;
  }
  static StepState state(uint32_t n) { return {.seed = 7, .step = n, .learning_rate = 1e-3 * (1 + n % 3), .adam_step = n + 1}; }
  // Steps [begin, end), each with a batch and a learning rate of its own. With ahead the next batch is sent before the result is there.
  void train(uint32_t begin, uint32_t end, bool ahead = false) {
    for (uint32_t n = begin; n < end; ++n) {
      if (!ahead || n == begin) batches(n);
      step.begin(views, state(n));
      if (ahead && n + 1 < end) step.stage(batches(n + 1)[0]);
      else for (SyntheticBatch& s : sources) s.fill(1000);  // the step has no need of its batches any more
      note(step.finish(sums));
    }
  }
  void evaluate() {
    bool more = true;
    SyntheticBatch source(kShape, small_config().vocab_size, 5);
    const Metrics m = evaluator.run([&](HostBatch& batch) { batch = source.fill(0); return std::exchange(more, false); }, false);
    seen.insert(seen.end(), {m.loss, m.masked_lm_loss, m.disc_loss, m.disc_auc});
  }
  void note(const StepResult& r) {
    REQUIRE(std::isfinite(r.loss));
    seen.insert(seen.end(), {r.loss, r.grad_norm, static_cast<double>(r.finite), static_cast<double>(r.tokens)});
  }
  // Weights and moments.
  std::vector<float> parameters() {
    std::vector<float> all;
    const ParameterStore& store = step.store()->on_host();
    for (const Tensor& t : {store.values(), store.first_moments(), store.second_moments()})
      all.insert(all.end(), t.as<float>(), t.as<float>() + t.size());
    return all;
  }
  void set_parameters(const std::vector<float>& all) {
    const ParameterStore& store = step.store()->on_host();
    const float* from = all.data();
    for (const Tensor& t : {store.values(), store.first_moments(), store.second_moments()}) {
      std::memcpy(t.data, from, t.bytes());
      from += t.size();
    }
    step.store()->to_device();
  }

  ThreadPool pool{1};
  Device device{kDevice, pool};
  TrainingStep step;
  Evaluator evaluator;
  std::vector<SyntheticBatch> sources;
  std::vector<HostBatch> views;
  MetricSums sums;
  std::vector<double> seen;  // every result and metric so far
};

std::vector<DType> device_types() { return kHasCudaBackend ? std::vector{DType::f32, DType::bf16} : std::vector{DType::f32}; }

// Replayed launches after n steps of the given number of micro-batches: the first time each kind is issued eagerly.
int64_t expected_replays(int64_t steps, int64_t micro_batches) {
  if (!kHasCudaBackend) return 0;
  return steps * micro_batches - (micro_batches == 1 ? 1 : micro_batches == 2 ? 2 : 3);
}

}  // namespace

TEST_CASE("a replayed step has the bits of one that is issued, whatever changes from step to step") {
  for (const DType type : device_types())
    for (const int64_t micro_batches : {1, 3}) {
      INFO(name_of(type) << ", " << micro_batches << " micro-batches");
      Training eager(type, {.record = false}, micro_batches), replayed(type, {}, micro_batches);
      for (Training* t : {&eager, &replayed}) {
        t->train(0, 3);
        t->evaluate();
        t->train(3, 5);
        t->evaluate();
        t->train(5, 6);
      }
      CHECK(eager.step.replays() == 0);
      CHECK(replayed.step.replays() == expected_replays(6, micro_batches));
      CHECK(eager.seen == replayed.seen);
      CHECK((eager.parameters() == replayed.parameters()));
      // Steps differ in what they read of their state: none repeats another's result.
      for (size_t i = 4; i < 12; i += 4) CHECK(eager.seen[i] != eager.seen[i - 4]);
    }
}

TEST_CASE("a training step that goes on from stored weights has the bits of one that never stopped") {
  for (const DType type : device_types()) {
    Training whole(type), first(type);
    whole.train(0, 5);
    first.train(0, 2);
    const std::vector<float> kept = first.parameters();
    Training second(type);
    second.train(20, 23);  // its launches are recorded with other weights, batches and states
    second.set_parameters(kept);
    second.train(2, 5);
    CHECK((whole.parameters() == second.parameters()));
    CHECK((whole.parameters() != kept));
  }
}

TEST_CASE("a step reads its own batches, sent ahead or not, whatever the order in which streams run") {
  for (const int64_t micro_batches : {1, 4}) {
    Training reference(DType::f32, {.record = false}, micro_batches);
    reference.train(0, 6);
    for (const gpu::StreamOrder order : {gpu::StreamOrder::issued, gpu::StreamOrder::late, gpu::StreamOrder::side_first})
      for (const bool ahead : {false, true}) {
        INFO(micro_batches << " micro-batches, order " << static_cast<int>(order) << (ahead ? ", sent ahead" : ""));
        const TestStreams streams(order);
        Training t(DType::f32, {}, micro_batches);
        t.train(0, 6, ahead);
        CHECK(t.seen == reference.seen);
        CHECK((t.parameters() == reference.parameters()));
      }
  }
}

namespace {

const std::string kConfig = R"(
vocab_size: 40
embedding_size: 16
hidden_size: 64
num_layers: 1
num_heads: 1
intermediate_size: 96
max_position_embeddings: 16
hidden_dropout: 0.1
attention_dropout: 0.1
generator.width_fraction: 1
seq_len: 16
mask_prob: 0.2
batch.sequences: 4
batch.accumulate: 2
warmup_steps: 1
schedule.power: 0
optimizer.learning_rate: 1e-3
train_steps: 6
)";

struct Runs {
  Runs() { log::set_level("error"); }
  std::string run(const std::string& name) const { return directory / name; }
  // Trains a run, or goes on with it, up to a step.
  int train(const std::string& name, const std::string& steps, const std::vector<std::string>& more = {}) const {
    PretrainRequest r;
    r.resume = std::filesystem::exists(run(name));
    std::vector<std::string> overrides = {"run=" + run(name), "train_steps=" + steps};
    overrides.insert(overrides.end(), more.begin(), more.end());
    r.config = r.resume ? load_config(run(name) + "/config.resolved.yaml", {"train_steps=" + steps}) : parse_config(kConfig, "toy.yaml", overrides);
    r.device = {kDevice, "as the test says"};
    r.quiet = r.synthetic = true;
    return pretrain(std::move(r));
  }
  std::string file(const std::string& name, const std::string& file) const {
    return test::read_file(run(name) + "/checkpoints/latest/" + file);
  }
  test::TemporaryDirectory directory;
};

}  // namespace

TEST_CASE("a run on the device that is resumed ends with the weights of one that was not, bit for bit") {
  const Runs runs;
  for (const char* precision : {"precision=fp32", kHasCudaBackend ? "precision=bf16" : "precision=auto"}) {
    INFO(precision);
    const std::string whole = std::string("whole-") + precision, parts = std::string("parts-") + precision;
    REQUIRE(runs.train(whole, "6", {precision}) == 0);
    for (const char* steps : {"1", "4", "6"}) REQUIRE(runs.train(parts, steps, {precision}) == 0);
    CHECK(Checkpoint::open(runs.run(parts)).state().step == 6);
    for (const char* name : {"discriminator.safetensors", "generator.safetensors", "optimizer.safetensors"}) {
      INFO(name);
      CHECK((runs.file(whole, name) == runs.file(parts, name)));
    }
  }
}

namespace {

// One step of the toy model with given masks and samples.
struct ToyStep {
  double loss = 0, norm = 0;
  std::vector<float> values;
  uint64_t mma = 0;  // tensor-core operations, on the executor
};
ToyStep toy_step(DeviceKind kind, DType type, GemmKind gemm) {
  struct Restore {
    ~Restore() { set_gemm_kind(GemmKind::library); }
  } const restore;
  set_gemm_kind(gemm);
  ThreadPool pool(1);
  const Device device(kind, pool);
  const Stream stream = device.stream();
  ElectraGraphOptions options = toy_options(type);
  options.backend = stream.backend();
  ElectraProgram program(trace_electra(small_config(), kToyShape, options), /*train=*/true, stream);
  perturb_weights(program.store()->on_host());
  program.store()->to_device();
  fill_toy_batch(program);
  if constexpr (kGpuBuild == GpuBuild::SIMT) simt::reset_counters();
  StepState state = toy_state();
  state.learning_rate = 1e-3;
  program.forward_backward(state, true);
  ToyStep result;
  result.loss = static_cast<double>(*program.output(program.traced().loss).as<float>());
  Optimizer optimizer(*program.store(), {}, stream);
  optimizer.step(state, result.loss);
  result.norm = optimizer.grad_norm();
  const Tensor values = program.store()->on_host().values();
  result.values.assign(values.as<float>(), values.as<float>() + values.size());
  if constexpr (kGpuBuild == GpuBuild::SIMT) result.mma = simt::counters().mma;
  return result;
}

}  // namespace

TEST_CASE("a whole step by our own matrix products follows the CPU", test::kOnDevice) {
  const ToyStep cpu = toy_step(DeviceKind::cpu, DType::f32, GemmKind::library);
  REQUIRE(cpu.norm > 1);
  for (const auto& [type, bound] : {std::pair{DType::f32, 1e-5}, {DType::bf16, 1e-2}}) {
    INFO(name_of(type));
    const ToyStep own = toy_step(kDevice, type, GemmKind::own), library = toy_step(kDevice, type, GemmKind::library);
    CHECK(std::abs(own.loss - cpu.loss) <= bound * std::abs(cpu.loss));
    CHECK(std::abs(own.norm - cpu.norm) <= 5 * bound * cpu.norm);
    // Adam's first update is as long as the learning rate, whatever the gradient: most weights move the same way.
    size_t apart = 0;
    for (size_t i = 0; i < cpu.values.size(); ++i) apart += std::abs(own.values[i] - cpu.values[i]) > 1e-4f;
    CHECK(apart < cpu.values.size() / (type == DType::f32 ? 1000 : 20));
    // Own products, not the library's.
    CHECK((own.values != library.values));
    if (kGpuBuild == GpuBuild::SIMT && type == DType::bf16) CHECK(own.mma > 2 * library.mma);
  }
}

TEST_CASE("gemm chooses who multiplies in a run, and the resolved configuration says it") {
  const Runs runs;
  const auto losses = [&](const std::string& name) {
    std::istringstream in(test::read_file(runs.run(name) + "/metrics.jsonl"));
    std::vector<double> found;
    for (std::string line; std::getline(in, line);)
      if (const auto json = nlohmann::json::parse(line); json["kind"] == "train") found.push_back(json["loss"]);
    return found;
  };
  const auto resolved = [&](const std::string& name) { return test::read_file(runs.run(name) + "/config.resolved.yaml"); };
  REQUIRE(runs.train("auto", "3", {"precision=fp32", "log_steps=1"}) == 0);
  CHECK(resolved("auto").find("\ngemm: library                                # device\n") != std::string::npos);
  if (!kHasCudaBackend) {
    CHECK_THROWS_WITH(runs.train("own", "3", {"gemm=own"}), "[gemm] expected library or auto on the CPU, got own: it needs a GPU");
    return;
  }
  REQUIRE(runs.train("own", "3", {"precision=fp32", "log_steps=1", "gemm=own"}) == 0);
  CHECK(gemm_kind() == GemmKind::own);
  CHECK(resolved("own").find("\ngemm: own                                    # command line\n") != std::string::npos);
  const auto by_library = losses("auto"), by_own = losses("own");
  REQUIRE(by_library.size() == 3);
  REQUIRE(by_own.size() == 3);
  for (size_t i = 0; i < 3; ++i) CHECK(by_own[i] == Approx(by_library[i]).epsilon(1e-4));
  CHECK((runs.file("auto", "discriminator.safetensors") != runs.file("own", "discriminator.safetensors")));
  // A resumed run keeps what was chosen.
  REQUIRE(runs.train("own", "4") == 0);
  CHECK(gemm_kind() == GemmKind::own);
  REQUIRE(runs.train("auto", "4") == 0);
  CHECK(gemm_kind() == GemmKind::library);
}

TEST_CASE("a resumed run takes the matrix library's algorithms from its checkpoint", test::kOnDevice) {
  const Runs runs;
  use_gemm_algorithms({});
  REQUIRE(runs.train("run", "2") == 0);
  const std::string kept = runs.file("run", kGemmAlgorithmsFile);
  const TunedGemm tuned = parse_tuned_gemm(kept, "kept");
  CHECK(tuned.algorithms.size() > 10);
  CHECK(tuned.algorithms == gemm_algorithms());
  use_gemm_algorithms({});  // as another process
  REQUIRE(runs.train("run", "3") == 0);
  CHECK(runs.file("run", kGemmAlgorithmsFile) == kept);
  // Our own products have none.
  REQUIRE(runs.train("own", "1", {"gemm=own"}) == 0);
  CHECK_FALSE(std::filesystem::exists(runs.run("own") + "/checkpoints/latest/" + kGemmAlgorithmsFile));
}
