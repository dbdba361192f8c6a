// Graph: the traced computation. Shapes are inferred while it is built, so errors carry the scope name and no memory exists.
#pragma once
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "engine/op.h"

namespace electra {

using Value = int;  // index into Graph::values
inline constexpr Value kNoValue = -1;

enum class ValueKind : uint8_t { input, parameter, computed };

struct ValueInfo {
  ValueKind kind;
  std::string name;
  TensorSpec spec;
  int producer = -1;  // node, for computed values
  bool decay = true;  // weight decay applies, for parameters
};

struct Node {
  std::unique_ptr<Op> op;
  std::string name;           // full scope name, unique in the graph: the site of its random draws
  std::vector<Value> in, out;
  Signature signature;
  int segment = -1;           // recomputation segment, -1: what backward reads is kept
};

class Graph {
 public:
  // float_type: dtype of activations and of parameters as kernels read them; the others: see TraceContext.
  explicit Graph(DType float_type, int max_threads = 1, Backend backend = Backend::cpu)
      : float_type_(float_type), max_threads_(max_threads), backend_(backend) {}

  Value input(std::string name, TensorSpec spec);
  // A name seen before returns the same value (sharing); another shape is a ShapeError.
  Value parameter(std::string name, Shape shape, bool decay);
  // Traces op under the current scope; local_name is unique in it. Returns the outputs.
  std::vector<Value> add(std::unique_ptr<Op> op, std::vector<Value> in, std::string_view local_name);

  // Full name local_name would get now; fnv1a64 of it is the site of a random op.
  std::string full_name(std::string_view local_name) const;
  uint64_t site(std::string_view local_name) const;

  DType float_type() const { return float_type_; }
  int max_threads() const { return max_threads_; }
  const std::vector<ValueInfo>& values() const { return values_; }
  const std::vector<Node>& nodes() const { return nodes_; }
  const ValueInfo& value(Value v) const { return values_[static_cast<size_t>(v)]; }

  // Names pushed while it lives become part of node names.
  class Scope {
   public:
    Scope(Graph& graph, std::string_view name);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Graph& graph_;
    size_t old_length_;
  };

  // Nodes traced while it lives form one recomputation segment: backward runs them forward again instead of keeping what
  // only their own backward reads.
  class Segment {
   public:
    explicit Segment(Graph& graph, bool active = true);
    ~Segment();
    Segment(const Segment&) = delete;
    Segment& operator=(const Segment&) = delete;

   private:
    Graph& graph_;
    int outer_;
  };

 private:
  DType float_type_;
  int max_threads_;
  Backend backend_;
  std::string scope_;
  int segment_ = -1;
  int segments_ = 0;
  std::vector<ValueInfo> values_;
  std::vector<Node> nodes_;
  std::set<std::string, std::less<>> node_names_;
};

}  // namespace electra
