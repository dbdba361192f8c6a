#include "trainer/pretrain.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <exception>
#include <memory>
#include <optional>
#include <utility>

#include "kernels/core/error.h"
#include "kernels/gemm.h"
#include "model/initialize.h"
#include "trainer/batch_source.h"
#include "trainer/build_info.h"
#include "trainer/checkpoint.h"
#include "trainer/config_summary.h"
#include "trainer/data/data_sets.h"
#include "trainer/device_info.h"
#include "trainer/evaluate.h"
#include "trainer/files.h"
#include "trainer/gemm_algorithms.h"
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
constexpr int64_t kBatchesLookedAt = 32;  // before a run says how well they are filled
// Of an evaluation's metrics, those of its line in the log.
constexpr std::array<std::string_view, 7> kShown = {"loss",     "masked_lm_loss",    "masked_lm_accuracy", "disc_loss",
                                                    "disc_auc", "replaced_fraction", "skill"};
constexpr double kFewestPiecesKept = 0.9;  // below this share a warning names the key to change

// The first Ctrl-C is answered at once, the loop sees it between two steps.
constexpr std::string_view kInterrupted = "stopping after this step, with a checkpoint; press Ctrl-C again to stop at once";

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

using Indices = std::vector<std::unique_ptr<ExampleIndex>>;

// Text, vocabulary and examples of a run; absent parts for --synthetic.
struct RunData {
  std::unique_ptr<DataSets> sets;
  Indices heldout;
  std::vector<PackedBatch> heldout_batches;
  SpecialIds special = kSyntheticSpecialIds;
  const Vocabulary* vocabulary() const { return sets ? &sets->first().vocabulary() : nullptr; }
};

RunData open_data(ResolvedConfig& resolved, bool synthetic) {
  RunData data;
  if (synthetic) return data;
  if (resolved.config.data.empty()) throw ConfigError("data", "expected data=DIR, a directory made by 'electra data build', got none");
  data.sets = std::make_unique<DataSets>(data_directories(resolved.config.data));
  data.special = data.sets->first().special();
  set_value(resolved, "vocab_size", std::to_string(data.sets->first().vocabulary().size()), "data");
  const PretrainConfig& config = resolved.config;
  data.heldout = example_indices(*data.sets, Side::heldout, example_options(config));
  data.heldout_batches = fixed_batches(views(data.heldout), micro_batch_shape(config), config.eval.batches);
  return data;
}

std::string source_of(const PretrainRequest& request) {
  if (request.synthetic) return "--synthetic";
  return request.overfit > 0 ? fmt::format("--overfit {}", request.overfit) : "data";
}

// Embeddings are of the entries of a vocabulary, whatever its size.
void check_vocabulary_of(const Checkpoint& checkpoint, const RunData& data) {
  if (!data.sets) return;
  const std::filesystem::path vocabulary = checkpoint.file("vocab.txt");
  if (!std::filesystem::exists(vocabulary))
    throw DataError(vocabulary.string(), "expected the vocabulary of the checkpoint, got none: it was trained with --synthetic");
  check_vocabulary(data.sets->first(), Vocabulary::load(vocabulary));
}

// A resumed run goes on with the batches and the settings it began with. now: source and data of this process.
void check_resumed(const Checkpoint& checkpoint, const TrainState& now, const RunData& data, const ResolvedConfig& config) {
  const TrainState& before = checkpoint.state();
  if (!before.source.empty() && before.source != now.source)
    throw ConfigError("command line", fmt::format("expected batches of {} as the run began, got {}; {}", before.source, now.source, kFixedOnResume));
  check_vocabulary_of(checkpoint, data);
  if (!before.source.empty() && before.data_xxh64 != now.data_xxh64)
    throw DataError(config.config.data, fmt::format("expected the data the run began with, checksum {}, got {}; {}", before.data_xxh64,
                                                    now.data_xxh64, kFixedOnResume));
  // A checkpoint written before a key was there has left it to the device.
  ResolvedConfig settings = load_config(checkpoint.file("config.resolved.yaml").string(), {});
  if (settings.config.gemm == GemmChoice::automatic) settings.config.gemm = config.config.gemm;
  check_resume(settings.config, config);
}

class PretrainRun {
 public:
  // Nothing is written before data and weights have been checked; the directory of a new run is the last thing to be made. That
  // of a resumed one is the first to be taken, so that no other process changes its checkpoints meanwhile.
  explicit PretrainRun(PretrainRequest request)
      : request_(std::move(request)), signals_(request_.quiet ? std::string_view() : kInterrupted), pool_(request_.threads), device_(request_.device.kind, pool_) {
    if (request_.resume) directory_.emplace(RunDirectory::resume(config().run));
    data_ = open_data(request_.config, request_.synthetic);
    make_model();
    make_source();
    if (!request_.resume) directory_.emplace(RunDirectory::create(config().run));
  }

  int run() {
    if (state_.step >= config().train_steps) {
      log::info(fmt::format("nothing to do: the run in {} is at step {} of train_steps={}; 'electra pretrain --resume {} train_steps=N' trains on",
                            config().run, state_.step, config().train_steps, config().run));
      return 0;
    }
    begin();
    int status = 0;
    bool due = false;
    while (state_.step < config().train_steps) {
      train_one_step();
      const int64_t step = state_.step;
      const bool last = step == config().train_steps, stop = signals_.received() != 0;
      if (step % config().log_steps == 0 || last) log_step();
      if (!data_.heldout_batches.empty() && (step % config().eval_steps == 0 || last)) evaluate();
      // While steps are being skipped a checkpoint waits for a good one: the last good one must outlive three in a row. The end
      // and a stop cannot wait.
      due = due || step % config().checkpoint_steps == 0;
      if ((due && state_.bad_steps == 0) || last || stop) {
        checkpoint();
        due = false;
      }
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

  void make_model() {
    std::optional<Checkpoint> resumed;
    if (request_.resume) resumed = Checkpoint::open(config().run);
    enter_phase(resumed ? resumed->state().step : 0);
    ParameterStore& store = step_->store()->on_host();
    TrainState start;
    start.source = source_of(request_);
    if (data_.sets) start.data_xxh64 = data_.sets->checksum();
    if (resumed) {
      check_resumed(*resumed, start, data_, request_.config);
      take_algorithms(*resumed);
      resumed->load_all(config().model, store);
      state_ = resumed->state();
      last_checkpoint_ = resumed->path().string();
    } else {
      initialize(store, static_cast<uint64_t>(config().seed));
      if (!request_.init_from.empty()) {
        const Checkpoint checkpoint = Checkpoint::open(request_.init_from);
        check_vocabulary_of(checkpoint, data_);
        checkpoint.load_weights(config().model, store);
      }
    }
    step_->store()->to_device();
    state_.source = start.source;
    state_.data_xxh64 = start.data_xxh64;
    resumed_seconds_ = state_.seconds;
    if (!data_.heldout_batches.empty())
      evaluator_.emplace(config().model, micro_batch_shape(config()), graph_options(config(), data_.special, /*train=*/true, device_.stream(), data_.vocabulary()),
                         static_cast<uint64_t>(config().seed), device_.stream(), step_->store());
  }

  // Makes the program for the sequences of a step; parameters and moments stay.
  void enter_phase(int64_t step) {
    phase_ = config().phase_at(step);
    phase_config_ = config();
    phase_config_.seq_len = phase_.seq_len;
    std::shared_ptr<ParameterStore> store = step_ ? step_->store() : nullptr;
    step_.reset();  // two programs need not fit beside each other
    step_.emplace(phase_config_.model, micro_batch_shape(phase_config_), graph_options(phase_config_, data_.special, /*train=*/true, device_.stream(), data_.vocabulary()),
                  optimizer_config(phase_config_), device_.stream(), Program::Options{}, std::move(store));
  }

  bool tunes_products() const { return device_.kind() != DeviceKind::cpu && gemm_kind() == GemmKind::library; }

  // The order in which products are summed is part of a run's bits: it goes on with the algorithms it was tuned to.
  void take_algorithms(const Checkpoint& checkpoint) {
    if (!tunes_products()) return;
    const std::filesystem::path file = checkpoint.file(kGemmAlgorithmsFile);
    std::string reason = "the checkpoint has none";
    if (std::filesystem::exists(file)) {
      TunedGemm tuned = parse_tuned_gemm(read_file(file), file.string());
      reason = why_not_used(tuned.environment, gemm_environment(device_));
      if (reason.empty()) use_gemm_algorithms(std::move(tuned.algorithms));
    }
    if (!reason.empty())
      notice_ = fmt::format("matrix products are tuned anew, so that bits may differ from those of a run that was not interrupted; of the algorithms before: {}", reason);
  }

  void begin() {
    log::set_file(directory_->log());
    for (const std::string& warning : request_.config.warnings) log::warning(warning);
    log::info(device_banner(request_.device, device_info(), request_.threads));
    const GemmLibrary library = gemm_library(device_.stream().backend());
    log::info(fmt::format("chosen: precision {} ({}), matrix products by {} ({}{})", config().precision == Precision::bf16 ? "bf16" : "fp32",
                          request_.config.origin("precision").text, gemm_kind() == GemmKind::own ? "our own kernels" : library.name,
                          request_.config.origin("gemm").text, library.why_unusable.empty() ? "" : ": " + library.why_unusable));
    log::info(fmt::format("electra {} ({})", build_info().version, build_info().commit));
    if (!notice_.empty()) log::info(notice_);
    const std::string yaml = to_yaml(request_.config);
    replace_file(directory_->config(), yaml);
    extra_["config.resolved.yaml"] = yaml;
    if (data_.sets)
      for (const char* name : {"vocab.txt", "tokenizer_config.json"}) extra_[name] = read_file(data_.sets->first().directory() / name);
    const std::string hash = config_hash(config());
    metrics_.emplace(request_.resume ? MetricsLog::resume(directory_->metrics(), hash, state_.step)
                                     : MetricsLog::create(directory_->metrics(), hash));
    tensorboard_.emplace(directory_->path());
    describe();
    gemm_peak_ = measure_gemm_peak(device_.stream(), step_->program().traced().graph->float_type());
    progress_.emplace(request_.quiet ? Progress::Mode::quiet : Progress::Mode::automatic);
    started_ = Clock::now();
  }

  // Batches of the phase's length, from the examples' beginning where it begins.
  void make_source() {
    const BatchShape shape = micro_batch_shape(phase_config_);
    const auto seed = static_cast<uint64_t>(config().seed);
    const int64_t micro_batches = config().batch.accumulate;
    source_.reset();
    if (request_.synthetic) {
      source_ = synthetic_source(shape, config().model.vocab_size, seed, state_.step, micro_batches);
      return;
    }
    train_ = example_indices(*data_.sets, Side::train, example_options(phase_config_));
    stream_ = example_stream(config(), views(train_));
    LoaderState start;
    if (state_.step != phase_.begin) start = {state_.epoch, state_.next_example, state_.taken_examples};
    source_ = request_.overfit > 0 ? overfit_source(*stream_, shape, seed, request_.overfit, state_.step, micro_batches)
                                   : loader_source(*stream_, shape, seed, start, micro_batches);
  }

  void describe() const {
    log::info(fmt::format("configuration, by origin; {} has it key by key:\n{}", directory_->config(), configuration_summary(request_.config)));
    for (const std::string& line : deviations(config())) log::info(line);
    describe_phase();
    if (!data_.sets) return;
    log::info(fmt::format("held out: {} pieces, unigram entropy {:.4f} nats", data_.sets->heldout_tokens(), data_.sets->heldout_unigram_entropy()));
  }

  void describe_phase() const {
    const int64_t steps = std::min(phase_.end, config().train_steps) - phase_.begin;
    const bool whole = config().phases().size() == 1;
    if (!whole) log::info(fmt::format("steps {} to {}: sequences of at most {} tokens", phase_.begin + 1, phase_.begin + steps, phase_.seq_len));
    log::info(fmt::format("model: {:.2f} M parameters, {:.1f} GFLOP a step, activations {:.0f} MiB",
                          static_cast<double>(step_->store()->count()) / 1e6, step_flops() / 1e9,
                          static_cast<double>(step_->program().program().arena_bytes()) / 1048576.0));
    if (!data_.sets) return;
    const double tokens = static_cast<double>(steps * phase_config_.tokens_per_step());
    for (size_t i = 0; i < data_.sets->count(); ++i) {
      const DataSet& set = (*data_.sets)[i];
      const double share = train_[i]->share_kept(), weight = stream_->share(i);
      log::info(fmt::format("data{}: {} pieces, {} examples at length {}, {:.2f} % of the pieces kept; {} them about {:.1f} times",
                            data_.sets->count() == 1 ? "" : fmt::format(" {}, {:.2f} % of the examples", set.directory().string(), 100 * weight), set.train().tokens(),
                            train_[i]->size(), phase_.seq_len, 100 * share, whole ? "the run sees" : "these steps see",
                            weight * tokens / static_cast<double>(set.train().tokens())));
      if (share < kFewestPiecesKept && config().examples.overflow == Recipe::google)
        log::info("what overflows an example is thrown away, as the original does; examples.overflow=fixed keeps it");
    }
    const BatchShape shape = micro_batch_shape(phase_config_);
    log::info(fmt::format("packing: batches have room for {} tokens in {} sequences, {:.2f} % of which the first {} use", shape.tokens, shape.sequences,
                          100 * packing_efficiency(*stream_, shape, static_cast<uint64_t>(config().seed), kBatchesLookedAt), kBatchesLookedAt));
  }

  double step_flops() const { return step_->program().step_cost().flops * static_cast<double>(config().batch.accumulate); }

  // The batches of the next step. What goes wrong is reported by that step, after this one has been logged and kept.
  void fetch() {
    const auto begin = Clock::now();
    try {
      batches_ = source_->next();
      after_ = source_->state();
    } catch (...) {
      batches_ = {};
      fetch_failure_ = std::current_exception();
    }
    waited_ = seconds_since(begin);
  }

  void train_one_step() {
    const auto begin = Clock::now();
    if (state_.step == phase_.end) {
      enter_phase(state_.step);
      make_source();
      describe_phase();
    }
    if (batches_.empty() && !fetch_failure_) fetch();
    if (fetch_failure_) std::rethrow_exception(fetch_failure_);
    const Schedule schedule{.learning_rate = config().optimizer.learning_rate,
                            .train_steps = config().train_steps,
                            .warmup_steps = config().warmup_steps,
                            .power = config().schedule.power,
                            .first_step_zero = config().schedule.first_step_zero};
    const StepState step{.seed = static_cast<uint64_t>(config().seed),
                         .step = static_cast<uint32_t>(state_.step),
                         .learning_rate = learning_rate(schedule, state_.step),
                         .adam_step = static_cast<uint32_t>(state_.adam_step + 1)};
    step_->begin(batches_, step);
    const LoaderState place = after_;
    const double waited = std::exchange(waited_, 0);
    // A GPU computes meanwhile, and the first batch of the next step is on its way before this one is done.
    if (state_.step + 1 < std::min(config().train_steps, phase_.end)) fetch();
    else batches_ = {};
    if (!batches_.empty()) step_->stage(batches_[0]);
    const StepResult result = step_->finish(sums_);
    learning_rate_ = step.learning_rate;
    grad_norm_ = result.grad_norm;
    state_.step += 1;
    state_.tokens += result.tokens;
    state_.epoch = place.epoch;
    state_.next_example = place.next;
    state_.taken_examples = place.taken;
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
                    fmt::format("expected a finite loss, got none {} times in a row; {}; lower optimizer.learning_rate or raise warmup_steps",
                                kBadStepsInARow,
                                last_checkpoint_.empty() ? "there is no checkpoint yet" : "the last good checkpoint is " + last_checkpoint_));
    }
    const double share = static_cast<double>(result.tokens) / static_cast<double>(phase_config_.tokens_per_step());
    packing_.tokens += result.tokens;
    packing_.capacity += phase_config_.tokens_per_step();
    throughput_.add_step(result.tokens, step_flops() * share, seconds_since(begin), waited);
    show(result, false);
  }

  void show(const StepResult& result, bool log_step) {
    ProgressState p{.step = state_.step, .train_steps = config().train_steps};
    const Metrics m = log_step ? interval_metrics_ : sums_.metrics(config().model, config().metrics.auc_padding);
    p.loss = log_step ? m.loss : result.loss;
    p.masked_lm_loss = m.masked_lm_loss;
    p.disc_loss = m.discriminator ? m.disc_loss : -1;
    p.tokens_per_second = throughput_.tokens_per_second();
    p.mfu = throughput_.flops_per_second() / gemm_peak_;
    p.data_wait = throughput_.data_wait();
    p.memory_bytes = resident_bytes();
    p.eta_seconds = throughput_.seconds_per_step() * static_cast<double>(config().train_steps - state_.step);
    progress_->update(p, log_step);
  }

  // A line of metrics.jsonl, where what is not finite is null, and TensorBoard's scalars, where it is left out.
  void write_metrics(std::string_view kind, std::string_view tag_prefix, const std::vector<std::pair<std::string_view, double>>& metrics) {
    std::vector<Metric> line{{"tokens", state_.tokens}, {"seconds", state_.seconds}};
    std::vector<std::string> tags;
    for (const auto& [name, value] : metrics) {
      line.emplace_back(name, value);
      tags.push_back(fmt::format("{}{}", tag_prefix, name));
    }
    std::vector<Scalar> scalars;
    for (size_t i = 0; i < metrics.size(); ++i)
      if (std::isfinite(metrics[i].second)) scalars.push_back({tags[i], metrics[i].second});
    metrics_->write(kind, state_.step, line);
    tensorboard_->write(state_.step, scalars);
  }

  void log_step() {
    interval_metrics_ = sums_.metrics(config().model, config().metrics.auc_padding);
    sums_.clear();
    auto metrics = named(interval_metrics_);
    metrics.insert(metrics.end(), {{"learning_rate", learning_rate_},
                                   {"grad_norm", grad_norm_},
                                   {"tokens_per_second", throughput_.tokens_per_second()},
                                   {"mfu", throughput_.flops_per_second() / gemm_peak_},
                                   {"data_wait", throughput_.data_wait()},
                                   {"packing_efficiency", static_cast<double>(packing_.tokens) / static_cast<double>(packing_.capacity)}});
    packing_ = {};
    write_metrics("train", "", metrics);
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
    write_metrics("eval", "eval/", named(m));
    std::string text = fmt::format("step {} held out:", state_.step);
    for (const auto& [name, value] : named(m))
      if (std::find(kShown.begin(), kShown.end(), name) != kShown.end()) text += fmt::format("{} {} {:.4f}", text.ends_with(':') ? "" : ",", name, value);
    log::info(text);
    evaluated_ = {state_.step, m.loss};
  }

  // Only a step that is both evaluated and kept can be the best one: an evaluation between two checkpoints raises no bar.
  void checkpoint() {
    if (evaluated_.step == state_.step && std::isfinite(evaluated_.loss) && (!state_.best_loss || evaluated_.loss < *state_.best_loss)) {
      state_.best_loss = evaluated_.loss;
      state_.best_step = state_.step;
    }
    const std::string checkpoints = directory_->checkpoints();
    if (tunes_products()) extra_[kGemmAlgorithmsFile] = to_json(TunedGemm{gemm_environment(device_), gemm_algorithms()});
    last_checkpoint_ = save_checkpoint(checkpoints, config().model, step_->store()->on_host(), state_, extra_).string();
    if (state_.best_step == state_.step && state_.best_loss) mark_best(checkpoints, state_.step);
    if (state_.bad_steps == 0) prune_checkpoints(checkpoints, config().checkpoint.keep, config().checkpoint.keep_best);
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
  const Device device_;
  RunData data_;
  std::optional<RunDirectory> directory_;
  std::optional<TrainingStep> step_;
  std::optional<Evaluator> evaluator_;
  LengthPhase phase_;            // of the next step
  PretrainConfig phase_config_;  // the configuration with its length
  Indices train_;                // at that length, a data set each
  std::optional<ExampleStream> stream_;  // of train_
  std::unique_ptr<BatchSource> source_;
  std::span<const HostBatch> batches_;  // of the next step; the first of them may be on the device already
  LoaderState after_;                   // where the data goes on after them
  std::exception_ptr fetch_failure_;
  double waited_ = 0;                   // for batches_, in seconds
  TrainState state_;
  std::string notice_;           // for the log, once there is one
  std::string last_checkpoint_;  // its path, once there is one
  ExtraFiles extra_;
  std::optional<MetricsLog> metrics_;
  std::optional<TensorBoardWriter> tensorboard_;
  std::optional<Progress> progress_;
  Throughput throughput_;
  MetricSums sums_;           // since the last log step
  struct {
    int64_t tokens = 0, capacity = 0;
  } packing_;                 // since then, too
  Metrics interval_metrics_;
  double gemm_peak_ = 1, learning_rate_ = 0, grad_norm_ = 0, resumed_seconds_ = 0;
  Clock::time_point started_;
};

}  // namespace

int pretrain(PretrainRequest request) {
  if (request.config.config.run.empty()) throw ConfigError("run", "expected run=DIR, the directory to write to, got none");
  const Backend backend = request.device.kind == DeviceKind::cpu ? Backend::cpu : Backend::cuda;
  choose_for_device(request.config, backend);
  use_gemm(request.config.config.gemm, backend);
  struct LogFile {
    ~LogFile() { log::set_file(""); }
  } const closes_log;
  PretrainRun run(std::move(request));
  return run.run();
}

}  // namespace electra
