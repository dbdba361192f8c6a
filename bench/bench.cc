#include "bench/bench.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <map>
#include <memory>
#include <optional>

#include "kernels/core/bf16.h"
#include "kernels/core/error.h"
#include "kernels/core/philox.h"
#include "trainer/build_info.h"
#include "trainer/gemm_peak.h"
#include "trainer/device_info.h"

namespace electra::bench {
namespace {

constexpr int kGpuRuns = 60, kWarmUps = 5;
constexpr size_t kFlushBytes = size_t{256} << 20;  // several times any second-level cache

struct Options {
  DeviceKind device = DeviceKind::cpu;
  std::optional<DType> dtype;
  bool cold = true;
} options;

struct Ceilings {
  double product = 0, copy = 0;  // FLOP/s, bytes/s (read and written); 0: not measured
};

// Pools live as long as the program: streams refer to them.
ThreadPool& pool(int threads) {
  static auto& pools = *new std::map<int, std::unique_ptr<ThreadPool>>;
  std::unique_ptr<ThreadPool>& p = pools[threads];
  if (!p) p = std::make_unique<ThreadPool>(threads);
  return *p;
}
Device& gpu() {
  static Device device(options.device, pool(1));
  return device;
}

const Ceilings& ceilings(const Stream& stream) {
  static auto& known = *new std::map<int, Ceilings>;
  const int threads = stream.pool().threads();
  const auto found = known.find(threads);
  if (found != known.end()) return found->second;
  Ceilings c;
  if (options.device != DeviceKind::simt) {
    c.copy = measure_copy_bandwidth(stream, 0.2);
    try {
      c.product = measure_gemm_peak(stream, dtype(), 0.2);
    } catch (const DeviceError& error) { std::fprintf(stderr, "no ceiling of products: %s\n", error.what()); }
  }
  return known[threads] = c;
}

double processor_seconds() {
  timespec t{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}
double wall_seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// First line of what the command prints; "unknown" where it is not there.
std::string first_line_of(const char* command) {
  std::array<char, 512> line{};
  FILE* pipe = popen(command, "r");
  if (!pipe) return "unknown";
  const bool read = std::fgets(line.data(), line.size(), pipe) != nullptr;
  pclose(pipe);
  std::string text = read ? line.data() : "unknown";
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

std::string number(double value) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.4g", value);
  return text.data();
}

// Takes our options out of argv. False, with a message, for a value that is none.
bool take_options(int& argc, char** argv) {
  std::string device = "auto";
  int kept = 1;
  for (int i = 1; i < argc; ++i) {
    std::string name = argv[i], value;
    if (name != "--device" && name != "--dtype" && name != "--l2" && name.find('=') == std::string::npos) {
      argv[kept++] = argv[i];
      continue;
    }
    if (const size_t at = name.find('='); at != std::string::npos) {
      value = name.substr(at + 1);
      name.resize(at);
    } else if (i + 1 < argc) {
      value = argv[++i];
    }
    const auto expect = [&](bool fine, const char* what) {
      if (!fine) std::fprintf(stderr, "%s: error: [command line] expected %s for %s, got '%s'\n", argv[0], what, name.c_str(), value.c_str());
      return fine;
    };
    if (name == "--device") {
      if (!expect(value == "auto" || value == "cpu" || value == "cuda" || value == "simt", "auto, cpu, cuda or simt")) return false;
      device = value;
    } else if (name == "--dtype") {
      if (!expect(value == "f32" || value == "bf16", "f32 or bf16")) return false;
      options.dtype = value == "f32" ? DType::f32 : DType::bf16;
    } else if (name == "--l2") {
      if (!expect(value == "cold" || value == "warm", "cold or warm")) return false;
      options.cold = value == "cold";
    } else {
      argv[kept++] = argv[i];  // one of Google Benchmark's
    }
  }
  argc = kept;
  argv[argc] = nullptr;
  if (device == "auto") options.device = why_unusable(DeviceKind::cuda).empty() ? DeviceKind::cuda : DeviceKind::cpu;
  else options.device = device == "cpu" ? DeviceKind::cpu : device == "cuda" ? DeviceKind::cuda : DeviceKind::simt;
  return true;
}

}  // namespace

DeviceKind device_kind() { return options.device; }
DType dtype() { return options.dtype.value_or(options.device == DeviceKind::cpu ? DType::f32 : DType::bf16); }
Stream stream(int threads) { return options.device == DeviceKind::cpu ? Stream(pool(threads)) : gpu().stream(); }

void measure(benchmark::State& state, const Stream& stream, const Work& work, const std::function<void()>& run) {
  std::vector<double> seconds;
  try {
    for (int i = 0; i < (on_gpu() ? kWarmUps : options.device == DeviceKind::cpu ? 1 : 0); ++i) run();
    stream.synchronize();
  } catch (const DeviceError& error) { return state.SkipWithError(error.what()); }
  if (on_gpu()) {
    static const Buffer flushed(kFlushBytes, Memory::device);
    Event begin(stream), end(stream);
    int byte = 0;
    for (auto _ : state) {
      // It also gives the host time to issue the launches, so that they follow each other without gaps.
      if (options.cold) fill(flushed.data(), ++byte & 0xff, flushed.bytes(), stream);
      begin.record(stream);
      run();
      end.record(stream);
      end.synchronize();
      seconds.push_back(end.milliseconds_since(begin) / 1e3);
      state.SetIterationTime(seconds.back());
    }
  } else {
    const auto now = stream.pool().threads() == 1 ? processor_seconds : wall_seconds;
    for (auto _ : state) {
      const double begin = now();
      run();
      seconds.push_back(now() - begin);
      state.SetIterationTime(seconds.back());
    }
  }
  if (seconds.empty()) return;
  std::sort(seconds.begin(), seconds.end());
  const auto quantile = [&](double q) { return seconds[static_cast<size_t>(q * static_cast<double>(seconds.size() - 1) + 0.5)]; };
  const double median = quantile(0.5);
  state.counters["median_us"] = median * 1e6;
  state.counters["p10_us"] = quantile(0.1) * 1e6;
  state.counters["p90_us"] = quantile(0.9) * 1e6;
  const Ceilings& ceiling = ceilings(stream);
  double share = 0;
  const auto report = [&](const char* rate, const char* of, double amount, double most) {
    if (amount <= 0 || median <= 0) return;
    state.counters[rate] = amount / median;
    if (most <= 0) return;
    state.counters[of] = amount / median / most;
    share = std::max(share, amount / median / most);
  };
  report("FLOP/s", "of_product", work.flops, ceiling.product);
  report("bytes/s", "of_copy", work.bytes, ceiling.copy);
  if (share > 0) state.counters["of_ceiling"] = share;
}

benchmark::internal::Benchmark* add(const std::string& name, const std::vector<std::string>& arguments, void (*function)(benchmark::State&)) {
  benchmark::internal::Benchmark* b = benchmark::RegisterBenchmark(name.c_str(), function);
  b->ArgNames(arguments)->UseManualTime()->Unit(benchmark::kMicrosecond);
  if (options.device == DeviceKind::cuda) b->Iterations(kGpuRuns);
  if (options.device == DeviceKind::simt) b->Iterations(1);
  return b;
}

Arguments pick(const Arguments& cpu, const Arguments& gpu, const Arguments& executor) {
  return options.device == DeviceKind::cpu ? cpu : options.device == DeviceKind::cuda ? gpu : executor;
}
void apply(benchmark::internal::Benchmark* b, const Arguments& all) {
  for (const std::vector<int64_t>& one : all) b->Args(one);
}

Tensor Tensors::random(const Shape& shape, DType dtype, double scale) {
  // A prime number of values, again and again: neither zeros nor a period that rows could share.
  constexpr size_t kValues = 262147;
  const Tensor t = zeros(shape, dtype);
  const size_t element = size_of(dtype);
  const uint64_t key = buffers_.size();
  std::vector<std::byte> values(std::min(kValues, static_cast<size_t>(t.size())) * element);
  for (size_t i = 0; i < values.size() / element; ++i) {
    const uint32_t draw = philox(key, {.group = static_cast<uint32_t>(i / 4)}).word[i % 4];
    const float x = static_cast<float>((2.0 * static_cast<double>(uniform_open(draw)) - 1.0) * scale);
    const bf16 half = to_bf16(x);
    std::memcpy(values.data() + i * element, dtype == DType::bf16 ? static_cast<const void*>(&half) : &x, element);
  }
  copy(t.data, values.data(), values.size(), stream_);
  for (size_t filled = values.size(); filled < t.bytes();) {
    const size_t piece = std::min(filled, t.bytes() - filled);
    copy(t.as<std::byte>() + filled, t.data, piece, stream_);
    filled += piece;
  }
  stream_.synchronize();
  return t;
}

Tensor Tensors::zeros(const Shape& shape, DType dtype) {
  Tensor t{nullptr, shape, dtype};
  t.data = buffers_.emplace_back(t.bytes(), memory_of(stream_.backend())).data();
  return t;
}

std::vector<int32_t> equal_offsets(int64_t rows, int64_t length) {
  std::vector<int32_t> offsets;
  for (int64_t row = 0; row <= rows; row += length) offsets.push_back(static_cast<int32_t>(row));
  return offsets;
}

int run(int argc, char** argv, void (*register_all)()) {
  if (!take_options(argc, argv)) return 2;
  try {
    const Stream first = stream();
    benchmark::AddCustomContext("device", device_banner({options.device, "as --device says"}, device_info(), first.pool().threads()).substr(std::string_view("device: ").size()));
    benchmark::AddCustomContext("dtype", name_of(dtype()));
    benchmark::AddCustomContext("commit", build_info().commit);
    if (on_gpu()) {
      benchmark::AddCustomContext("l2", options.cold ? "cold" : "warm");
      benchmark::AddCustomContext("driver", first_line_of("nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null"));
      benchmark::AddCustomContext(
          "clocks", first_line_of("nvidia-smi --query-gpu=clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu --format=csv,noheader "
                                  "2>/dev/null"));
    }
    const Ceilings& c = ceilings(first);
    if (c.copy > 0) {
      benchmark::AddCustomContext("copy_GBps", number(c.copy / 1e9));
      benchmark::AddCustomContext("product_TFLOPps", number(c.product / 1e12));
    }
    register_all();
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
    benchmark::RunSpecifiedBenchmarks();
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: error: %s\n", argv[0], error.what());
    return 1;
  }
}

}  // namespace electra::bench
