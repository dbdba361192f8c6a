#include "bench/cudnn_attention.h"

#include "kernels/core/error.h"

#ifdef ELECTRA_CUDNN_FRONTEND
#include <cudnn_frontend.h>
#include <dlfcn.h>

#include <cmath>
#include <cstdlib>
#include <string>
#include <unordered_map>

namespace cudnn_frontend {
void* cudnn_dlhandle = nullptr;  // cudnn-frontend looks cuDNN's functions up in it
}

namespace electra::bench {
namespace {

namespace fe = cudnn_frontend;
using TensorPointer = std::shared_ptr<fe::graph::Tensor_attributes>;

enum Id : int64_t { kQ = 1, kK, kV, kO, kStats, kDO, kDQ, kDK, kDV, kSeed, kOffset };

// By its name, or where CUDA is installed by default; nullptr and the reasons.
void* open(const std::string& name, std::string& found, std::string& reasons) {
  for (const char* folder : {"", "/usr/local/cuda/lib64/", "/usr/local/cuda/lib/"}) {
    found = folder + name;
    if (void* library = dlopen(found.c_str(), RTLD_NOW | RTLD_GLOBAL)) return library;
    reasons += std::string(reasons.empty() ? "" : "; ") + dlerror();
  }
  return nullptr;
}

void open_libraries() {
  if (fe::cudnn_dlhandle) return;
  std::string found, reasons;
  fe::cudnn_dlhandle = open("libcudnn.so." + std::to_string(CUDNN_MAJOR), found, reasons);
  if (!fe::cudnn_dlhandle) throw DeviceError("cudnn", "expected cuDNN, got: " + reasons);
  // It opens a CUDA runtime of its own, too.
  if (!open("libcudart.so." + std::to_string(CUDART_VERSION / 1000), found, reasons)) throw DeviceError("cudnn", "expected libcudart, got: " + reasons);
  setenv("CUDNN_FRONTEND_CUDART_LIB_NAME", found.c_str(), 0);
}

void check(fe::error_t status, const char* what) {
  if (status.is_bad()) throw DeviceError("cudnn", std::string("expected success of ") + what + ", cuDNN says " + status.get_message());
}
void check(cudnnStatus_t status, const char* what) {
  if (status != CUDNN_STATUS_SUCCESS) throw DeviceError("cudnn", std::string("expected success of ") + what + ", got status " + std::to_string(status));
}

}  // namespace

struct CudnnAttention::Impl {
  static constexpr int64_t kHeadDim = 64;
  CudnnAttentionArguments args;
  Stream stream;
  cudnnHandle_t handle = nullptr;
  std::shared_ptr<fe::graph::Graph> forward_graph, backward_graph;
  DeviceValue<int64_t> seed{stream, 1}, offset{stream, 0};
  Buffer workspace;
  std::unordered_map<int64_t, void*> pointers;

  Impl(const CudnnAttentionArguments& a, const Stream& s) : args(a), stream(s) {
    open_libraries();
    check(fe::detail::create_handle(&handle), "cudnnCreate");
    check(fe::detail::set_stream(handle, static_cast<cudaStream_t>(stream.handle())), "cudnnSetStream");
    build_forward();
    build_backward();
    int64_t most = 0;
    for (const auto& graph : {forward_graph, backward_graph}) {
      int64_t bytes = 0;
      check(graph->get_workspace_size(bytes), "get_workspace_size");
      most = std::max(most, bytes);
    }
    workspace = Buffer(static_cast<size_t>(most), Memory::device);
    const auto at = [](const Tensor& t, int64_t element) -> void* { return t.as<std::byte>() + element * 2; };
    const int64_t c = args.heads * kHeadDim;
    pointers = {{kQ, at(args.qkv, 0)},  {kK, at(args.qkv, c)},   {kV, at(args.qkv, 2 * c)},  {kO, args.context.data},
                {kStats, args.lse.data}, {kDO, args.dcontext.data}, {kDQ, at(args.dqkv, 0)}, {kDK, at(args.dqkv, c)},
                {kDV, at(args.dqkv, 2 * c)}, {kSeed, seed.data()},  {kOffset, offset.data()}};
  }
  ~Impl() {
    if (handle) fe::detail::destroy_handle(handle);
  }

  int64_t sequences() const { return args.qkv.rows() / args.length; }
  static std::shared_ptr<fe::graph::Graph> new_graph() {
    auto graph = std::make_shared<fe::graph::Graph>();
    graph->set_io_data_type(fe::DataType_t::BFLOAT16).set_intermediate_data_type(fe::DataType_t::FLOAT).set_compute_data_type(fe::DataType_t::FLOAT);
    return graph;
  }
  // (sequences, heads, length, head_dim) in rows of row_elements.
  TensorPointer heads_of(fe::graph::Graph& graph, Id id, int64_t row_elements) const {
    return graph.tensor(described(fe::graph::Tensor_attributes(), id, row_elements));
  }
  fe::graph::Tensor_attributes described(fe::graph::Tensor_attributes t, Id id, int64_t row_elements) const {
    t.set_uid(id).set_dim({sequences(), args.heads, args.length, kHeadDim}).set_stride({args.length * row_elements, kHeadDim, row_elements, 1});
    return t;
  }
  void is_output(const TensorPointer& t, Id id, int64_t row_elements) const {
    t->set_output(true).set_uid(id).set_dim({sequences(), args.heads, args.length, kHeadDim}).set_stride({args.length * row_elements, kHeadDim, row_elements, 1});
  }
  TensorPointer scalar(fe::graph::Graph& graph, Id id) const {
    return graph.tensor(fe::graph::Tensor_attributes().set_uid(id).set_dim({1, 1, 1, 1}).set_stride({1, 1, 1, 1}).set_data_type(fe::DataType_t::INT64));
  }
  void build(const std::shared_ptr<fe::graph::Graph>& graph) const { check(graph->build(handle, {fe::HeurMode_t::A}), "building the graph"); }

  void build_forward() {
    forward_graph = new_graph();
    fe::graph::Graph& g = *forward_graph;
    const int64_t c = args.heads * kHeadDim;
    auto options = fe::graph::SDPA_attributes().set_name("forward").set_generate_stats(true).set_attn_scale(1 / std::sqrt(static_cast<float>(kHeadDim)));
    if (args.drop_p > 0) options.set_dropout(static_cast<float>(args.drop_p), scalar(g, kSeed), scalar(g, kOffset));
    auto [o, stats] = g.sdpa(heads_of(g, kQ, 3 * c), heads_of(g, kK, 3 * c), heads_of(g, kV, 3 * c), options);
    is_output(o, kO, c);
    stats->set_output(true).set_uid(kStats).set_data_type(fe::DataType_t::FLOAT);
    build(forward_graph);
  }
  void build_backward() {
    backward_graph = new_graph();
    fe::graph::Graph& g = *backward_graph;
    const int64_t c = args.heads * kHeadDim;
    auto options = fe::graph::SDPA_backward_attributes().set_name("backward").set_attn_scale(1 / std::sqrt(static_cast<float>(kHeadDim)));
    if (args.drop_p > 0) options.set_dropout(static_cast<float>(args.drop_p), scalar(g, kSeed), scalar(g, kOffset));
    const TensorPointer stats = g.tensor(fe::graph::Tensor_attributes()
                                             .set_uid(kStats)
                                             .set_dim({sequences(), args.heads, args.length, 1})
                                             .set_stride({args.heads * args.length, args.length, 1, 1})
                                             .set_data_type(fe::DataType_t::FLOAT));
    auto [dq, dk, dv] = g.sdpa_backward(heads_of(g, kQ, 3 * c), heads_of(g, kK, 3 * c), heads_of(g, kV, 3 * c), heads_of(g, kO, c),
                                        heads_of(g, kDO, c), stats, options);
    is_output(dq, kDQ, 3 * c);
    is_output(dk, kDK, 3 * c);
    is_output(dv, kDV, 3 * c);
    build(backward_graph);
  }
  void run(const std::shared_ptr<fe::graph::Graph>& graph) { check(graph->execute(handle, pointers, workspace.data()), "attention"); }
};

CudnnAttention::CudnnAttention(const CudnnAttentionArguments& args, const Stream& stream) {
  try {
    impl_ = std::make_unique<Impl>(args, stream);
  } catch (const DeviceError&) {
    throw;
  } catch (const std::exception& error) { throw DeviceError("cudnn", error.what()); }
}
void CudnnAttention::forward() { impl_->run(impl_->forward_graph); }
void CudnnAttention::backward() { impl_->run(impl_->backward_graph); }

#else

namespace electra::bench {

struct CudnnAttention::Impl {};

CudnnAttention::CudnnAttention(const CudnnAttentionArguments&, const Stream&) {
  throw DeviceError("cudnn", "expected a build with the headers of cudnn-frontend (pip install nvidia-cudnn-frontend), this one has none");
}
void CudnnAttention::forward() {}
void CudnnAttention::backward() {}

#endif

CudnnAttention::~CudnnAttention() = default;

}  // namespace electra::bench
