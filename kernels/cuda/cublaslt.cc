// Matrix products by cuBLASLt, opened at first use so that programs start where it is not installed. The one file that sees it.
#include <cublasLt.h>
#include <dlfcn.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "kernels/core/error.h"
#include "kernels/core/gpu.h"
#include "kernels/cuda/gemm_own.h"
#include "kernels/cuda/library_gemm.h"
#include "kernels/gemm_algorithms.h"

namespace electra::cuda {
namespace {

constexpr size_t kWorkspace = 32 << 20;  // bytes; what NVIDIA advises for Hopper
constexpr int kCandidates = 8;           // algorithms timed for a shape
constexpr int kTimedRuns = 5;            // of each, after one that is not timed

// The functions of the library, by their own names.
struct Functions {
  decltype(&::cublasLtGetVersion) version;
  decltype(&::cublasLtCreate) create;
  decltype(&::cublasLtMatmul) matmul;
  decltype(&::cublasLtGetStatusString) status_string;
  decltype(&::cublasLtMatmulDescCreate) desc_create;
  decltype(&::cublasLtMatmulDescDestroy) desc_destroy;
  decltype(&::cublasLtMatmulDescSetAttribute) desc_set;
  decltype(&::cublasLtMatrixLayoutCreate) layout_create;
  decltype(&::cublasLtMatrixLayoutDestroy) layout_destroy;
  decltype(&::cublasLtMatmulPreferenceCreate) preference_create;
  decltype(&::cublasLtMatmulPreferenceDestroy) preference_destroy;
  decltype(&::cublasLtMatmulPreferenceSetAttribute) preference_set;
  decltype(&::cublasLtMatmulAlgoGetHeuristic) heuristic;
  decltype(&::cublasLtMatmulAlgoCheck) algo_check;
};

// The layout of structures changes with the major version: another one will not do.
void* open_library() {
  const std::string name = "libcublasLt.so." + std::to_string(CUBLAS_VER_MAJOR);
  std::string reasons;
  for (const std::string& path : {name, "/usr/local/cuda/lib64/" + name}) {
    if (void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
    reasons += std::string(reasons.empty() ? "" : "; ") + dlerror();
  }
  throw DeviceError("gemm", "expected " + name + " (or the setting gemm=own), got: " + reasons);
}

template <class F> void find(void* library, const char* name, F& function) {
  function = reinterpret_cast<F>(dlsym(library, name));
  if (!function) throw DeviceError("gemm", std::string("expected the function ") + name + " in cuBLASLt, found none");
}

Functions load_functions() {
  void* const library = open_library();
  Functions f{};
  find(library, "cublasLtGetVersion", f.version);
  find(library, "cublasLtCreate", f.create);
  find(library, "cublasLtMatmul", f.matmul);
  find(library, "cublasLtGetStatusString", f.status_string);
  find(library, "cublasLtMatmulDescCreate", f.desc_create);
  find(library, "cublasLtMatmulDescDestroy", f.desc_destroy);
  find(library, "cublasLtMatmulDescSetAttribute", f.desc_set);
  find(library, "cublasLtMatrixLayoutCreate", f.layout_create);
  find(library, "cublasLtMatrixLayoutDestroy", f.layout_destroy);
  find(library, "cublasLtMatmulPreferenceCreate", f.preference_create);
  find(library, "cublasLtMatmulPreferenceDestroy", f.preference_destroy);
  find(library, "cublasLtMatmulPreferenceSetAttribute", f.preference_set);
  find(library, "cublasLtMatmulAlgoGetHeuristic", f.heuristic);
  find(library, "cublasLtMatmulAlgoCheck", f.algo_check);
  return f;
}

const Functions& functions() {
  static const Functions f = load_functions();
  return f;
}

void check(cublasStatus_t status, const char* call) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw DeviceError("gemm", std::string("expected success of ") + call + ", cuBLASLt says " + functions().status_string(status));
}

// One for the process, which uses one GPU; never destroyed: the driver may be gone by then.
cublasLtHandle_t handle() {
  static const cublasLtHandle_t value = [] {
    cublasLtHandle_t h = nullptr;
    check(functions().create(&h), "cublasLtCreate");
    return h;
  }();
  return value;
}

struct Destroy {
  void operator()(cublasLtMatmulDescOpaque_t* p) const { functions().desc_destroy(p); }
  void operator()(cublasLtMatrixLayoutOpaque_t* p) const { functions().layout_destroy(p); }
  void operator()(cublasLtMatmulPreferenceOpaque_t* p) const { functions().preference_destroy(p); }
};
template <class T> using Owned = std::unique_ptr<T, Destroy>;

cudaDataType_t data_type(DType t) { return t == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F; }

template <class T> void set(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute, const T& value) {
  check(functions().desc_set(desc, attribute, &value, sizeof value), "cublasLtMatmulDescSetAttribute");
}
template <class T> void set(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute, const T& value) {
  check(functions().preference_set(preference, attribute, &value, sizeof value), "cublasLtMatmulPreferenceSetAttribute");
}

// The library is column-major: in its eyes our matrices are transposed, and it computes cᵀ (n, m) = op(b)ᵀ op(a)ᵀ: its first
// operand is b, its second a.
class Plan {
 public:
  Plan(const GemmKey& key, const LibraryGemm& args, Stream& stream) : beta_(key.accumulate ? 1.0f : 0.0f) {
    const Gemm& g = args.gemm;
    cublasLtMatmulDesc_t desc = nullptr;
    // Never TF32: fp32 means fp32.
    check(functions().desc_create(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
    desc_.reset(desc);
    set(desc, CUBLASLT_MATMUL_DESC_TRANSA, g.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(desc, CUBLASLT_MATMUL_DESC_TRANSB, g.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    if (key.bias) {
      set(desc, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
      set(desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, args.bias.data);
    }
    b_ = layout(g.b);
    a_ = layout(g.a);
    c_ = layout(g.c);
    const GemmAlgorithm chosen = gemm_algorithm(
        key,
        [&](const GemmAlgorithm& kept) {
          const cublasLtMatmulAlgo_t algorithm = from_words(kept);
          cublasLtMatmulHeuristicResult_t result{};
          return functions().algo_check(handle(), desc_.get(), b_.get(), a_.get(), c_.get(), c_.get(), &algorithm, &result) ==
                     CUBLAS_STATUS_SUCCESS &&
                 result.workspaceSize <= key.workspace;
        },
        [&] {
          const cublasLtMatmulAlgo_t algorithm = choose(key, args, stream);
          GemmAlgorithm words;
          std::copy(std::begin(algorithm.data), std::end(algorithm.data), words.begin());
          return words;
        });
    algorithm_ = from_words(chosen);
  }

  void run(const LibraryGemm& args, Stream& stream) {
    if (args.bias) set(desc_.get(), CUBLASLT_MATMUL_DESC_BIAS_POINTER, args.bias.data);
    check(issue(args.gemm, args.gemm.c.data, algorithm_, stream), "cublasLtMatmul");
  }

 private:
  static Owned<cublasLtMatrixLayoutOpaque_t> layout(const Tensor& t) {
    cublasLtMatrixLayout_t layout = nullptr;
    check(functions().layout_create(&layout, data_type(t.dtype), static_cast<uint64_t>(t.cols()), static_cast<uint64_t>(t.rows()), t.cols()),
          "cublasLtMatrixLayoutCreate");
    return Owned<cublasLtMatrixLayoutOpaque_t>(layout);
  }

  cublasStatus_t issue(const Gemm& g, void* result, const cublasLtMatmulAlgo_t& algorithm, Stream& stream) const {
    const float one = 1;
    return functions().matmul(handle(), desc_.get(), &one, g.b.data, b_.get(), g.a.data, a_.get(), &beta_, g.c.data, c_.get(), result,
                              c_.get(), &algorithm, g.workspace.data, g.workspace ? g.workspace.bytes() : 0,
                              static_cast<cudaStream_t>(stream.handle()));
  }

  static cublasLtMatmulAlgo_t from_words(const GemmAlgorithm& words) {
    cublasLtMatmulAlgo_t algorithm{};
    static_assert(sizeof algorithm == sizeof words);
    std::copy(words.begin(), words.end(), algorithm.data);
    return algorithm;
  }

  // Times the library's proposals on the operands themselves. Results go to memory of their own where c is also read.
  cublasLtMatmulAlgo_t choose(const GemmKey& key, const LibraryGemm& args, Stream& stream) {
    cublasLtMatmulPreference_t preference = nullptr;
    check(functions().preference_create(&preference), "cublasLtMatmulPreferenceCreate");
    const Owned<cublasLtMatmulPreferenceOpaque_t> owned(preference);
    set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, key.workspace);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.b_alignment);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.a_alignment);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.c_alignment);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.c_alignment);
    cublasLtMatmulHeuristicResult_t candidates[kCandidates];
    int count = 0;
    check(functions().heuristic(handle(), desc_.get(), b_.get(), a_.get(), c_.get(), c_.get(), preference, kCandidates, candidates, &count),
          "cublasLtMatmulAlgoGetHeuristic");
    if (count == 0) throw DeviceError("gemm", "expected an algorithm for c of shape " + args.gemm.c.shape.str() + ", cuBLASLt has none");
    cublasLtMatmulAlgo_t fastest = candidates[0].algo;
    // While launches are recorded nothing can be timed: the library's first proposal is taken.
    if (count == 1 || gpu::is_capturing(stream.handle())) return fastest;

    const Buffer spare(key.accumulate ? args.gemm.c.bytes() : 0, Memory::device);
    void* const result = key.accumulate ? spare.data() : args.gemm.c.data;
    Event begin(stream), end(stream);
    double best = 0;
    for (int i = 0; i < count; ++i) {
      if (issue(args.gemm, result, candidates[i].algo, stream) != CUBLAS_STATUS_SUCCESS) continue;
      begin.record(stream);
      for (int j = 0; j < kTimedRuns; ++j) check(issue(args.gemm, result, candidates[i].algo, stream), "cublasLtMatmul");
      end.record(stream);
      end.synchronize();
      const double ms = end.milliseconds_since(begin);
      if (best > 0 && ms >= best) continue;
      best = ms;
      fastest = candidates[i].algo;
    }
    return fastest;
  }

  Owned<cublasLtMatmulDescOpaque_t> desc_;
  Owned<cublasLtMatrixLayoutOpaque_t> a_, b_, c_;
  cublasLtMatmulAlgo_t algorithm_{};
  float beta_;
};

}  // namespace

void library_gemm(const LibraryGemm& args, Stream& stream) {
  const Gemm& g = args.gemm;
  const int64_t m = g.c.rows(), n = g.c.cols(), k = g.transpose_a ? g.a.rows() : g.a.cols();
  if (m == 0 || n == 0) return;
  if (k == 0) return own_gemm({.gemm = g, .bias = args.bias}, stream);  // the library refuses an empty sum
  const GemmKey key = gemm_key(g, static_cast<bool>(args.bias));
  static std::mutex mutex;
  static auto& plans = *new std::map<GemmKey, Plan>;
  const std::lock_guard lock(mutex);
  auto found = plans.find(key);
  if (found == plans.end()) found = plans.emplace(key, Plan(key, args, stream)).first;
  found->second.run(args, stream);
}

GemmLibrary library_gemm_info() {
  try {
    const size_t v = functions().version();
    return {"cuBLASLt " + std::to_string(v / 10000) + "." + std::to_string(v % 10000 / 100) + "." + std::to_string(v % 100), {}};
  } catch (const DeviceError& error) {
    return {"cuBLASLt", std::string(error.detail())};
  }
}
size_t library_gemm_workspace() { return kWorkspace; }

}  // namespace electra::cuda
