// What every op is tested with: a record says which tensors an op reads and writes and how it is run; the functions below
// What every op is tested with: a record says which tensors an op reads and writes and how it is run; the functions below
// check its gradients, its kernels on every backend, its gradient modes, its determinism and its values against another
// implementation. Tensors stand between guard bytes, which are NaN as floats (and poisoned under AddressSanitizer, so that
// touching one ends the test); what an op writes is filled with NaN before. Work items are dealt to the threads in turn, so that
// each of them has its share. ELECTRA_TOL_SCALE=0 prints residuals
// instead of judging them; another value scales every bound.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/core/device.h"
#include "kernels/core/step_state.h"
#include "kernels/core/tensor.h"
#include "kernels/grad_mode.h"
#include "tests/error_of.h"

namespace electra::test {

// SplitMix64: the same values on every machine.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t bits();
  double uniform();                 // [0, 1)
  int64_t below(int64_t n);         // 0 to n − 1
  double normal();
  // Rounded to float, so that f32 and f64 runs read the same numbers.
  std::vector<double> normals(int64_t n, double scale = 1, double mean = 0);
  std::vector<double> integers(int64_t n, int64_t limit);
  int64_t extent(int64_t most);     // 1 to most, near one, two or three times a power of two: the edges of vectors, warps and tiles
  std::vector<int64_t> parts(int64_t total, int64_t most);  // lengths, some of them 0, that are total together

 private:
  uint64_t state_;
};

// What an op is run with: its tensors and gradient modes by name ("dx" is the gradient of "x").
struct Arguments {
  DType dtype = DType::f64;
  std::map<std::string, Tensor, std::less<>> tensors;
  std::map<std::string, GradMode, std::less<>> modes;
  const StepState* state = nullptr;
  Tensor operator[](std::string_view name) const;   // absent: an empty tensor
  GradMode mode(std::string_view gradient) const;   // write unless set; none where there is no such tensor
  template <class T> T* data(std::string_view name) const { return (*this)[name].template as<T>(); }
};

enum class Compare { close, exact, skip };  // of the float kernel's result with the oracle's

struct Input {
  std::string name;
  Shape shape;
  std::vector<double> values;
  std::optional<DType> dtype = {};  // absent: the run's
};

struct Result {
  std::string name;
  Shape shape;
  bool cotangent = true;            // backward reads "d" + name
  std::optional<DType> dtype = {};
  Compare compare = Compare::close;
  std::vector<double> initial = {};  // where the op updates in place; else NaN
  std::vector<double> cotangent_values = {};  // absent: random
  bool statistic = false;           // kept in accumulate_type of the run's dtype: losses, means, sums
  bool of_rounded = false;          // a statistic of numbers that the op itself rounds to the run's dtype first
};

struct Gradient {
  std::string of;                   // an input
  std::string zero_reason = {};     // why it is zero, where it is
  bool parameter = false;           // kept in accumulate_type of the run's dtype
};

struct OpRecord {
  std::string name;
  std::vector<Input> inputs = {};
  std::vector<Result> results = {};
  std::vector<Gradient> gradients = {};
  std::function<void(const Arguments&, Stream&)> forward = {}, backward = {};
  // The op in float without fusion or vectors, rounded after every operation: its error is the yardstick of the kernel's.
  std::function<void(const Arguments&)> naive_forward = {}, naive_backward = {};
  std::function<size_t(DType, Backend)> workspace = {};  // bytes of the tensor "workspace"
  StepState state = {.seed = 0x9e3779b97f4a7c15u, .step = 7, .first_sequence = 3};
  double ulps = 2;                  // k of the bound 2 naive error + k ulp of the tensor's largest value
  std::vector<DType> device_dtypes = {};  // what the CUDA kernels take; empty: they do not have this form
  double bf16_ulps = 4;             // k for bf16 runs: inputs are rounded to it first, so this bounds the kernel's own roundings
};

// Where an op runs and in what type.
struct Execution {
  DType dtype;
  Backend backend;
};
// f64 and f32 on the CPU, and device_dtypes on the CUDA backend where the build has one and ELECTRA_ISA is not set.
std::vector<Execution> executions(const OpRecord& record);
std::string name_of(const Execution& execution);

// One execution of a record in memory of its own.
class Run {
 public:
  // On the device (Backend::cuda) tensors lie in its memory: values(), bytes() and set() copy, data() may not be read.
  Run(const OpRecord& record, DType dtype, std::map<std::string, GradMode, std::less<>> modes = {}, Backend backend = Backend::cpu);
  ~Run();
  Run(Run&&) noexcept;
  void forward(int threads = 2);
  void backward(int threads = 2);
  void naive();
  // Guard bytes whole, inputs as before, no NaN left in what was written.
  void check_memory(bool after_backward);
  Arguments& arguments();
  std::vector<double> values(std::string_view name) const;
  std::vector<std::byte> bytes(std::string_view name) const;
  void set(std::string_view name, const std::vector<double>& values);

 private:
  struct Memory;
  void run(const std::function<void(const Arguments&, Stream&)>& pass, int threads);
  OpRecord record_;
  std::unique_ptr<Memory> memory_;
};

struct Residual {
  double error = 0;
  int64_t index = 0;
  double got = 0, expected = 0;
};
Residual largest_residual(const std::vector<double>& got, const std::vector<double>& expected);
// Every element within bound, absolute; the worst is printed.
void check_close(const std::string& what, const std::vector<double>& got, const std::vector<double>& expected, double bound);

// The oracle's backward against central differences of its forward, with a random cotangent; bound is of the tensor's
// largest gradient. Gradients must not be zero unless the record says why.
void check_gradients(const OpRecord& record, double step = 1e-6, double bound = 1e-7);
// The float kernel against the oracle: error at most twice the naive form's plus record.ulps ulp of the largest value. The naive
// form itself, which no code of the kernels has a part in, must agree with the oracle to three digits.
void check_kernel(const OpRecord& record);
// accumulate = write + what was there; none writes nothing and changes no other gradient.
void check_grad_modes(const OpRecord& record);
// Two runs, and 1, 2 and 4 threads, give the same bits.
void check_determinism(const OpRecord& record);
// The CUDA kernels in each of record.device_dtypes: as check_kernel and check_grad_modes, and the same bits under every schedule.
// Nothing without a CUDA backend in the build, or with ELECTRA_ISA.
void check_device(const OpRecord& record);
// All of these.
void check_op(const OpRecord& record);
// The device that tests run CUDA kernels on, opened at first use.
Device& test_device();

// Values of another implementation: tests/golden/ops/<op>.json, written by the script beside it.
struct GoldenTensor {
  Shape shape;
  std::vector<double> values;
};
struct GoldenCase {
  std::string name;
  std::map<std::string, double> attributes;
  std::map<std::string, GoldenTensor> tensors;
  std::vector<double> values(const std::string& tensor) const;  // empty where the case has no such tensor
  Shape shape(const std::string& tensor) const;
};
std::vector<GoldenCase> read_golden(const std::string& op);
// The oracle against every result and gradient that the golden case has; bound is of the tensor's largest value.
void check_golden(const OpRecord& record, const GoldenCase& golden, double bound = 1e-12);

// The ShapeError of forward and backward with another tensor in a place, `shift` bytes further on, after a run that was right.
std::string refusal(const OpRecord& record, const Execution& execution, std::string_view tensor, const Shape& shape, DType dtype, int shift = 0);

}  // namespace electra::test
