#include "trainer/golden.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "kernels/core/error.h"
#include "model/formats/safetensors.h"
#include "model/names.h"
#include "trainer/electra_program.h"
#include "trainer/files.h"
#include "trainer/optimizer.h"

namespace electra {
namespace {

struct GoldenConfig {
  ElectraConfig model;
  OptimizerConfig optimizer;
  double learning_rate = 0;
  int64_t steps = 1;
};

GoldenConfig parse_config(const Safetensors& file) {
  const auto& metadata = file.metadata();
  const auto at = [&](const char* key) -> const std::string& {
    const auto it = metadata.find(key);
    if (it == metadata.end()) throw FormatError(file.name(), std::string("expected metadata '") + key + "' of a golden file, got none");
    return it->second;
  };
  if (at("format") != "electra-golden" || at("version") != "1")
    throw FormatError(file.name(), "expected format electra-golden, version 1, got " + at("format") + ", version " + at("version"));
  try {
    const auto json = nlohmann::json::parse(at("config"));
    GoldenConfig c;
    const auto encoder = [](const nlohmann::json& j) {
      return EncoderConfig{j.at("hidden_size"), j.at("num_layers"), j.at("num_heads"), j.at("intermediate_size")};
    };
    json.at("vocab_size").get_to(c.model.vocab_size);
    json.at("embedding_size").get_to(c.model.embedding_size);
    json.at("max_position_embeddings").get_to(c.model.max_position_embeddings);
    json.at("type_vocab_size").get_to(c.model.type_vocab_size);
    json.at("layer_norm_eps").get_to(c.model.layer_norm_eps);
    json.at("gen_weight").get_to(c.model.gen_weight);
    json.at("disc_weight").get_to(c.model.disc_weight);
    c.model.discriminator = encoder(json.at("discriminator"));
    c.model.generator = encoder(json.at("generator"));
    const auto& o = json.at("optimizer");
    o.at("lr").get_to(c.learning_rate);
    o.at("beta1").get_to(c.optimizer.beta1);
    o.at("beta2").get_to(c.optimizer.beta2);
    o.at("eps").get_to(c.optimizer.eps);
    o.at("weight_decay").get_to(c.optimizer.weight_decay);
    o.at("clip_norm").get_to(c.optimizer.clip_norm);
    o.at("bias_correction").get_to(c.optimizer.bias_correction);
    o.at("steps").get_to(c.steps);
    if (c.steps < 1) throw FormatError(file.name(), "expected optimizer.steps of at least 1, got " + std::to_string(c.steps));
    validate(c.model);
    return c;
  } catch (const nlohmann::json::exception& error) {
    throw FormatError(file.name(), std::string("expected the model's sizes in metadata 'config', got '") + error.what() + "'");
  } catch (const ConfigError& error) {
    throw FormatError(file.name(), std::string("expected a model that can be built in metadata 'config', got '") + error.what() + "'");
  }
}

template <class T> std::vector<T> values(const NamedTensor& t) {
  std::vector<T> out(t.data.size() / sizeof(T));
  std::memcpy(out.data(), t.data.data(), t.data.size());
  return out;
}

std::vector<double> doubles(const Tensor& t, int64_t begin, int64_t count) {
  std::vector<double> out(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i)
    out[static_cast<size_t>(i)] = t.dtype == DType::f64 ? t.as<double>()[begin + i] : static_cast<double>(t.as<float>()[begin + i]);
  return out;
}

void store_value(const Tensor& t, int64_t i, float value) {
  if (t.dtype == DType::f64) t.as<double>()[i] = static_cast<double>(value);
  else t.as<float>()[i] = value;
}

std::vector<int64_t> extents(const Shape& shape) {
  std::vector<int64_t> out;
  for (int i = 0; i < shape.rank(); ++i) out.push_back(shape[i]);
  return out;
}

class GoldenRun {
 public:
  GoldenRun(const std::filesystem::path& path, DType dtype, Stream stream)
      : file_(read_file(path), path.string()), config_(parse_config(file_)), dtype_(dtype), stream_(stream) {
    read_batch();
    ElectraGraphOptions options;
    options.train = false;  // dropout is off
    options.corruption = Corruption::given;
    options.masking.max_predictions = slots_;
    options.keep_logits = file_.find("expect/masked_lm_logits") != nullptr;
    options.float_type = dtype;
    options.max_threads = stream.pool().threads();
    options.backend = stream.backend();
    int64_t tokens = 0;
    for (const int32_t n : lengths_) tokens += n;
    program_ = std::make_unique<ElectraProgram>(
        trace_electra(config_.model, {.sequences = sequences_, .tokens = tokens, .max_seq_len = columns_}, options), /*train=*/true, stream);
    load_weights();
    load_batch();
  }

  std::vector<GoldenLine> run() {
    const ElectraGraph& g = program_->traced();
    Optimizer optimizer(*program_->store(), config_.optimizer, stream_);
    std::vector<double> step_losses, losses, disc_logits, masked_lm_logits, norm;
    std::vector<std::vector<double>> gradients;
    const Slices slices = all_slices();
    for (int64_t step = 0; step < config_.steps; ++step) {
      state_.step = static_cast<uint32_t>(step);
      state_.adam_step = static_cast<uint32_t>(step + 1);
      program_->forward_backward(state_, true);
      step_losses.push_back(doubles(program_->output(g.loss), 0, 1)[0]);
      if (step == 0) {
        for (const Value v : {g.loss, g.masked_lm_loss, g.disc_loss}) losses.push_back(doubles(program_->output(v), 0, 1)[0]);
        disc_logits = padded_disc_logits();
        if (const Tensor t = program_->output(g.masked_lm_logits)) masked_lm_logits = doubles(t, 0, t.size());
        const ParameterStore& store = program_->store()->on_host();
        for (const auto& [parameter, slice] : slices) gradients.push_back(doubles(store.grad(*parameter), slice.begin, slice.shape.size()));
      }
      optimizer.step(state_, step_losses.back());
      if (step == 0) norm.push_back(optimizer.grad_norm());
    }

    compare("expect/loss", {losses[0]}, GoldenKind::forward, {1}, 0);
    compare("expect/masked_lm_loss", {losses[1]}, GoldenKind::forward, {1}, 0);
    compare("expect/disc_loss", {losses[2]}, GoldenKind::forward, {1}, 0);
    compare("expect/grad_norm", norm, GoldenKind::gradient, {1}, 0);
    compare("expect/disc_logits", disc_logits, GoldenKind::forward, {sequences_, columns_}, 0);
    if (!masked_lm_logits.empty())
      compare("expect/masked_lm_logits", masked_lm_logits, GoldenKind::forward, {sequences_, slots_, config_.model.vocab_size}, 0);
    if (file_.find("expect/step_losses")) compare("expect/step_losses", step_losses, GoldenKind::forward, {config_.steps}, 0);
    // The floor is the file's: a wrong gradient of ours must not widen its own bounds.
    const double expected_norm = values<double>(tensor("expect/grad_norm", "F64", {1}))[0];
    if (!(std::isfinite(expected_norm) && expected_norm >= 0))
      throw FormatError(file_.name(), "expected a finite expect/grad_norm of at least 0, got " + std::to_string(expected_norm));
    const ParameterStore& store = program_->store()->on_host();
    for (size_t i = 0; i < slices.size(); ++i) {
      const auto& [parameter, slice] = slices[i];
      const std::string name = parameter_name(slice.half, slice.name);
      compare("grad/" + name, gradients[i], GoldenKind::gradient, extents(slice.shape), 1e-4 * expected_norm);
      const auto after = doubles(store.value(*parameter), slice.begin, slice.shape.size());
      compare("after/" + name, after, GoldenKind::weight, extents(slice.shape), config_.learning_rate, weight(name, slice.shape));
    }
    check_all_used();
    return std::move(lines_);
  }

 private:
  using Slices = std::vector<std::pair<const Parameter*, PublishedSlice>>;

  Slices all_slices() const {
    Slices all;
    for (const Parameter& p : program_->store()->parameters())
      for (const PublishedSlice& s : published_slices(p)) all.emplace_back(&p, s);
    return all;
  }

  const NamedTensor& tensor(const std::string& name, std::string_view dtype, const std::vector<int64_t>& shape) {
    used_.insert(name);
    return file_.get(name, dtype, shape);
  }

  // What the file says and nobody asked for would pass unseen.
  void check_all_used() const {
    for (const NamedTensor& t : file_.tensors())
      for (const char* prefix : {"weight/", "grad/", "after/", "expect/"})
        if (t.name.starts_with(prefix) && !used_.contains(t.name))
          throw FormatError(file_.name(), "expected only tensors that the model in metadata 'config' has, got " + t.name);
  }

  std::vector<double> weight(const std::string& name, const Shape& shape) {
    const auto floats = values<float>(tensor("weight/" + name, "F32", extents(shape)));
    return {floats.begin(), floats.end()};
  }

  void read_batch() {
    const NamedTensor* ids = file_.find("input/ids");
    const NamedTensor* positions = file_.find("input/masked_positions");
    if (!ids || ids->shape.size() != 2) throw FormatError(file_.name(), "expected a tensor input/ids of shape [B,T], got none");
    if (!positions || positions->shape.size() != 2) throw FormatError(file_.name(), "expected a tensor input/masked_positions of shape [B,P], got none");
    sequences_ = ids->shape[0];
    columns_ = ids->shape[1];
    slots_ = positions->shape[1];
    lengths_ = values<int32_t>(file_.get("input/lengths", "I32", {sequences_}));
    for (const int32_t n : lengths_)
      if (n < 1 || n > columns_) throw FormatError(file_.name(), "expected input/lengths from 1 to " + std::to_string(columns_) + ", got " + std::to_string(n));
  }

  void load_weights() {
    const ParameterStore& store = program_->store()->on_host();
    for (const auto& [parameter, slice] : all_slices()) {
      const std::string name = parameter_name(slice.half, slice.name);
      const auto source = values<float>(tensor("weight/" + name, "F32", extents(slice.shape)));
      for (size_t i = 0; i < source.size(); ++i)
        store_value(store.value(*parameter), slice.begin + static_cast<int64_t>(i), source[i]);
    }
    program_->store()->to_device();
  }

  // Packs the padded rows end to end.
  void load_batch() {
    const std::vector<int64_t> grid{sequences_, columns_}, slots{sequences_, slots_};
    const auto ids = values<int32_t>(file_.get("input/ids", "I32", grid)), segments = values<int32_t>(file_.get("input/segments", "I32", grid));
    const auto masked = values<int32_t>(file_.get("input/masked_ids", "I32", grid));
    const auto positions = values<int32_t>(file_.get("input/masked_positions", "I32", slots)), sampled = values<int32_t>(file_.get("input/sampled_ids", "I32", slots));
    const auto weights = values<float>(file_.get("input/masked_weights", "F32", slots));
    const ElectraGraph& g = program_->traced();
    const auto put = [&](Value v, int64_t i, int32_t x) { program_->input(v).as<int32_t>()[i] = x; };
    int64_t row = 0;
    double weight_sum = 0;
    put(g.batch.sequence_offsets, 0, 0);
    for (int64_t s = 0; s < sequences_; ++s) {
      for (int64_t j = 0; j < slots_; ++j) {
        const auto k = static_cast<size_t>(s * slots_ + j);
        const int32_t p = positions[k];
        const bool used = weights[k] != 0;
        if (used && (p < 0 || p >= lengths_[static_cast<size_t>(s)]))
          throw FormatError(file_.name(), "expected input/masked_positions within the sequence's length, got " + std::to_string(p));
        put(g.masked.rows, s * slots_ + j, used ? static_cast<int32_t>(row + p) : 0);
        put(g.masked.targets, s * slots_ + j, used ? ids[static_cast<size_t>(s * columns_ + p)] : 0);
        put(g.sampled_ids, s * slots_ + j, sampled[k]);
        program_->input(g.masked.weights).as<float>()[s * slots_ + j] = weights[k];
        weight_sum += static_cast<double>(weights[k]);
      }
      for (int64_t t = 0; t < lengths_[static_cast<size_t>(s)]; ++t, ++row) {
        const auto k = static_cast<size_t>(s * columns_ + t);
        put(g.batch.ids, row, ids[k]);
        put(g.batch.segments, row, segments[k]);
        put(g.masked.masked_ids, row, masked[k]);
      }
      put(g.batch.sequence_offsets, s + 1, static_cast<int32_t>(row));
    }
    state_.masked_lm_denominator = weight_sum;
    state_.disc_denominator = static_cast<double>(row);
    state_.learning_rate = config_.learning_rate;
  }

  // As the file has them: a row a sequence, 0 at padding.
  std::vector<double> padded_disc_logits() const {
    const Tensor logits = program_->output(program_->traced().disc_logits);
    std::vector<double> out(static_cast<size_t>(sequences_ * columns_), 0.0);
    int64_t row = 0;
    for (int64_t s = 0; s < sequences_; ++s)
      for (int64_t t = 0; t < lengths_[static_cast<size_t>(s)]; ++t, ++row) out[static_cast<size_t>(s * columns_ + t)] = doubles(logits, row, 1)[0];
    return out;
  }

  void compare(const std::string& name, const std::vector<double>& got, GoldenKind kind, const std::vector<int64_t>& shape, double floor,
               const std::vector<double>& base = {}) {
    double reference = 0;
    if (dtype_ == DType::bf16) {
      reference = values<double>(tensor("bf16_error/" + name, "F64", {1}))[0];
      if (!(std::isfinite(reference) && reference >= 0))
        throw FormatError(file_.name(), "expected a finite bf16_error/" + name + " of at least 0, got " + std::to_string(reference));
    }
    lines_.push_back(judge(name, got, values<double>(tensor(name, "F64", shape)), base, kind, dtype_, floor, reference));
  }

  Safetensors file_;
  std::set<std::string> used_;  // names of tensors that were asked for
  GoldenConfig config_;
  DType dtype_;
  Stream stream_;
  int64_t sequences_ = 0, columns_ = 0, slots_ = 0;
  std::vector<int32_t> lengths_;
  std::unique_ptr<ElectraProgram> program_;
  StepState state_;
  std::vector<GoldenLine> lines_;
};

double factor(GoldenKind kind, DType dtype) {
  const bool exact = dtype == DType::f64;
  switch (kind) {
    case GoldenKind::forward: return exact ? 1e-9 : 1e-5;
    case GoldenKind::gradient: return exact ? 1e-9 : 3e-5;
    case GoldenKind::weight: return exact ? 1e-8 : 1e-3;
  }
  return 0;
}

}  // namespace

GoldenLine judge(std::string name, const std::vector<double>& got, const std::vector<double>& expected,
                 const std::vector<double>& base, GoldenKind kind, DType dtype, double floor, double bf16_error) {
  GoldenLine line{.name = std::move(name)};
  double scale = floor;
  for (size_t i = 0; i < expected.size(); ++i) {
    scale = std::max(scale, std::abs(expected[i] - (base.empty() ? 0.0 : base[i])));
    const double difference = std::abs(got[i] - expected[i]);
    if (difference > line.absolute || std::isnan(difference)) {
      line.absolute = std::isnan(difference) ? std::numeric_limits<double>::infinity() : difference;
      line.index = static_cast<int64_t>(i);
    }
  }
  line.bound = dtype == DType::bf16 ? 2 * bf16_error + 0x1p-7 * scale : factor(kind, dtype) * scale;
  line.relative = scale > 0 ? line.absolute / scale : line.absolute;
  line.passed = std::isfinite(line.absolute) && line.absolute <= line.bound;  // an infinite expectation has an infinite bound
  return line;
}

std::vector<GoldenLine> check_golden(const std::filesystem::path& file, DType dtype, Stream stream) {
  if (dtype == DType::bf16) {
    const Safetensors content(read_file(file), file.string());
    const auto& tensors = content.tensors();
    if (std::none_of(tensors.begin(), tensors.end(), [](const NamedTensor& t) { return t.name.starts_with("bf16_error/"); }))
      throw FormatError(file.string(), "no bf16 reference in this file: expected tensors bf16_error/…, got none");
    if (stream.backend() == Backend::cpu) throw ConfigError("--dtype", "expected f64 or f32 on the CPU, got bf16");
  }
  if (dtype == DType::f64 && stream.backend() != Backend::cpu) throw ConfigError("--dtype", "expected f32 or bf16 on a GPU, got f64");
  return GoldenRun(file, dtype, stream).run();
}

}  // namespace electra
