#include "trainer/pretrain.h"

#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <memory>
#include <optional>

#include "kernels/core/error.h"
#include "model/initialize.h"
#include "trainer/batch_source.h"
#include "trainer/build_info.h"
#include "trainer/checkpoint.h"
#include "trainer/data/data_set.h"
#include "trainer/device_info.h"
#include "trainer/evaluate.h"
#include "trainer/files.h"
#include "trainer/gemm_peak.h"
#include "trainer/log.h"
#include "trainer/metrics_log.h"
#include "trainer/pretrain_setup.h"
#include "trainer/progress.h"
#include "trainer/run_directory.h"
#include "trainer/schedule.h"
#include "trainer/signals.h"
#include "trainer/tensorboard.h"
#include "trainer/training_step.h"

namespace electra {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kBadStepsInARow = 3;
constexpr double kFewestPiecesKept = 0.9;  // below this share a warning names the key to change

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

// Text, vocabulary and examples of a run; absent parts for --synthetic.
struct RunData {
  std::unique_ptr<DataSet> set;
  std::unique_ptr<ExampleIndex> train, heldout;
  std::vector<PackedBatch> heldout_batches;
  SpecialIds special = kSyntheticSpecialIds;
};

RunData open_data(ResolvedConfig& resolved, bool synthetic) {
  RunData data;
  if (synthetic) return data;
  if (resolved.config.data.empty()) throw ConfigError("data", "expected data=DIR, a directory made by 'electra data build', got none");
  data.set = std::make_unique<DataSet>(resolved.config.data);
  data.special = data.set->special();
  set_value(resolved, "vocab_size", std::to_string(data.set->vocabulary().size()), "data");
  const PretrainConfig& config = resolved.config;
  data.train = std::make_unique<ExampleIndex>(data.set->train(), example_options(config), data.special);
  data.heldout = std::make_unique<ExampleIndex>(data.set->heldout(), example_options(config), data.special);
  data.heldout_batches = fixed_batches(*data.heldout, micro_batch_shape(config), config.eval.batches);
  return data;
}

class PretrainRun {
 public:
  explicit PretrainRun(PretrainRequest request)
      : request_(std::move(request)),
        pool_(request_.threads),
        data_(open_data(request_.config, request_.synthetic)),
        directory_(request_.resume ? RunDirectory::resume(config().run) : RunDirectory::create(config().run)) {}

  int run() {
    begin();
    int status = 0;
    while (state_.step < config().train_steps) {
      train_one_step();
      const int64_t step = state_.step;
      const bool last = step == config().train_steps, stop = signals_.received() != 0;
      if (step % config().log_steps == 0 || last) log_step();
      if (!data_.heldout_batches.empty() && (step % config().eval_steps == 0 || last)) evaluate();
      if (step % config().checkpoint_steps == 0 || last || stop) checkpoint();
      if (stop && !last) {
        status = signals_.exit_status();
        log::info(fmt::format("stopped by a signal after step {}; continue with: electra pretrain --resume {}", step, config().run));
        break;
      }
    }
    return status;
  }

 private:
  const PretrainConfig& config() const { return request_.config.config; }

  void begin() {
    log::set_file(directory_.log());
    for (const std::string& warning : request_.config.warnings) log::warning(warning);
    log::info(device_banner(request_.threads));
    log::info(fmt::format("electra {} ({})", build_info().version, build_info().commit));

    const Stream stream(pool_);
    const ElectraGraphOptions graph = graph_options(config(), data_.special, /*train=*/true, request_.threads);
    step_.emplace(config().model, micro_batch_shape(config()), graph, optimizer_config(config()), stream);
    if (request_.resume) {
      const Checkpoint checkpoint = Checkpoint::open(config().run);
      checkpoint.load_all(config().model, *step_->store());
      state_ = checkpoint.state();
    } else {
      initialize(*step_->store(), static_cast<uint64_t>(config().seed));
      if (!request_.init_from.empty()) Checkpoint::open(request_.init_from).load_weights(config().model, *step_->store());
    }
    state_.config_hash = config_hash(config());
    resumed_seconds_ = state_.seconds;
    make_source();
    if (!data_.heldout_batches.empty())
      evaluator_.emplace(config().model, micro_batch_shape(config()), graph, static_cast<uint64_t>(config().seed), stream, step_->store());

    const std::string yaml = to_yaml(request_.config);
    replace_file(directory_.config(), yaml);
    log::record("configuration:\n" + yaml);
    extra_["config.resolved.yaml"] = yaml;
    if (data_.set)
      for (const char* name : {"vocab.txt", "tokenizer_config.json"}) extra_[name] = read_file(data_.set->directory() / name);
    metrics_.emplace(request_.resume ? MetricsLog::resume(directory_.metrics(), state_.config_hash, state_.step)
                                     : MetricsLog::create(directory_.metrics(), state_.config_hash));
    tensorboard_.emplace(directory_.path());
    describe();
    gemm_peak_ = measure_gemm_peak(stream);
    progress_.emplace(request_.quiet ? Progress::Mode::quiet : Progress::Mode::automatic);
    started_ = Clock::now();
  }

  void make_source() {
    const BatchShape shape = micro_batch_shape(config());
    const auto seed = static_cast<uint64_t>(config().seed);
    const int64_t micro_batches = config().batch.accumulate;
    if (request_.synthetic) source_ = synthetic_source(shape, config().model.vocab_size, seed, state_.step, micro_batches);
    else if (request_.overfit > 0) source_ = overfit_source(*data_.train, shape, seed, request_.overfit, state_.step, micro_batches);
    else source_ = loader_source(*data_.train, shape, seed, {state_.epoch, state_.next_example}, micro_batches);
  }

  void describe() const {
    for (const std::string& line : deviations(config())) log::info(line);
    log::info(fmt::format("model: {:.2f} M parameters, {:.1f} GFLOP a step, activations {:.0f} MiB",
                          static_cast<double>(step_->store()->count()) / 1e6, step_flops() / 1e9,
                          static_cast<double>(step_->program().program().arena_bytes()) / 1048576.0));
    if (!data_.set) return;
    const double share = data_.train->share_kept();
    const double epochs = static_cast<double>(config().train_steps * config().tokens_per_step()) / static_cast<double>(data_.set->train().tokens());
    log::info(fmt::format("data: {} pieces, {} examples at length {}, {:.2f} % of the pieces kept; the run sees them about {:.1f} times",
                          data_.set->train().tokens(), data_.train->size(), config().seq_len, 100 * share, epochs));
    log::info(fmt::format("held out: {} pieces, unigram entropy {:.4f} nats", data_.set->heldout().tokens(), data_.set->heldout_unigram_entropy()));
    if (share < kFewestPiecesKept && config().examples.overflow == Recipe::google)
      log::info("what overflows an example is thrown away, as the original does; examples.overflow=fixed keeps it");
  }

  double step_flops() const { return step_->program().step_cost().flops * static_cast<double>(config().batch.accumulate); }

  void train_one_step() {
    const auto begin = Clock::now();
    const std::span<const HostBatch> batches = source_->next();
    const double waited = seconds_since(begin);
    const Schedule schedule{.learning_rate = config().optimizer.learning_rate,
                            .train_steps = config().train_steps,
                            .warmup_steps = config().warmup_steps,
                            .power = config().schedule.power,
                            .first_step_zero = config().schedule.first_step_zero};
    const StepState step{.seed = static_cast<uint64_t>(config().seed),
                         .step = static_cast<uint32_t>(state_.step),
                         .learning_rate = learning_rate(schedule, state_.step),
                         .adam_step = static_cast<uint32_t>(state_.adam_step + 1)};
    const StepResult result = step_->run(batches, step, sums_);
    learning_rate_ = step.learning_rate;
    grad_norm_ = result.grad_norm;
    state_.step += 1;
    state_.tokens += result.tokens;
    state_.epoch = source_->state().epoch;
    state_.next_example = source_->state().next;
    state_.seconds = resumed_seconds_ + seconds_since(started_);
    if (result.finite) {
      state_.adam_step += 1;
      state_.bad_steps = 0;
    } else {
      state_.bad_steps += 1;
      log::warning(fmt::format("[step {}] expected a finite loss and gradient norm, got loss {} and norm {}: the step is skipped",
                               state_.step, result.loss, result.grad_norm));
      if (state_.bad_steps == kBadStepsInARow)
        throw Error(fmt::format("step {}", state_.step),
                    fmt::format("expected a finite loss, got none {} times in a row; checkpoints in {} are as they were; lower "
                                "optimizer.learning_rate or raise warmup_steps",
                                kBadStepsInARow, directory_.checkpoints()));
    }
    const double share = static_cast<double>(result.tokens) / static_cast<double>(config().tokens_per_step());
    throughput_.add_step(result.tokens, step_flops() * share, seconds_since(begin), waited);
    show(result, false);
  }

  void show(const StepResult& result, bool log_step) {
    ProgressState p{.step = state_.step, .train_steps = config().train_steps};
    const Metrics m = log_step ? interval_metrics_ : sums_.metrics(config().model.gen_weight, config().model.disc_weight);
    p.loss = log_step ? m.loss : result.loss;
    p.masked_lm_loss = m.masked_lm_loss;
    p.disc_loss = m.disc_loss;
    p.tokens_per_second = throughput_.tokens_per_second();
    p.mfu = throughput_.flops_per_second() / gemm_peak_;
    p.data_wait = throughput_.data_wait();
    p.memory_bytes = resident_bytes();
    p.eta_seconds = throughput_.seconds_per_step() * static_cast<double>(config().train_steps - state_.step);
    progress_->update(p, log_step);
  }

  void log_step() {
    interval_metrics_ = sums_.metrics(config().model.gen_weight, config().model.disc_weight);
    sums_.clear();
    std::vector<Metric> line{{"tokens", state_.tokens}, {"seconds", state_.seconds}};
    std::vector<Scalar> scalars;
    for (const auto& [name, value] : named(interval_metrics_)) {
      line.emplace_back(name, value);
      scalars.push_back({name, value});
    }
    for (const auto& [name, value] : {std::pair<std::string_view, double>{"learning_rate", learning_rate_},
                                      {"grad_norm", grad_norm_},
                                      {"tokens_per_second", throughput_.tokens_per_second()},
                                      {"mfu", throughput_.flops_per_second() / gemm_peak_},
                                      {"data_wait", throughput_.data_wait()}}) {
      line.emplace_back(name, value);
      scalars.push_back({name, value});
    }
    metrics_->write("train", state_.step, line);
    tensorboard_->write(state_.step, scalars);
    show({.loss = interval_metrics_.loss}, true);
  }

  void evaluate() {
    size_t i = 0;
    const Metrics m = evaluator_->run(
        [&](HostBatch& batch) {
          if (i == data_.heldout_batches.size()) return false;
          batch = data_.heldout_batches[i++].view();
          return true;
        },
        config().metrics.auc_padding);
    std::vector<Metric> line{{"tokens", state_.tokens}, {"seconds", state_.seconds}};
    std::vector<std::string> tags;
    for (const auto& [name, value] : named(m)) {
      line.emplace_back(name, value);
      tags.push_back(fmt::format("eval/{}", name));
    }
    std::vector<Scalar> scalars;
    for (size_t k = 0; k < tags.size(); ++k) scalars.push_back({tags[k], named(m)[k].second});
    metrics_->write("eval", state_.step, line);
    tensorboard_->write(state_.step, scalars);
    log::info(fmt::format("step {} held out: loss {:.4f}, masked_lm_loss {:.4f}, masked_lm_accuracy {:.4f}, disc_loss {:.4f}, disc_auc {:.4f}, "
                          "replaced_fraction {:.4f}, skill {:.4f}",
                          state_.step, m.loss, m.masked_lm_loss, m.masked_lm_accuracy, m.disc_loss, m.disc_auc, m.replaced_fraction, m.skill));
    evaluated_ = {state_.step, m.loss};
  }

  // Only a step that is both evaluated and kept can be the best one: an evaluation between two checkpoints raises no bar.
  void checkpoint() {
    if (evaluated_.step == state_.step && std::isfinite(evaluated_.loss) && (!state_.best_loss || evaluated_.loss < *state_.best_loss)) {
      state_.best_loss = evaluated_.loss;
      state_.best_step = state_.step;
    }
    save_checkpoint(directory_.checkpoints(), config().model, *step_->store(), state_, extra_);
    if (state_.best_step == state_.step && state_.best_loss) mark_best(directory_.checkpoints(), state_.step);
    prune_checkpoints(directory_.checkpoints(), config().checkpoint.keep, config().checkpoint.keep_best);
    log::record(fmt::format("checkpoint of step {}", state_.step));
  }

  struct Evaluated {
    int64_t step = -1;
    double loss = 0;
  };

  PretrainRequest request_;
  Evaluated evaluated_;  // the last evaluation of this process
  const SignalGuard signals_;
  ThreadPool pool_;
  RunData data_;
  RunDirectory directory_;
  std::optional<TrainingStep> step_;
  std::optional<Evaluator> evaluator_;
  std::unique_ptr<BatchSource> source_;
  TrainState state_;
  ExtraFiles extra_;
  std::optional<MetricsLog> metrics_;
  std::optional<TensorBoardWriter> tensorboard_;
  std::optional<Progress> progress_;
  Throughput throughput_;
  MetricSums sums_;           // since the last log step
  Metrics interval_metrics_;
  double gemm_peak_ = 1, learning_rate_ = 0, grad_norm_ = 0, resumed_seconds_ = 0;
  Clock::time_point started_;
};

}  // namespace

int pretrain(PretrainRequest request) {
  if (request.config.config.run.empty()) throw ConfigError("run", "expected run=DIR, the directory to write to, got none");
  if (request.config.config.precision != Precision::fp32) throw ConfigError("precision", "expected fp32 on the CPU, got bf16");
  struct LogFile {
    ~LogFile() { log::set_file(""); }
  } const closes_log;
  PretrainRun run(std::move(request));
  return run.run();
}

}  // namespace electra
