#include "tests/op_test.h"

#include <algorithm>
#include <bit>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <limits>
#include <nlohmann/json.hpp>
#include <numbers>

#include "kernels/core/bf16.h"
#include "kernels/core/error.h"
#include "kernels/core/gpu.h"
#include "kernels/core/philox.h"
#include "tests/on_device.h"
#include "tests/source_directory.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(at, bytes) (static_cast<void>(at), static_cast<void>(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(at, bytes) (static_cast<void>(at), static_cast<void>(bytes))
#endif

namespace electra::test {
namespace {

constexpr size_t kGuard = 64;  // bytes before and after a tensor
constexpr size_t kDeviceGuard = 256;
constexpr std::byte kGuardByte{0xff};
constexpr double kNaiveError = 1e-3;  // of the tensor's largest value, or of kNaiveFloor where that is smaller
constexpr double kNaiveFloor = 1e-3;
constexpr double kStatisticUlps = 16;  // least k, in fp32, of a bf16 run's statistic: means are smaller than what they are means of
constexpr int64_t kMostQuotients = 96;  // elements of a tensor that check_gradients differentiates by

double tolerance_scale() {
  static const double scale = [] {
    const char* text = std::getenv("ELECTRA_TOL_SCALE");
    return text ? std::atof(text) : 1.0;
  }();
  return scale;
}

double rounded(DType dtype, double x) {
  const auto f = static_cast<float>(x);
  return static_cast<double>(dtype == DType::bf16 ? electra::to_float(electra::to_bf16(f)) : f);
}

double largest(const std::vector<double>& v) {
  double m = 0;
  for (const double x : v) m = std::max(m, std::abs(x));
  return m;
}

double ulp(DType dtype, double magnitude) {
  return magnitude > 0 ? std::ldexp(1.0, std::max(std::ilogb(magnitude), -126) - (dtype == DType::bf16 ? 7 : 23)) : 0;
}

// Memory of one tensor between guard bytes, aligned as an arena aligns it.
class Block {
 public:
  // The executor checks the exact bounds of what it allocated, so there nothing lies around a tensor.
  Block(size_t bytes, Backend backend)
      : backend_(backend),
        guard_(backend == Backend::cpu ? kGuard : kGpuBuild == GpuBuild::SIMT ? 0 : kDeviceGuard),
        buffer_(bytes + 2 * guard_, memory_of(backend)),
        bytes_(bytes) {
    for (std::byte* guard : {buffer_.data(), data() + bytes}) {
      write(guard, std::vector<std::byte>(guard_, kGuardByte));
      if (backend_ == Backend::cpu) ASAN_POISON_MEMORY_REGION(guard, kGuard);
    }
  }
  ~Block() {
    if (backend_ == Backend::cpu) ASAN_UNPOISON_MEMORY_REGION(buffer_.data(), buffer_.bytes());
  }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  std::byte* data() const { return buffer_.data() + guard_; }
  size_t bytes() const { return bytes_; }
  std::vector<std::byte> copy() const { return read(data(), bytes_); }
  void set(const std::vector<std::byte>& content) const { write(data(), content); }
  void poison() const {
    ThreadPool pool(1);
    electra::poison(data(), bytes_, backend_ == Backend::cpu ? Stream(pool) : test_device().stream());
  }
  bool guards_intact() const {
    const auto intact = [this](std::byte* guard) {
      if (backend_ == Backend::cpu) ASAN_UNPOISON_MEMORY_REGION(guard, kGuard);
      const std::vector<std::byte> content = read(guard, guard_);
      const bool whole = std::all_of(content.begin(), content.end(), [](std::byte b) { return b == kGuardByte; });
      if (backend_ == Backend::cpu) ASAN_POISON_MEMORY_REGION(guard, kGuard);
      return whole;
    };
    return intact(buffer_.data()) && intact(data() + bytes_);
  }

 private:
  void write(std::byte* to, const std::vector<std::byte>& content) const {
    if (backend_ == Backend::cpu) return static_cast<void>(std::copy(content.begin(), content.end(), to));
    electra::copy(to, content.data(), content.size(), test_device().stream());
    test_device().stream().synchronize();
  }
  std::vector<std::byte> read(const std::byte* from, size_t bytes) const {
    std::vector<std::byte> content(bytes);
    if (backend_ == Backend::cpu) return {from, from + bytes};
    electra::copy(content.data(), from, bytes, test_device().stream());
    test_device().stream().synchronize();
    return content;
  }

  Backend backend_;
  size_t guard_;
  Buffer buffer_;
  size_t bytes_;
};

// Calls f with a value of the type that stands for dtype.
template <class F> auto with_type(DType dtype, F f) {
  switch (dtype) {
    case DType::f64: return f(double{});
    case DType::f32: return f(float{});
    case DType::bf16: return f(bf16{});
    case DType::i32: return f(int32_t{});
    case DType::i64: return f(int64_t{});
    case DType::u8: break;
  }
  return f(uint8_t{});
}

std::vector<std::byte> encode(DType dtype, const std::vector<double>& values) {
  return with_type(dtype, [&]<class T>(T) {
    std::vector<std::byte> bytes(values.size() * sizeof(T));
    for (size_t i = 0; i < values.size(); ++i) {
      T element;
      if constexpr (std::is_same_v<T, bf16>) element = electra::to_bf16(static_cast<float>(values[i]));
      else element = static_cast<T>(values[i]);
      std::memcpy(bytes.data() + i * sizeof(T), &element, sizeof(T));
    }
    return bytes;
  });
}

std::vector<double> decode(DType dtype, const std::vector<std::byte>& bytes) {
  return with_type(dtype, [&]<class T>(T) {
    std::vector<double> values(bytes.size() / sizeof(T));
    for (size_t i = 0; i < values.size(); ++i) {
      T element;
      std::memcpy(&element, bytes.data() + i * sizeof(T), sizeof(T));
      if constexpr (std::is_same_v<T, bf16>) values[i] = static_cast<double>(electra::to_float(element));
      else values[i] = static_cast<double>(element);
    }
    return values;
  });
}

bool is_floating(DType t) { return t == DType::f64 || t == DType::f32 || t == DType::bf16; }

std::string gradient_name(const std::string& of) { return "d" + of; }

DType dtype_of_result(const Result& r, DType run) { return r.dtype.value_or(r.statistic ? accumulate_type(run) : run); }
DType dtype_of_gradient(const Gradient& g, DType run) { return g.parameter ? accumulate_type(run) : run; }

std::vector<double> cotangent(const Result& result) {
  return !result.cotangent_values.empty() ? result.cotangent_values : Random(fnv1a64(result.name)).normals(result.shape.size());
}

std::vector<std::string> written_names(const OpRecord& record) {
  std::vector<std::string> names;
  for (const Result& r : record.results)
    if (r.compare != Compare::skip) names.push_back(r.name);
  for (const Gradient& g : record.gradients) names.push_back(gradient_name(g.of));
  return names;
}

Run complete_run(const OpRecord& record, DType dtype, int threads, Backend backend = Backend::cpu) {
  Run run(record, dtype, {}, backend);
  run.forward(threads);
  run.check_memory(false);
  if (record.backward) {
    run.backward(threads);
    run.check_memory(true);
  }
  return run;
}

}  // namespace

uint64_t Random::bits() {
  uint64_t z = state_ += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}
double Random::uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
int64_t Random::below(int64_t n) { return static_cast<int64_t>(uniform() * static_cast<double>(n)); }
double Random::normal() {
  const double radius = std::sqrt(-2 * std::log(1 - uniform()));
  return radius * std::cos(2 * std::numbers::pi * uniform());
}
std::vector<double> Random::normals(int64_t n, double scale, double mean) {
  std::vector<double> v(static_cast<size_t>(n));
  for (double& x : v) x = rounded(DType::f32, mean + scale * normal());
  return v;
}
int64_t Random::extent(int64_t most) {
  const int64_t edge = (1 + below(3)) << below(std::bit_width(static_cast<uint64_t>(most)));
  return std::clamp<int64_t>(edge + below(5) - 2, 1, most);
}

std::vector<int64_t> Random::parts(int64_t total, int64_t most) {
  std::vector<int64_t> lengths;
  while (total > 0) {
    lengths.push_back(below(5) == 0 ? 0 : std::min(total, extent(most)));
    total -= lengths.back();
  }
  return lengths;
}

std::vector<double> Random::integers(int64_t n, int64_t limit) {
  std::vector<double> v(static_cast<size_t>(n));
  for (double& x : v) x = static_cast<double>(below(limit));
  return v;
}

Tensor Arguments::operator[](std::string_view name) const {
  const auto found = tensors.find(name);
  return found == tensors.end() ? Tensor{} : found->second;
}
GradMode Arguments::mode(std::string_view gradient) const {
  const auto found = modes.find(gradient);
  if (found != modes.end()) return found->second;
  return tensors.contains(gradient) ? GradMode::write : GradMode::none;
}

namespace {

// A run that asks for an instruction set of the CPU's is about its kernels.
bool device_is_tested() {
  static const bool tested = kHasCudaBackend && !std::getenv("ELECTRA_ISA");
  return tested;
}

}  // namespace

std::vector<Execution> executions(const OpRecord& record) {
  std::vector<Execution> all{{DType::f64, Backend::cpu}, {DType::f32, Backend::cpu}};
  if (device_is_tested())
    for (const DType dtype : record.device_dtypes) all.push_back({dtype, Backend::cuda});
  return all;
}
std::string name_of(const Execution& execution) {
  return std::string(electra::name_of(execution.dtype)) + (execution.backend == Backend::cpu ? " on the CPU" : " on the device");
}

struct Run::Memory {
  Arguments arguments;
  Backend backend = Backend::cpu;
  StepState state;  // stays where it is when the Run moves
  std::optional<DeviceValue<StepState>> device_state;
  std::map<std::string, Block, std::less<>> blocks;
  std::map<std::string, std::vector<std::byte>> read_only;  // what inputs and cotangents must still hold

  Tensor add(const std::string& name, const Shape& shape, DType dtype) {
    const Tensor spec{nullptr, shape, dtype};
    const auto [at, is_new] = blocks.try_emplace(name, spec.bytes(), backend);
    REQUIRE(is_new);
    return arguments.tensors[name] = {at->second.data(), shape, dtype};
  }
  void store(const std::string& name, const std::vector<double>& values) {
    const Tensor& t = arguments.tensors.at(name);
    REQUIRE(static_cast<int64_t>(values.size()) == t.size());
    blocks.at(name).set(encode(t.dtype, values));
  }
  void poison(const std::string& name) { blocks.at(name).poison(); }
  void freeze(const std::string& name) { read_only[name] = blocks.at(name).copy(); }
};

Run::Run(const OpRecord& record, DType dtype, std::map<std::string, GradMode, std::less<>> modes, Backend backend)
    : record_(record), memory_(std::make_unique<Memory>()) {
  Memory& m = *memory_;
  m.backend = backend;
  m.arguments.dtype = dtype;
  m.state = record.state;
  m.arguments.state = &m.state;
  if (backend == Backend::cuda) m.arguments.state = m.device_state.emplace(test_device().stream(), record.state).data();
  m.arguments.modes = std::move(modes);
  for (const Input& input : record.inputs) {
    std::vector<double> values = input.values;
    const DType type = input.dtype.value_or(dtype);
    if (is_floating(type)) std::transform(values.begin(), values.end(), values.begin(), [](double x) { return rounded(DType::f32, x); });
    INFO(record.name << ": input " << input.name);
    m.add(input.name, input.shape, type);
    m.store(input.name, values);
    m.freeze(input.name);
  }
  for (const Result& result : record.results) {
    const DType type = dtype_of_result(result, dtype);
    m.add(result.name, result.shape, type);
    if (result.initial.empty()) m.poison(result.name);
    else m.store(result.name, result.initial);
    if (!result.cotangent) continue;
    m.add(gradient_name(result.name), result.shape, result.statistic ? accumulate_type(dtype) : dtype);
    m.store(gradient_name(result.name), cotangent(result));
    m.freeze(gradient_name(result.name));
  }
  for (const Gradient& gradient : record.gradients) {
    const auto of = std::find_if(record.inputs.begin(), record.inputs.end(), [&](const Input& i) { return i.name == gradient.of; });
    REQUIRE(of != record.inputs.end());
    m.add(gradient_name(gradient.of), of->shape, dtype_of_gradient(gradient, dtype));
    m.poison(gradient_name(gradient.of));
  }
  if (record.workspace) {
    m.add("workspace", {static_cast<int64_t>(record.workspace(dtype, backend))}, DType::u8);
    m.poison("workspace");
  }
}
Run::~Run() = default;
Run::Run(Run&&) noexcept = default;

void Run::run(const std::function<void(const Arguments&, Stream&)>& pass, int threads) {
  if (memory_->backend == Backend::cuda) {
    Stream stream = test_device().stream();
    pass(memory_->arguments, stream);
    return stream.synchronize();
  }
  ThreadPool pool(threads, Assignment::striped);
  Stream stream(pool);
  pass(memory_->arguments, stream);
}
void Run::forward(int threads) { run(record_.forward, threads); }
void Run::backward(int threads) { run(record_.backward, threads); }
void Run::naive() {
  record_.naive_forward(memory_->arguments);
  if (record_.naive_backward) record_.naive_backward(memory_->arguments);
}

void Run::check_memory(bool after_backward) {
  const Memory& m = *memory_;
  for (const auto& [name, block] : m.blocks) {
    INFO(record_.name << " (" << name_of(m.arguments.dtype) << "): guard bytes of " << name);
    CHECK(block.guards_intact());
  }
  for (const auto& [name, before] : m.read_only) {
    INFO(record_.name << " (" << name_of(m.arguments.dtype) << "): " << name << " is only read");
    CHECK(m.blocks.at(name).copy() == before);
  }
  const auto check_written = [&](const std::string& name) {
    if (!is_floating(m.arguments[name].dtype)) return;
    const std::vector<double> v = values(name);
    const auto unwritten = std::find_if(v.begin(), v.end(), [](double x) { return std::isnan(x); });
    INFO(record_.name << " (" << name_of(m.arguments.dtype) << "): " << name << "[" << unwritten - v.begin() << "] is NaN");
    CHECK(unwritten == v.end());
  };
  for (const Result& r : record_.results)
    if (r.compare != Compare::skip) check_written(r.name);
  if (!after_backward) return;
  for (const Gradient& g : record_.gradients)
    if (m.arguments.mode(gradient_name(g.of)) != GradMode::none) check_written(gradient_name(g.of));
}

Arguments& Run::arguments() { return memory_->arguments; }
std::vector<double> Run::values(std::string_view name) const { return decode(memory_->arguments[name].dtype, bytes(name)); }
std::vector<std::byte> Run::bytes(std::string_view name) const { return memory_->blocks.find(name)->second.copy(); }
void Run::set(std::string_view name, const std::vector<double>& values) {
  memory_->store(std::string(name), values);
  if (memory_->read_only.contains(std::string(name))) memory_->freeze(std::string(name));
}

Residual largest_residual(const std::vector<double>& got, const std::vector<double>& expected) {
  REQUIRE(got.size() == expected.size());
  Residual worst;
  for (size_t i = 0; i < got.size(); ++i) {
    const bool equal = got[i] == expected[i];  // also of infinities
    const double error = equal ? 0 : std::isnan(got[i] - expected[i]) ? std::numeric_limits<double>::infinity() : std::abs(got[i] - expected[i]);
    if (i == 0 || error > worst.error) worst = {error, static_cast<int64_t>(i), got[i], expected[i]};
  }
  return worst;
}

void check_close(const std::string& what, const std::vector<double>& got, const std::vector<double>& expected, double bound) {
  const Residual worst = largest_residual(got, expected);
  if (tolerance_scale() == 0) {
    std::cout << what << ": residual " << worst.error << ", bound " << bound << '\n';
    SUCCEED();
    return;
  }
  INFO(what << "[" << worst.index << "] is " << worst.got << ", expected " << worst.expected << ", error " << worst.error << ", bound "
            << bound * tolerance_scale());
  CHECK(worst.error <= bound * tolerance_scale());
}

void check_gradients(const OpRecord& record, double step, double bound) {
  Run analytic = complete_run(record, DType::f64, 1);
  // Reused for every quotient: forward depends on inputs alone.
  Run perturbed(record, DType::f64);
  const auto results = [&] {
    perturbed.forward(1);
    std::vector<std::vector<double>> all;
    for (const Result& r : record.results)
      if (r.cotangent) all.push_back(perturbed.values(r.name));
    return all;
  };
  Random random(1);
  for (const Gradient& gradient : record.gradients) {
    const std::string name = gradient_name(gradient.of);
    const std::vector<double> whole = analytic.values(name), input = analytic.values(gradient.of);
    INFO(record.name << ": " << name);
    double norm = 0;
    for (const double g : whole) norm += g * g;
    if (gradient.zero_reason.empty()) CHECK(norm > 0);
    std::vector<size_t> picked(input.size());
    for (size_t i = 0; i < picked.size(); ++i) picked[i] = i;
    for (size_t i = 0; i + 1 < picked.size(); ++i)
      std::swap(picked[i], picked[i + static_cast<size_t>(random.below(static_cast<int64_t>(picked.size() - i)))]);
    picked.resize(std::min<size_t>(picked.size(), kMostQuotients));
    std::vector<double> exact, quotients;
    for (const size_t i : picked) {
      std::vector<double> x = input;
      x[i] = input[i] + step;
      perturbed.set(gradient.of, x);
      const auto up = results();
      x[i] = input[i] - step;
      perturbed.set(gradient.of, x);
      const auto down = results();
      double difference = 0;
      size_t k = 0;
      for (const Result& r : record.results) {
        if (!r.cotangent) continue;
        const std::vector<double> weight = cotangent(r);
        for (size_t j = 0; j < weight.size(); ++j) difference += weight[j] * (up[k][j] - down[k][j]);
        ++k;
      }
      quotients.push_back(difference / (2 * step));
      exact.push_back(whole[i]);
    }
    perturbed.set(gradient.of, input);
    if (gradient.zero_reason.empty()) CHECK(exact != quotients);
    // A gradient that is zero has only the quotient's own noise to be compared with.
    const double scale = gradient.zero_reason.empty() ? largest(whole) : 1;
    check_close(record.name + ": " + name + " against central differences", exact, quotients, bound * scale);
  }
}

namespace {

// How far a kernel may be from the oracle: twice as far as the naive form, and k ulp of the tensor's largest value.
struct Bound {
  double naive_error = 0, largest_value = 0;
  bool exact = false, fp32 = false;  // fp32: whatever the run stores its tensors in
  double operator()(double k, DType dtype) const { return exact ? 0 : 2 * naive_error + k * ulp(dtype, largest_value); }
};

Bound bound_of(const OpRecord& record, const std::string& name, const Run& naive, const std::vector<double>& expected) {
  Bound bound{.largest_value = largest(expected)};
  for (const Result& r : record.results)
    if (r.name == name) bound.exact = r.compare == Compare::exact, bound.fp32 = r.statistic && !r.of_rounded;
  if (!record.naive_forward || bound.exact) return bound;
  bound.naive_error = largest_residual(naive.values(name), expected).error;
  INFO(record.name << ": the naive form writes " << name);
  // It is written apart from the oracle: two that differ by more than fp32 can explain would make a bound of anything.
  CHECK(bound.naive_error <= kNaiveError * std::max(bound.largest_value, kNaiveFloor));
  return bound;
}

}  // namespace

void check_kernel(const OpRecord& record) {
  Run oracle = complete_run(record, DType::f64, 1);
  Run kernel = complete_run(record, DType::f32, 2);
  Run naive(record, DType::f32);
  if (record.naive_forward) naive.naive();
  for (const std::string& name : written_names(record)) {
    const std::vector<double> expected = oracle.values(name);
    const Bound bound = bound_of(record, name, naive, expected);
    check_close(record.name + ": " + name + " of the float kernel", kernel.values(name), expected, bound(record.ulps, DType::f32));
  }
}

void check_grad_modes(const OpRecord& record) {
  if (!record.backward) return;
  for (const DType dtype : {DType::f64, DType::f32}) {
    Run written = complete_run(record, dtype, 2);
    const double epsilon = dtype == DType::f64 ? 0x1p-52 : 0x1p-23;
    for (const Gradient& gradient : record.gradients) {
      const std::string name = gradient_name(gradient.of);
      const std::vector<double> value = written.values(name);
      const std::string where = record.name + " (" + name_of(dtype) + "): " + name;

      Run none(record, dtype, {{name, GradMode::none}});
      const std::vector<std::byte> untouched = none.bytes(name);
      none.forward();
      none.backward();
      none.check_memory(true);
      INFO(where << " with GradMode::none");
      CHECK(none.bytes(name) == untouched);
      for (const Gradient& other : record.gradients)
        if (other.of != gradient.of) CHECK(none.bytes(gradient_name(other.of)) == written.bytes(gradient_name(other.of)));

      Run accumulated(record, dtype, {{name, GradMode::accumulate}});
      std::vector<double> expected = Random(fnv1a64(name)).normals(static_cast<int64_t>(value.size()), std::max(1e-3, largest(value)));
      accumulated.set(name, expected);
      for (size_t i = 0; i < value.size(); ++i) expected[i] += value[i];
      accumulated.forward();
      accumulated.backward();
      accumulated.check_memory(true);
      // The sum may be formed in another order.
      check_close(where + " accumulated", accumulated.values(name), expected, 8 * epsilon * std::max(largest(expected), largest(value)));
    }
  }
}

void check_determinism(const OpRecord& record) {
  const Run first = complete_run(record, DType::f32, 1);
  for (const int threads : {1, 2, 4}) {
    const Run again = complete_run(record, DType::f32, threads);
    for (const std::string& name : written_names(record)) {
      INFO(record.name << ": " << name << " with " << threads << " threads");
      CHECK(again.bytes(name) == first.bytes(name));
    }
  }
}

void check_op(const OpRecord& record) {
  if (record.backward) check_gradients(record);
  check_kernel(record);
  check_grad_modes(record);
  check_determinism(record);
  check_device(record);
}

Device& test_device() {
  static ThreadPool pool(1);
  static Device device(kTestDevice, pool);
  return device;
}

namespace {

// The record with what a kernel in dtype would read.
OpRecord rounded_record(const OpRecord& record, DType dtype) {
  OpRecord r = record;
  for (Input& input : r.inputs)
    if (is_floating(input.dtype.value_or(dtype)))
      for (double& x : input.values) x = rounded(input.dtype.value_or(dtype), x);
  for (Result& result : r.results)
    if (result.cotangent) {
      result.cotangent_values = cotangent(result);
      if (!result.statistic)
        for (double& x : result.cotangent_values) x = rounded(dtype, x);
    }
  return r;
}

void check_device_values(const OpRecord& record, DType dtype) {
  Run oracle = complete_run(record, DType::f64, 1);
  Run naive(record, DType::f32);
  if (record.naive_forward) naive.naive();
  Run kernel = complete_run(record, dtype, 1, Backend::cuda);
  for (const std::string& name : written_names(record)) {
    const std::vector<double> expected = oracle.values(name);
    const Bound bound = bound_of(record, name, naive, expected);
    const double most = dtype == DType::f32 ? bound(record.ulps, DType::f32)
                        : bound.fp32        ? bound(std::max(record.ulps, kStatisticUlps), DType::f32)
                                            : bound(record.bf16_ulps, DType::bf16);
    check_close(record.name + ": " + name + " of the " + name_of(dtype) + " CUDA kernel", kernel.values(name), expected, most);
  }
  for (int schedule = 1; schedule < gpu::test_schedules(); ++schedule) {
    gpu::use_test_schedule(schedule);
    Run again = complete_run(record, dtype, 1, Backend::cuda);
    gpu::use_test_schedule(0);
    for (const std::string& name : written_names(record)) {
      INFO(record.name << " (" << name_of(dtype) << "): " << name << " under schedule " << schedule);
      CHECK(again.bytes(name) == kernel.bytes(name));
    }
  }
}

void check_device_grad_modes(const OpRecord& record, DType dtype) {
  if (!record.backward) return;
  Run written = complete_run(record, dtype, 1, Backend::cuda);
  for (const Gradient& gradient : record.gradients) {
    const std::string name = gradient_name(gradient.of);
    const std::vector<double> value = written.values(name);
    INFO(record.name << " (" << name_of(dtype) << "): " << name);

    Run none(record, dtype, {{name, GradMode::none}}, Backend::cuda);
    const std::vector<std::byte> untouched = none.bytes(name);
    none.forward();
    none.backward();
    none.check_memory(true);
    CHECK(none.bytes(name) == untouched);
    for (const Gradient& other : record.gradients)
      if (other.of != gradient.of) CHECK(none.bytes(gradient_name(other.of)) == written.bytes(gradient_name(other.of)));

    Run accumulated(record, dtype, {{name, GradMode::accumulate}}, Backend::cuda);
    accumulated.set(name, Random(fnv1a64(name)).normals(static_cast<int64_t>(value.size()), std::max(1e-3, largest(value))));
    std::vector<double> expected = accumulated.values(name);
    for (size_t i = 0; i < value.size(); ++i) expected[i] += value[i];
    accumulated.forward();
    accumulated.backward();
    accumulated.check_memory(true);
    // One rounding of the sum, and where the gradient is bf16 the one that the written value had and this one has not.
    check_close(record.name + ": " + name + " accumulated", accumulated.values(name), expected,
                1.5 * ulp(dtype_of_gradient(gradient, dtype), largest(expected)));
  }
}

}  // namespace

void check_device(const OpRecord& record) {
  if constexpr (kHasCudaBackend)
    for (const DType dtype : device_is_tested() ? record.device_dtypes : std::vector<DType>{}) {
      const OpRecord read = rounded_record(record, dtype);
      check_device_values(read, dtype);
      check_device_grad_modes(read, dtype);
    }
}

std::vector<double> GoldenCase::values(const std::string& tensor) const {
  const auto found = tensors.find(tensor);
  return found == tensors.end() ? std::vector<double>{} : found->second.values;
}
Shape GoldenCase::shape(const std::string& tensor) const { return tensors.at(tensor).shape; }

std::vector<GoldenCase> read_golden(const std::string& op) {
  const std::string path = source_directory() + "/tests/golden/ops/" + op + ".json";
  std::ifstream file(path);
  INFO(path);
  REQUIRE(file);
  std::vector<GoldenCase> cases;
  for (const auto& entry : nlohmann::json::parse(file)) {
    GoldenCase c;
    c.name = entry.at("name");
    c.attributes = entry.at("attributes").get<std::map<std::string, double>>();
    for (const auto& [name, tensor] : entry.at("tensors").items()) {
      const auto extents = tensor.at("shape").get<std::vector<int64_t>>();
      REQUIRE((extents.size() == 1 || extents.size() == 2));
      c.tensors[name] = {extents.size() == 1 ? Shape{extents[0]} : Shape{extents[0], extents[1]},
                         tensor.at("values").get<std::vector<double>>()};
    }
    cases.push_back(std::move(c));
  }
  REQUIRE_FALSE(cases.empty());
  return cases;
}

void check_golden(const OpRecord& record, const GoldenCase& golden, double bound) {
  Run run(record, DType::f64);
  for (const Result& r : record.results)
    if (r.cotangent && golden.tensors.contains(gradient_name(r.name)))
      run.set(gradient_name(r.name), golden.values(gradient_name(r.name)));
  run.forward(1);
  if (record.backward) run.backward(1);
  int compared = 0;
  for (const std::string& name : written_names(record)) {
    if (!golden.tensors.contains(name)) continue;
    const std::vector<double> expected = golden.values(name);
    check_close(golden.name + ": " + name + " against the golden file", run.values(name), expected, bound * largest(expected));
    ++compared;
  }
  INFO(golden.name);
  CHECK(compared > 0);
}

std::string refusal(const OpRecord& record, const Execution& execution, std::string_view tensor, const Shape& shape, DType dtype, int shift) {
  Run run(record, execution.dtype, {}, execution.backend);
  run.forward();
  Tensor& t = run.arguments().tensors.at(std::string(tensor));
  t = {t.as<std::byte>() + shift, shape, dtype};
  return error_of<ShapeError>([&] {
    run.forward();
    if (record.backward) run.backward();
  });
}

}  // namespace electra::test
