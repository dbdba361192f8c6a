#include "tests/op_test.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <limits>
#include <nlohmann/json.hpp>
#include <numbers>

#include "kernels/core/philox.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(at, bytes) (static_cast<void>(at), static_cast<void>(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(at, bytes) (static_cast<void>(at), static_cast<void>(bytes))
#endif

namespace electra::test {
namespace {

constexpr size_t kGuard = 64;  // bytes before and after a tensor
constexpr std::byte kGuardByte{0xff};
constexpr double kNaiveError = 1e-3;  // of the tensor's largest value, or of kNaiveFloor where that is smaller
constexpr double kNaiveFloor = 1e-3;
constexpr int64_t kMostQuotients = 96;  // elements of a tensor that check_gradients differentiates by

double tolerance_scale() {
  static const double scale = [] {
    const char* text = std::getenv("ELECTRA_TOL_SCALE");
    return text ? std::atof(text) : 1.0;
  }();
  return scale;
}

double to_float(double x) { return static_cast<double>(static_cast<float>(x)); }

double largest(const std::vector<double>& v) {
  double m = 0;
  for (const double x : v) m = std::max(m, std::abs(x));
  return m;
}

double float_ulp(double magnitude) {
  return magnitude > 0 ? std::ldexp(1.0, std::max(std::ilogb(magnitude), -126) - 23) : 0;
}

// Memory of one tensor between guard bytes, aligned as an arena aligns it.
class Block {
 public:
  explicit Block(size_t bytes) : buffer_(bytes + 2 * kGuard), bytes_(bytes) {
    for (std::byte* guard : {buffer_.data(), data() + bytes}) {
      std::fill_n(guard, kGuard, kGuardByte);
      ASAN_POISON_MEMORY_REGION(guard, kGuard);
    }
  }
  ~Block() { ASAN_UNPOISON_MEMORY_REGION(buffer_.data(), buffer_.bytes()); }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  std::byte* data() const { return buffer_.data() + kGuard; }
  size_t bytes() const { return bytes_; }
  std::vector<std::byte> copy() const { return {data(), data() + bytes_}; }
  bool guards_intact() const {
    const auto intact = [](std::byte* guard) {
      ASAN_UNPOISON_MEMORY_REGION(guard, kGuard);
      const bool whole = std::all_of(guard, guard + kGuard, [](std::byte b) { return b == kGuardByte; });
      ASAN_POISON_MEMORY_REGION(guard, kGuard);
      return whole;
    };
    return intact(buffer_.data()) && intact(data() + bytes_);
  }

 private:
  Buffer buffer_;
  size_t bytes_;
};

template <class T> void store_as(const Tensor& t, const std::vector<double>& values) {
  for (size_t i = 0; i < values.size(); ++i) t.as<T>()[i] = static_cast<T>(values[i]);
}

void store(const Tensor& t, const std::vector<double>& values) {
  REQUIRE(static_cast<int64_t>(values.size()) == t.size());
  switch (t.dtype) {
    case DType::f64: return store_as<double>(t, values);
    case DType::f32: return store_as<float>(t, values);
    case DType::i32: return store_as<int32_t>(t, values);
    case DType::i64: return store_as<int64_t>(t, values);
    case DType::u8: return store_as<uint8_t>(t, values);
    case DType::bf16: break;
  }
  FAIL("no test fills " << name_of(t.dtype));
}

std::vector<double> load(const Tensor& t) {
  const auto all = [&]<class T>(const T* p) { return std::vector<double>(p, p + t.size()); };
  switch (t.dtype) {
    case DType::f64: return all(t.as<double>());
    case DType::f32: return all(t.as<float>());
    case DType::i32: return all(t.as<int32_t>());
    case DType::i64: return all(t.as<int64_t>());
    default: return all(t.as<uint8_t>());
  }
}

// Bytes of 0xff are NaN in every floating type.
void poison(const Tensor& t) { std::memset(t.data, 0xff, t.bytes()); }

bool is_floating(DType t) { return t == DType::f64 || t == DType::f32 || t == DType::bf16; }

std::string gradient_name(const std::string& of) { return "d" + of; }

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

Run complete_run(const OpRecord& record, DType dtype, int threads) {
  Run run(record, dtype);
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
  for (double& x : v) x = to_float(mean + scale * normal());
  return v;
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

struct Run::Memory {
  Arguments arguments;
  StepState state;  // stays where it is when the Run moves
  std::map<std::string, Block, std::less<>> blocks;
  std::map<std::string, std::vector<std::byte>> read_only;  // what inputs and cotangents must still hold

  Tensor add(const std::string& name, const Shape& shape, DType dtype) {
    const Tensor spec{nullptr, shape, dtype};
    const auto [at, is_new] = blocks.try_emplace(name, spec.bytes());
    REQUIRE(is_new);
    return arguments.tensors[name] = {at->second.data(), shape, dtype};
  }
  void freeze(const std::string& name) { read_only[name] = blocks.at(name).copy(); }
};

Run::Run(const OpRecord& record, DType dtype, std::map<std::string, GradMode, std::less<>> modes)
    : record_(record), memory_(std::make_unique<Memory>()) {
  Memory& m = *memory_;
  m.arguments.dtype = dtype;
  m.state = record.state;
  m.arguments.state = &m.state;
  m.arguments.modes = std::move(modes);
  for (const Input& input : record.inputs) {
    std::vector<double> values = input.values;
    if (is_floating(input.dtype.value_or(dtype))) std::transform(values.begin(), values.end(), values.begin(), to_float);
    INFO(record.name << ": input " << input.name);
    store(m.add(input.name, input.shape, input.dtype.value_or(dtype)), values);
    m.freeze(input.name);
  }
  for (const Result& result : record.results) {
    const Tensor t = m.add(result.name, result.shape, result.dtype.value_or(dtype));
    if (result.initial.empty()) poison(t);
    else store(t, result.initial);
    if (!result.cotangent) continue;
    store(m.add(gradient_name(result.name), result.shape, dtype), cotangent(result));
    m.freeze(gradient_name(result.name));
  }
  for (const Gradient& gradient : record.gradients) {
    const auto of = std::find_if(record.inputs.begin(), record.inputs.end(), [&](const Input& i) { return i.name == gradient.of; });
    REQUIRE(of != record.inputs.end());
    poison(m.add(gradient_name(gradient.of), of->shape, dtype));
  }
  if (record.workspace)
    poison(m.add("workspace", {static_cast<int64_t>(record.workspace(dtype))}, DType::u8));
}
Run::~Run() = default;
Run::Run(Run&&) noexcept = default;

void Run::forward(int threads) {
  ThreadPool pool(threads, Assignment::striped);
  Stream stream(pool);
  record_.forward(memory_->arguments, stream);
}
void Run::backward(int threads) {
  ThreadPool pool(threads, Assignment::striped);
  Stream stream(pool);
  record_.backward(memory_->arguments, stream);
}
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
std::vector<double> Run::values(std::string_view name) const { return load(memory_->arguments[name]); }
std::vector<std::byte> Run::bytes(std::string_view name) const { return memory_->blocks.find(name)->second.copy(); }
void Run::set(std::string_view name, const std::vector<double>& values) {
  store(memory_->arguments[name], values);
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

void check_kernel(const OpRecord& record) {
  Run oracle = complete_run(record, DType::f64, 1);
  Run kernel = complete_run(record, DType::f32, 2);
  Run naive(record, DType::f32);
  if (record.naive_forward) naive.naive();
  for (const std::string& name : written_names(record)) {
    const std::vector<double> expected = oracle.values(name);
    const auto result = std::find_if(record.results.begin(), record.results.end(), [&](const Result& r) { return r.name == name; });
    const bool exact = result != record.results.end() && result->compare == Compare::exact;
    const double naive_error = record.naive_forward && !exact ? largest_residual(naive.values(name), expected).error : 0;
    INFO(record.name << ": the naive form writes " << name);
    // It is written apart from the oracle: two that differ by more than fp32 can explain would make a bound of anything.
    CHECK(naive_error <= kNaiveError * std::max(largest(expected), kNaiveFloor));
    const double bound = exact ? 0 : 2 * naive_error + record.ulps * float_ulp(largest(expected));
    check_close(record.name + ": " + name + " of the float kernel", kernel.values(name), expected, bound);
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
}

std::vector<double> GoldenCase::values(const std::string& tensor) const {
  const auto found = tensors.find(tensor);
  return found == tensors.end() ? std::vector<double>{} : found->second.values;
}
Shape GoldenCase::shape(const std::string& tensor) const { return tensors.at(tensor).shape; }

std::vector<GoldenCase> read_golden(const std::string& op) {
  const std::string path = std::string(ELECTRA_SOURCE_DIR) + "/tests/golden/ops/" + op + ".json";
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

}  // namespace electra::test
