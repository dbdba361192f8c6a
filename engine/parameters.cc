#include "engine/parameters.h"

#include "kernels/core/error.h"

namespace electra {

ParameterStore::ParameterStore(const Graph& graph, const Plan& plan, bool for_training) : dtype_(graph.float_type()) {
  for (const Value v : plan.parameters) {
    const ValueInfo& info = graph.value(v);
    by_name_.emplace(info.name, parameters_.size());
    parameters_.push_back({info.name, info.spec.shape, elements_, info.decay});
    const int64_t groups = (info.spec.shape.size() + kGroupElements - 1) / kGroupElements;
    group_ids_.insert(group_ids_.end(), static_cast<size_t>(groups), info.decay ? 0 : 1);
    elements_ += groups * kGroupElements;
  }
  const size_t bytes = static_cast<size_t>(elements_) * size_of(dtype_);
  value_ = Buffer(bytes);
  if (!for_training) return;
  grad_ = Buffer(bytes);
  m_ = Buffer(bytes);
  v_ = Buffer(bytes);
}

int64_t ParameterStore::count() const {
  int64_t n = 0;
  for (const Parameter& p : parameters_) n += p.shape.size();
  return n;
}

const Parameter* ParameterStore::find(std::string_view name) const {
  const auto it = by_name_.find(std::string(name));
  return it == by_name_.end() ? nullptr : &parameters_[it->second];
}

const Parameter& ParameterStore::at(std::string_view name) const {
  if (const Parameter* p = find(name)) return *p;
  throw Error("parameters", "expected a parameter named " + std::string(name) + ", the model has none");
}

Tensor ParameterStore::view(const Buffer& buffer, const Parameter& p) const {
  if (!buffer.data()) return {nullptr, p.shape, dtype_};
  return {buffer.data() + static_cast<size_t>(p.offset) * size_of(dtype_), p.shape, dtype_};
}

Tensor ParameterStore::flat(const Buffer& buffer) const { return {buffer.data(), {elements_}, dtype_}; }

}  // namespace electra
