// ParameterStore: all parameters of a model in flat buffers at equal offsets (value, gradient, m, v), ordered by backward
// completion, with a group id for every kGroupElements elements.
#pragma once
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
  // Parameters of the graph in the plan's order; values, gradients and moments are zero. With for_training = false there
  // are no gradients and moments.
  ParameterStore(const Graph& graph, const Plan& plan, bool for_training);

  DType dtype() const { return dtype_; }
  int64_t elements() const { return elements_; }            // padding included
  int64_t count() const;                                    // padding excluded
  std::span<const Parameter> parameters() const { return parameters_; }
  const Parameter* find(std::string_view name) const;
  // Throws Error naming the parameter when there is none.
  const Parameter& at(std::string_view name) const;

  Tensor value(const Parameter& p) const { return view(value_, p); }
  Tensor grad(const Parameter& p) const { return view(grad_, p); }
  Tensor first_moment(const Parameter& p) const { return view(m_, p); }
  Tensor second_moment(const Parameter& p) const { return view(v_, p); }
  // Whole flat buffers, (elements()).
  Tensor values() const { return flat(value_); }
  Tensor grads() const { return flat(grad_); }
  Tensor first_moments() const { return flat(m_); }
  Tensor second_moments() const { return flat(v_); }
  std::span<const uint8_t> group_ids() const { return group_ids_; }  // 0: with decay, 1: without
  size_t bytes() const { return value_.bytes() + grad_.bytes() + m_.bytes() + v_.bytes(); }

 private:
  Tensor view(const Buffer& buffer, const Parameter& p) const;
  Tensor flat(const Buffer& buffer) const;

  DType dtype_;
  int64_t elements_ = 0;
  std::vector<Parameter> parameters_;
  std::unordered_map<std::string, size_t> by_name_;
  std::vector<uint8_t> group_ids_;
  Buffer value_, grad_, m_, v_;
};

}  // namespace electra
