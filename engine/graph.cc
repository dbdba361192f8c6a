#include "engine/graph.h"

#include "kernels/core/error.h"
#include "kernels/core/philox.h"

namespace electra {

void no_backward(const Op& op) { throw Error(op.name(), "expected no call of backward: the op has no gradient"); }

Value Graph::input(std::string name, TensorSpec spec) {
  values_.push_back({ValueKind::input, std::move(name), spec, -1, false});
  return static_cast<Value>(values_.size()) - 1;
}

Value Graph::parameter(std::string name, Shape shape, bool decay) {
  for (size_t v = 0; v < values_.size(); ++v)
    if (values_[v].kind == ValueKind::parameter && values_[v].name == name) {
      check_shape(full_name(name), "shared parameter", shape, values_[v].spec.shape);
      return static_cast<Value>(v);
    }
  values_.push_back({ValueKind::parameter, std::move(name), {shape, float_type_}, -1, decay});
  return static_cast<Value>(values_.size()) - 1;
}

std::vector<Value> Graph::add(std::unique_ptr<Op> op, std::vector<Value> in, std::string_view local_name) {
  Node node{std::move(op), full_name(local_name), std::move(in), {}, {}, segment_};
  if (!node_names_.insert(node.name).second)
    throw Error(node.name, "expected a name used once in the graph: it is the site of random draws");
  std::vector<TensorSpec> specs;
  for (const Value v : node.in) specs.push_back(value(v).spec);
  node.signature = node.op->infer(specs, {node.name, max_threads_, backend_});
  for (const TensorSpec& spec : node.signature.outputs) {
    values_.push_back({ValueKind::computed, node.name, spec, static_cast<int>(nodes_.size()), false});
    node.out.push_back(static_cast<Value>(values_.size()) - 1);
  }
  nodes_.push_back(std::move(node));
  return nodes_.back().out;
}

std::string Graph::full_name(std::string_view local_name) const {
  return scope_.empty() ? std::string(local_name) : scope_ + "/" + std::string(local_name);
}

uint64_t Graph::site(std::string_view local_name) const { return fnv1a64(full_name(local_name)); }

Graph::Scope::Scope(Graph& graph, std::string_view name) : graph_(graph), old_length_(graph.scope_.size()) {
  graph_.scope_ = graph_.full_name(name);
}
Graph::Scope::~Scope() { graph_.scope_.resize(old_length_); }

Graph::Segment::Segment(Graph& graph, bool active) : graph_(graph), outer_(graph.segment_) {
  if (active && graph_.segment_ < 0) graph_.segment_ = graph_.segments_++;
}
Graph::Segment::~Segment() { graph_.segment_ = outer_; }

}  // namespace electra
