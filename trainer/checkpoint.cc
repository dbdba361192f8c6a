#include "trainer/checkpoint.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "kernels/core/error.h"
#include "model/names.h"
#include "trainer/files.h"
#include "trainer/log.h"
#include "trainer/run_directory.h"

namespace electra {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr const char* kState = "state.json";
constexpr const char* kOptimizer = "optimizer.safetensors";

const char* file_of(Half half) { return half == Half::discriminator ? "discriminator.safetensors" : "generator.safetensors"; }

std::vector<int64_t> extents(const Shape& shape) {
  std::vector<int64_t> out;
  for (int i = 0; i < shape.rank(); ++i) out.push_back(shape[i]);
  return out;
}

std::span<const std::byte> slice(const Tensor& tensor, int64_t begin, const Shape& shape) {
  const size_t width = size_of(tensor.dtype);
  return {static_cast<const std::byte*>(tensor.data) + static_cast<size_t>(begin) * width, static_cast<size_t>(shape.size()) * width};
}

std::string weights_file(const ElectraConfig& config, const ParameterStore& store, Half half) {
  std::vector<NamedTensor> tensors;
  for (const PublishedTensor& t : published_tensors(config, store, half))
    tensors.push_back({t.name, "F32", extents(t.shape), slice(store.value(*t.parameter), t.begin, t.shape)});
  return tensors.empty() ? std::string() : to_safetensors(std::move(tensors), {{"format", "pt"}});
}

// "opt.discriminator/NAME.m" and ".v", by published names.
std::string optimizer_file(const ParameterStore& store) {
  std::vector<NamedTensor> tensors;
  for (const Parameter& p : store.parameters())
    for (const PublishedSlice& s : published_slices(p)) {
      const std::string name = "opt." + parameter_name(s.half, s.name);
      tensors.push_back({name + ".m", "F32", extents(s.shape), slice(store.first_moment(p), s.begin, s.shape)});
      tensors.push_back({name + ".v", "F32", extents(s.shape), slice(store.second_moment(p), s.begin, s.shape)});
    }
  return to_safetensors(std::move(tensors), {{"format", "pt"}});
}

ordered_json to_json(const TrainState& s) {
  ordered_json json = {{"format", "electra-checkpoint"}, {"version", 1}, {"step", s.step}, {"adam_step", s.adam_step},
                       {"bad_steps", s.bad_steps}, {"tokens", s.tokens}, {"epoch", s.epoch}, {"next_example", s.next_example}, {"taken_examples", s.taken_examples},
                       {"seconds", s.seconds}, {"best_loss", nullptr}, {"best_step", s.best_step},
                       {"source", s.source}, {"data_xxh64", s.data_xxh64}};
  if (s.best_loss) json["best_loss"] = *s.best_loss;
  return json;
}

TrainState state_from(const ordered_json& json) {
  TrainState s;
  json.at("step").get_to(s.step);
  json.at("adam_step").get_to(s.adam_step);
  json.at("bad_steps").get_to(s.bad_steps);
  json.at("tokens").get_to(s.tokens);
  json.at("epoch").get_to(s.epoch);
  json.at("next_example").get_to(s.next_example);
  s.taken_examples = json.value("taken_examples", uint64_t{0});
  json.at("seconds").get_to(s.seconds);
  if (!json.at("best_loss").is_null()) s.best_loss = json.at("best_loss").get<double>();
  json.at("best_step").get_to(s.best_step);
  s.source = json.value("source", "");
  s.data_xxh64 = json.value("data_xxh64", "");
  return s;
}

// A symbolic link that always points somewhere: made beside and renamed over.
void point_link(const fs::path& link, const fs::path& target) {
  const fs::path temporary = link.string() + ".tmp";
  std::error_code error;
  fs::remove(temporary, error);
  fs::create_symlink(target, temporary, error);
  if (error) throw IoError(link.string(), "expected to make a symbolic link, got '" + error.message() + "'");
  rename_durably(temporary, link);
}

// Reads state.json and checks every file against it. Throws FormatError and IoError.
TrainState verify(const fs::path& path) {
  const fs::path state_path = path / kState;
  try {
    const auto json = ordered_json::parse(read_file(state_path));
    if (json.at("format") != "electra-checkpoint" || json.at("version") != 1)
      throw FormatError(state_path.string(), "expected format electra-checkpoint, version 1, got another");
    // The state itself, less its own checksum.
    auto bare = json;
    const auto expected = bare.at("xxh64").get<std::string>();
    bare.erase("xxh64");
    if (const std::string got = hex64(xxh64(bare.dump())); got != expected)
      throw FormatError(state_path.string(), "expected checksum " + expected + ", got " + got);
    for (const auto& [name, entry] : json.at("files").items()) {
      const fs::path file = path / name;
      if (!fs::exists(file)) throw FormatError(file.string(), "expected a file of the checkpoint, got none");
      const MappedFile content(file);
      const auto size = entry.at("size").get<uint64_t>();
      if (content.bytes().size() != size)
        throw FormatError(file.string(), "expected " + std::to_string(size) + " bytes, got " + std::to_string(content.bytes().size()));
      const auto expected = entry.at("xxh64").get<std::string>(), got = hex64(xxh64(content.bytes()));
      if (got != expected) throw FormatError(file.string(), "expected checksum " + expected + ", got " + got);
    }
    return state_from(json);
  } catch (const nlohmann::json::exception& error) {
    throw FormatError(state_path.string(), std::string("expected the state of a checkpoint in JSON, got '") + error.what() + "'");
  }
}

// What to do where a checkpoint cannot be used; except: the name of that one.
std::string newest_good(const fs::path& folder, const fs::path& except = {}) {
  const auto steps = list_checkpoints(folder);
  for (auto it = steps.rbegin(); it != steps.rend(); ++it) {
    const fs::path candidate = folder / checkpoint_name(*it);
    if (candidate.filename() == except) continue;
    try {
      verify(candidate);
    } catch (const Error&) {
      continue;
    }
    return "the newest good checkpoint is " + candidate.string() + "; to go on from it: ln -sfn " + candidate.filename().string() + " " +
           (folder / "latest").string();
  }
  return "there is no good checkpoint beside it";
}

// A run, its folder of checkpoints, or a checkpoint: the checkpoint meant.
fs::path resolve(const fs::path& path) {
  const fs::path folders[] = {path / "checkpoints", path};
  for (const fs::path& link : {folders[0] / "latest", folders[1] / "latest", path}) {
    if (!fs::is_symlink(fs::symlink_status(link))) continue;
    std::error_code error;
    const fs::path target = fs::canonical(link, error);
    if (error) throw FormatError(link.string(), "expected a link to a checkpoint, got one to nothing; " + newest_good(link.parent_path()));
    if (link != path) return target;
  }
  if (!fs::exists(path)) throw IoError(path.string(), "expected a run or a checkpoint, got 'No such file or directory'");
  if (const fs::path own = fs::canonical(path); fs::exists(own / kState) || checkpoint_step(own.filename().string())) return own;
  for (const fs::path& folder : folders)
    if (!list_checkpoints(folder).empty())
      throw FormatError((folder / "latest").string(), "expected a link to a checkpoint, got none; " + newest_good(folder));
  throw IoError(path.string(), "expected a run with a checkpoint, or a checkpoint, got neither");
}

// A file that holds more than the model is of another model.
void check_no_surplus(const Safetensors& content, const std::set<std::string>& known) {
  for (const NamedTensor& t : content.tensors())
    if (!known.count(t.name)) throw FormatError(content.name(), "expected no tensor that the model lacks, got " + t.name);
}

void copy_in(const NamedTensor& from, const Tensor& to, int64_t begin) {
  std::memcpy(static_cast<std::byte*>(to.data) + static_cast<size_t>(begin) * size_of(to.dtype), from.data.data(), from.data.size());
}

}  // namespace

std::vector<int64_t> list_checkpoints(const fs::path& checkpoints) {
  std::vector<int64_t> steps;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(checkpoints, error))
    if (const auto step = checkpoint_step(entry.path().filename().string()); step && !entry.is_symlink()) steps.push_back(*step);
  std::sort(steps.begin(), steps.end());
  return steps;
}

fs::path save_checkpoint(const fs::path& checkpoints, const ElectraConfig& config, const ParameterStore& store,
                         const TrainState& state, const ExtraFiles& extra) {
  if (store.dtype() != DType::f32) throw Error("checkpoint", "expected fp32 parameters");
  StagedDirectory staging(checkpoints / checkpoint_name(state.step));
  ordered_json files = ordered_json::object();
  const auto write = [&](const std::string& name, const std::string& content) {
    write_file(staging.path() / name, content);
    files[name] = {{"size", content.size()}, {"xxh64", hex64(xxh64(content))}};
  };
  for (const Half half : {Half::discriminator, Half::generator})
    if (const std::string content = weights_file(config, store, half); !content.empty()) write(file_of(half), content);
  write(kOptimizer, optimizer_file(store));
  for (const auto& [name, content] : extra) write(name, content);
  ordered_json json = to_json(state);
  json["files"] = files;
  json["xxh64"] = hex64(xxh64(json.dump()));
  write_file(staging.path() / kState, json.dump(1) + "\n");
  staging.publish();
  point_link(checkpoints / "latest", checkpoint_name(state.step));
  return checkpoints / checkpoint_name(state.step);
}

void mark_best(const fs::path& checkpoints, int64_t step) { point_link(checkpoints / "best", checkpoint_name(step)); }

void prune_checkpoints(const fs::path& checkpoints, int64_t keep, bool keep_best) {
  std::error_code error;
  const fs::path best = fs::read_symlink(checkpoints / "best", error), latest = fs::read_symlink(checkpoints / "latest", error);
  const auto steps = list_checkpoints(checkpoints);
  for (size_t i = 0; i + static_cast<size_t>(std::max<int64_t>(keep, 1)) < steps.size(); ++i) {
    const std::string name = checkpoint_name(steps[i]);
    if (name == latest.string() || (keep_best && name == best.string())) continue;
    if (name == best.string()) fs::remove(checkpoints / "best", error);
    fs::remove_all(checkpoints / name, error);
  }
}

Checkpoint::Checkpoint(fs::path path) : path_(std::move(path)) {
  try {
    state_ = verify(path_);
  } catch (const Error& error) {
    throw FormatError(error.where(), std::string(error.detail()) + "; " + newest_good(path_.parent_path(), path_.filename()));
  }
}

Checkpoint Checkpoint::open(const fs::path& path) { return Checkpoint(resolve(path)); }

void Checkpoint::load_weights(const ElectraConfig& config, ParameterStore& store, bool whole) const {
  for (const Half half : {Half::discriminator, Half::generator}) {
    const auto tensors = published_tensors(config, store, half);
    const fs::path file = path_ / file_of(half);
    const bool exists = fs::exists(file);
    if (tensors.empty()) {
      if (exists && whole) log::info(file.string() + " is left behind: this configuration has no such half");
      continue;
    }
    if (!exists) throw FormatError(file.string(), "expected the weights of that half, got a checkpoint trained without it");
    const Safetensors content(read_file(file), file.string());
    std::set<std::string> known;
    for (const PublishedTensor& t : tensors) {
      copy_in(content.get(t.name, "F32", extents(t.shape)), store.value(*t.parameter), t.begin);
      known.insert(t.name);
    }
    if (whole) check_no_surplus(content, known);
  }
}

void Checkpoint::load_all(const ElectraConfig& config, ParameterStore& store) const {
  load_weights(config, store);
  const fs::path file = path_ / kOptimizer;
  const Safetensors content(read_file(file), file.string());
  std::set<std::string> known;
  const auto load = [&](const std::string& name, const Shape& shape, const Tensor& to, int64_t begin) {
    copy_in(content.get(name, "F32", extents(shape)), to, begin);
    known.insert(name);
  };
  for (const Parameter& p : store.parameters())
    for (const PublishedSlice& s : published_slices(p)) {
      const std::string name = "opt." + parameter_name(s.half, s.name);
      load(name + ".m", s.shape, store.first_moment(p), s.begin);
      load(name + ".v", s.shape, store.second_moment(p), s.begin);
    }
  check_no_surplus(content, known);
}

}  // namespace electra
