// ParameterStore: all parameters of a model in flat buffers at equal offsets (value, gradient, m, v, and with bf16 the copy
// that kernels read), ordered by backward completion, with a group id for every kGroupElements elements.
#pragma once
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/plan.h"
#include "kernels/core/device.h"
#include "kernels/optimizer.h"

namespace electra {

struct Parameter {
  std::string name;
  Shape shape;
  int64_t offset = 0;  // elements, a multiple of kGroupElements
  bool decay = true;
};

class ParameterStore {
 public:
  // Parameters of the graph in the plan's order, in the memory of the stream's kernels; values, gradients and moments are zero.
  // With for_training = false there are no gradients and moments. Pool and device of the stream must outlive the store.
  ParameterStore(const Graph& graph, const Plan& plan, bool for_training, Stream stream);

  DType dtype() const { return dtype_; }                        // of the graph
  DType master_dtype() const { return accumulate_type(dtype_); }  // of values(), gradients and moments
  int64_t elements() const { return elements_; }            // padding included
  int64_t count() const;                                    // padding excluded
  std::span<const Parameter> parameters() const { return parameters_; }
  const Parameter* find(std::string_view name) const;
  // Throws Error naming the parameter when there is none.
  const Parameter& at(std::string_view name) const;

  // What the graph's kernels read: the bf16 copy, or the value itself.
  Tensor value(const Parameter& p) const { return copy_.data() ? view(copy_, p, dtype_) : view(value_, p, dtype_); }
  Tensor grad(const Parameter& p) const { return view(grad_, p, master_dtype()); }
  Tensor first_moment(const Parameter& p) const { return view(m_, p, master_dtype()); }
  Tensor second_moment(const Parameter& p) const { return view(v_, p, master_dtype()); }
  // Whole flat buffers, (elements()).
  Tensor values() const { return flat(value_); }
  Tensor copies() const { return copy_.data() ? Tensor{copy_.data(), {elements_}, dtype_} : Tensor{}; }  // bf16; absent otherwise
  Tensor grads() const { return flat(grad_); }
  Tensor first_moments() const { return flat(m_); }
  Tensor second_moments() const { return flat(v_); }
  std::span<const uint8_t> group_ids() const { return group_ids_; }  // 0: with decay, 1: without
  size_t bytes() const { return value_.bytes() + grad_.bytes() + m_.bytes() + v_.bytes() + copy_.bytes(); }

  // The parameters in host memory, in master_dtype: the store itself on the CPU, otherwise a copy which this call refreshes.
  ParameterStore& on_host();
  // Sends what was changed in on_host() to the device, bf16 copies included. Nothing to do on the CPU.
  void to_device();

 private:
  struct HostCopy {};
  ParameterStore(const ParameterStore& of, HostCopy);
  Tensor view(const Buffer& buffer, const Parameter& p, DType dtype) const;
  Tensor flat(const Buffer& buffer) const;

  Stream stream_;
  DType dtype_;
  int64_t elements_ = 0;
  std::vector<Parameter> parameters_;
  std::unordered_map<std::string, size_t> by_name_;
  std::vector<uint8_t> group_ids_;
  Buffer value_, grad_, m_, v_, copy_;
  std::unique_ptr<ParameterStore> host_;
};

}  // namespace electra
