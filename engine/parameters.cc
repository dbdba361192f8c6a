#include "engine/parameters.h"

#include "kernels/core/bf16.h"
#include "kernels/core/error.h"

namespace electra {

ParameterStore::ParameterStore(const Graph& graph, const Plan& plan, bool for_training, Stream stream)
    : stream_(stream), dtype_(graph.float_type()) {
  for (const Value v : plan.parameters) {
    const ValueInfo& info = graph.value(v);
    by_name_.emplace(info.name, parameters_.size());
    parameters_.push_back({info.name, info.spec.shape, elements_, info.decay});
    const int64_t groups = (info.spec.shape.size() + kGroupElements - 1) / kGroupElements;
    group_ids_.insert(group_ids_.end(), static_cast<size_t>(groups), info.decay ? 0 : 1);
    elements_ += groups * kGroupElements;
  }
  const Memory memory = memory_of(stream.backend());
  const size_t bytes = static_cast<size_t>(elements_) * size_of(master_dtype());
  value_ = Buffer(bytes, memory);
  if (dtype_ == DType::bf16) copy_ = Buffer(static_cast<size_t>(elements_) * sizeof(bf16), memory);
  if (!for_training) return;
  grad_ = Buffer(bytes, memory);
  m_ = Buffer(bytes, memory);
  v_ = Buffer(bytes, memory);
}

ParameterStore::ParameterStore(const ParameterStore& of, HostCopy)
    : stream_(of.stream_.pool()),
      dtype_(of.master_dtype()),
      elements_(of.elements_),
      parameters_(of.parameters_),
      by_name_(of.by_name_),
      group_ids_(of.group_ids_),
      value_(of.value_.bytes()),
      grad_(of.grad_.bytes()),
      m_(of.m_.bytes()),
      v_(of.v_.bytes()) {}

ParameterStore& ParameterStore::on_host() {
  if (stream_.backend() == Backend::cpu) return *this;
  if (!host_) host_.reset(new ParameterStore(*this, HostCopy{}));
  for (Buffer ParameterStore::* const buffer : {&ParameterStore::value_, &ParameterStore::grad_, &ParameterStore::m_, &ParameterStore::v_})
    copy(((*host_).*buffer).data(), (this->*buffer).data(), (this->*buffer).bytes(), stream_);
  stream_.synchronize();
  return *host_;
}

void ParameterStore::to_device() {
  if (!host_) return;
  for (Buffer ParameterStore::* const buffer : {&ParameterStore::value_, &ParameterStore::grad_, &ParameterStore::m_, &ParameterStore::v_})
    copy((this->*buffer).data(), ((*host_).*buffer).data(), (this->*buffer).bytes(), stream_);
  if (copy_.data()) {
    std::vector<bf16> rounded(static_cast<size_t>(elements_));
    const auto* values = reinterpret_cast<const float*>(host_->value_.data());
    for (size_t i = 0; i < rounded.size(); ++i) rounded[i] = to_bf16(values[i]);
    copy(copy_.data(), rounded.data(), copy_.bytes(), stream_);
  }
  stream_.synchronize();
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

Tensor ParameterStore::view(const Buffer& buffer, const Parameter& p, DType dtype) const {
  if (!buffer.data()) return {nullptr, p.shape, dtype};
  return {buffer.data() + static_cast<size_t>(p.offset) * size_of(dtype), p.shape, dtype};
}

Tensor ParameterStore::flat(const Buffer& buffer) const {
  return {buffer.data(), {elements_}, master_dtype()};
}

}  // namespace electra
