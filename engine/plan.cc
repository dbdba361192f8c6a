#include "engine/plan.h"

#include <algorithm>
#include <cstdio>

#include "kernels/core/error.h"

namespace electra {
namespace {

bool bit(uint32_t mask, size_t k) { return mask >> k & 1; }

class Planner {
 public:
  Planner(const Graph& graph, const PlanOptions& options) : graph_(graph), options_(options) {
    const size_t values = graph.values().size(), nodes = graph.nodes().size();
    kept_.assign(values, kNoSlot);
    fresh_.assign(values, kNoSlot);
    grad_.assign(values, kNoSlot);
    saved_.resize(nodes);
    fresh_saved_.resize(nodes);
    has_gradient_.assign(nodes, false);
    param_seen_.assign(values, false);
    param_done_.assign(values, -1);
  }

  Plan run() {
    if (options_.train) {
      mark_gradients();
      mark_kept();
    }
    for (int i = 0; i < node_count(); ++i) call_forward(i);
    plan_.first_backward = static_cast<int>(plan_.calls.size());
    if (options_.train) backward();
    plan_.final_slot.assign(graph_.values().size(), kNoSlot);
    const int end = static_cast<int>(plan_.calls.size());
    auto keep = options_.keep;
    if (options_.loss != kNoValue) keep.push_back(options_.loss);
    for (const Value v : keep)
      if (graph_.value(v).kind == ValueKind::computed) {
        plan_.final_slot[index(v)] = kept_[index(v)];
        extend(kept_[index(v)], end);
      }
    order_parameters();
    for (const Slot& s : plan_.slots) plan_.unplanned_bytes += s.bytes;
    plan_.arena_bytes = assign_offsets(plan_.slots);
    return std::move(plan_);
  }

 private:
  static size_t index(int v) { return static_cast<size_t>(v); }
  int node_count() const { return static_cast<int>(graph_.nodes().size()); }
  const Node& node(int i) const { return graph_.nodes()[index(i)]; }
  int now() const { return static_cast<int>(plan_.calls.size()); }

  int open(const TensorSpec& spec, int first) { return open_bytes(spec.bytes(), first); }
  int open_bytes(size_t bytes, int first) {
    plan_.slots.push_back({(bytes + kArenaAlignment - 1) / kArenaAlignment * kArenaAlignment, 0, first, first});
    return static_cast<int>(plan_.slots.size()) - 1;
  }
  std::vector<int> open_saved(const Signature& signature, bool for_backward) {
    std::vector<int> slots;
    for (size_t k = 0; k < signature.saved.size(); ++k)
      slots.push_back(for_backward || !bit(signature.optional_saved, k) ? open(signature.saved[k], now()) : kNoSlot);
    return slots;
  }
  void extend(int slot, int time) {
    if (slot != kNoSlot) plan_.slots[index(slot)].last = std::max(plan_.slots[index(slot)].last, time);
  }

  // Which nodes take part in backward: the loss depends on them, and a parameter lies under them.
  void mark_gradients() {
    if (options_.loss == kNoValue) throw Error("plan", "expected a loss to train on, got none");
    std::vector<bool> depends(graph_.values().size(), false);  // on a parameter, through differentiable inputs
    for (size_t v = 0; v < graph_.values().size(); ++v) depends[v] = graph_.values()[v].kind == ValueKind::parameter;
    for (const Node& n : graph_.nodes()) {
      bool any = false;
      for (size_t k = 0; k < n.in.size(); ++k) any |= bit(n.signature.differentiable_inputs, k) && depends[index(n.in[k])];
      for (size_t k = 0; k < n.out.size(); ++k) depends[index(n.out[k])] = any && bit(n.signature.differentiable_outputs, k);
    }
    wants_.assign(graph_.values().size(), false);  // a gradient of this value will be produced
    if (!depends[index(options_.loss)]) throw Error("plan", "expected a loss that depends on parameters");
    wants_[index(options_.loss)] = true;
    for (int i = node_count() - 1; i >= 0; --i) {
      const Node& n = node(i);
      bool reached = false;
      for (const Value v : n.out) reached = reached || wants_[index(v)];
      has_gradient_[index(i)] = reached;
      for (size_t k = 0; reached && k < n.in.size(); ++k)
        if (bit(n.signature.differentiable_inputs, k) && depends[index(n.in[k])]) wants_[index(n.in[k])] = true;
    }
  }

  // Values that something outside their own segment reads after forward: they are kept, the rest of a segment is recomputed.
  void mark_kept() {
    keep_.assign(graph_.values().size(), false);
    for (const Value v : options_.keep) keep_[index(v)] = true;
    keep_[index(options_.loss)] = true;
    for (int i = 0; i < node_count(); ++i) {
      const Node& n = node(i);
      for (size_t k = 0; k < n.in.size(); ++k) {
        const int producer = graph_.value(n.in[k]).producer;
        if (producer < 0) continue;
        const bool other_segment = node(producer).segment < 0 || node(producer).segment != n.segment;
        const bool read_later = (has_gradient_[index(i)] && bit(n.signature.backward_reads_inputs, k)) || n.segment >= 0;
        if (other_segment && read_later) keep_[index(n.in[k])] = true;
      }
    }
  }

  void call_forward(int i) {
    const Node& n = node(i);
    Call call;
    call.node = i;
    call.pass = Pass::forward;
    for (const Value v : n.in) {
      extend(kept_[index(v)], now());
      call.in.push_back(kept_[index(v)]);
    }
    for (size_t k = 0; k < n.out.size(); ++k) {
      kept_[index(n.out[k])] = open(n.signature.outputs[k], now());
      call.out.push_back(kept_[index(n.out[k])]);
    }
    call.saved = saved_[index(i)] = open_saved(n.signature, has_gradient_[index(i)]);
    if (n.signature.forward_workspace) call.workspace = open_bytes(n.signature.forward_workspace, now());
    plan_.calls.push_back(std::move(call));
  }

  // Slot of a value as the backward phase sees it: the recomputed copy where there is one.
  int late(Value v) const { return fresh_[index(v)] != kNoSlot ? fresh_[index(v)] : kept_[index(v)]; }

  // Runs the part of a segment forward again that its backward reads and nobody kept.
  void recompute_segment(int segment) {
    std::vector<int> members;
    for (int i = 0; i < node_count(); ++i)
      if (node(i).segment == segment) members.push_back(i);
    std::vector<bool> needed(graph_.nodes().size(), false);
    const auto need_value = [&](Value v) {
      const int p = graph_.value(v).producer;
      if (p >= 0 && node(p).segment == segment && !keep_[index(v)]) needed[index(p)] = true;
    };
    for (auto it = members.rbegin(); it != members.rend(); ++it) {
      const Node& n = node(*it);
      if (has_gradient_[index(*it)]) {
        if (!n.signature.saved.empty()) needed[index(*it)] = true;
        for (size_t k = 0; k < n.out.size(); ++k)
          if (bit(n.signature.backward_reads_outputs, k)) need_value(n.out[k]);
        for (size_t k = 0; k < n.in.size(); ++k)
          if (bit(n.signature.backward_reads_inputs, k)) need_value(n.in[k]);
      }
      if (needed[index(*it)])
        for (const Value v : n.in) need_value(v);
    }
    for (const int i : members) {
      if (!needed[index(i)]) continue;
      const Node& n = node(i);
      Call call;
      call.node = i;
      call.pass = Pass::recompute;
      for (const Value v : n.in) {
        extend(late(v), now());
        call.in.push_back(late(v));
      }
      for (size_t k = 0; k < n.out.size(); ++k) {
        const size_t v = index(n.out[k]);
        if (!keep_[v]) fresh_[v] = open(n.signature.outputs[k], now());
        extend(late(n.out[k]), now());
        call.out.push_back(late(n.out[k]));
      }
      call.saved = fresh_saved_[index(i)] = open_saved(n.signature, has_gradient_[index(i)]);
      if (n.signature.forward_workspace) call.workspace = open_bytes(n.signature.forward_workspace, now());
      plan_.calls.push_back(std::move(call));
    }
  }

  void backward() {
    plan_.loss_gradient = grad_[index(options_.loss)] = open(graph_.value(options_.loss).spec, now());
    std::vector<bool> done;
    for (int i = node_count() - 1; i >= 0; --i) {
      if (!has_gradient_[index(i)]) continue;
      const int segment = node(i).segment;
      if (segment >= 0) {
        if (done.size() <= index(segment)) done.resize(index(segment) + 1, false);
        if (!done[index(segment)]) {
          done[index(segment)] = true;
          recompute_segment(segment);
        }
      }
      call_backward(i);
    }
  }

  void call_backward(int i) {
    const Node& n = node(i);
    Call call;
    call.node = i;
    call.pass = Pass::backward;
    for (size_t k = 0; k < n.in.size(); ++k) {
      // What is not declared as read is bound all the same, to memory that may be dead: poison mode shows who reads it.
      if (bit(n.signature.backward_reads_inputs, k)) extend(late(n.in[k]), now());
      call.in.push_back(late(n.in[k]));
    }
    for (size_t k = 0; k < n.out.size(); ++k) {
      if (bit(n.signature.backward_reads_outputs, k)) extend(late(n.out[k]), now());
      call.out.push_back(late(n.out[k]));
      extend(grad_[index(n.out[k])], now());
      call.dout.push_back(grad_[index(n.out[k])]);
    }
    const auto& saved = fresh_saved_[index(i)].empty() ? saved_[index(i)] : fresh_saved_[index(i)];
    for (const int s : saved) {
      extend(s, now());
      call.saved.push_back(s);
    }
    for (size_t k = 0; k < n.in.size(); ++k) {
      const size_t v = index(n.in[k]);
      GradMode mode = GradMode::none, later = GradMode::none;
      if (bit(n.signature.differentiable_inputs, k) && wants_[v]) {
        if (graph_.values()[v].kind == ValueKind::parameter) {
          mode = param_seen_[v] ? GradMode::accumulate : GradMode::write;
          later = GradMode::accumulate;
          param_seen_[v] = true;
          param_done_[v] = now();
        } else {
          mode = later = grad_[v] == kNoSlot ? GradMode::write : GradMode::accumulate;
          if (grad_[v] == kNoSlot) grad_[v] = open(graph_.values()[v].spec, now());
          extend(grad_[v], now());
        }
      }
      call.mode.push_back(mode);
      call.later_mode.push_back(later);
      call.din.push_back(mode == GradMode::none ? kNoSlot : grad_[v]);
    }
    if (n.signature.backward_workspace) call.workspace = open_bytes(n.signature.backward_workspace, now());
    plan_.calls.push_back(std::move(call));
  }

  void order_parameters() {
    for (size_t v = 0; v < graph_.values().size(); ++v)
      if (graph_.values()[v].kind == ValueKind::parameter) plan_.parameters.push_back(static_cast<Value>(v));
    const auto key = [&](Value v) { return param_done_[index(v)] < 0 ? now() : param_done_[index(v)]; };
    std::stable_sort(plan_.parameters.begin(), plan_.parameters.end(), [&](Value a, Value b) { return key(a) < key(b); });
  }

  const Graph& graph_;
  const PlanOptions& options_;
  Plan plan_;
  std::vector<int> kept_;   // per value: its slot of the forward pass
  std::vector<int> fresh_;  // per value: its recomputed slot
  std::vector<int> grad_;
  std::vector<std::vector<int>> saved_, fresh_saved_;  // per node
  std::vector<bool> has_gradient_, wants_, keep_, param_seen_;
  std::vector<int> param_done_;  // call that completes a parameter's gradient
};

std::string human(double x, const char* unit) {
  static constexpr const char* kPrefix[] = {"", "k", "M", "G", "T", "P"};
  size_t i = 0;
  while (x >= 999.95 && i + 1 < std::size(kPrefix)) x /= 1000, ++i;
  char text[48];
  std::snprintf(text, sizeof text, i ? "%.1f %s%s" : "%.0f %s%s", x, kPrefix[i], unit);
  return text;
}

}  // namespace

size_t assign_offsets(std::vector<Slot>& slots) {
  // Greedy by size: the largest first, each at the lowest gap that is free over its whole lifetime.
  std::vector<size_t> order(slots.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return slots[a].bytes > slots[b].bytes; });
  const auto by_offset = [&](size_t a, size_t b) { return slots[a].offset < slots[b].offset; };
  std::vector<size_t> placed;  // sorted by offset
  size_t total = 0;
  for (const size_t i : order) {
    size_t at = 0;
    for (const size_t j : placed) {
      if (slots[j].first > slots[i].last || slots[i].first > slots[j].last) continue;
      if (at + slots[i].bytes <= slots[j].offset) break;
      at = std::max(at, slots[j].offset + slots[j].bytes);
    }
    slots[i].offset = at;
    placed.insert(std::upper_bound(placed.begin(), placed.end(), i, by_offset), i);
    total = std::max(total, at + slots[i].bytes);
  }
  return total;
}

Plan make_plan(const Graph& graph, const PlanOptions& options) { return Planner(graph, options).run(); }

Cost total_cost(const Graph& graph, const Plan& plan) {
  Cost total;
  for (const Call& call : plan.calls) {
    const Signature& s = graph.nodes()[static_cast<size_t>(call.node)].signature;
    const Cost& c = call.pass == Pass::backward ? s.backward : s.forward;
    total.flops += c.flops;
    total.bytes += c.bytes;
    for (size_t k = 0; k < call.saved.size(); ++k)
      if (call.saved[k] == kNoSlot) total.bytes -= static_cast<double>(s.saved[k].bytes());  // not written
  }
  return total;
}

std::string format_plan(const Graph& graph, const Plan& plan) {
  std::string text;
  char line[256];
  const auto add = [&](const char* node, const char* op, const std::string& shape, const std::string& kept,
                       const std::string& scratch, const std::string& forward, const std::string& moved,
                       const std::string& backward, const std::string& backward_moved) {
    std::snprintf(line, sizeof line, "%-46s %-18s %-14s %10s %10s %11s %10s %11s %10s\n", node, op, shape.c_str(), kept.c_str(),
                  scratch.c_str(), forward.c_str(), moved.c_str(), backward.c_str(), backward_moved.c_str());
    text += line;
  };
  add("node", "op", "output", "kept", "scratch", "forward", "moves", "backward", "moves");
  // Bytes of a node's outputs and saved tensors that live on into backward.
  std::vector<size_t> kept(graph.nodes().size(), 0), scratch(graph.nodes().size(), 0);
  for (const Call& call : plan.calls) {
    const auto node = static_cast<size_t>(call.node);
    if (call.workspace != kNoSlot)
      scratch[node] = std::max(scratch[node], plan.slots[static_cast<size_t>(call.workspace)].bytes);
    if (call.pass != Pass::forward) continue;
    for (const auto* list : {&call.out, &call.saved})
      for (const int s : *list)
        if (s != kNoSlot && plan.slots[static_cast<size_t>(s)].last >= plan.first_backward) kept[node] += plan.slots[static_cast<size_t>(s)].bytes;
  }
  size_t kept_total = 0;
  for (size_t i = 0; i < graph.nodes().size(); ++i) {
    const Node& n = graph.nodes()[i];
    kept_total += kept[i];
    add(n.name.c_str(), n.op->name(), n.signature.outputs.empty() ? "-" : n.signature.outputs[0].shape.str(),
        human(static_cast<double>(kept[i]), "B"), human(static_cast<double>(scratch[i]), "B"),
        human(n.signature.forward.flops, "FLOP"), human(n.signature.forward.bytes, "B"),
        human(n.signature.backward.flops, "FLOP"), human(n.signature.backward.bytes, "B"));
  }
  const Cost total = total_cost(graph, plan);
  text += "calls " + std::to_string(plan.calls.size()) + ", kept for backward " + human(static_cast<double>(kept_total), "B") +
          ", arena " + human(static_cast<double>(plan.arena_bytes), "B") + " (one buffer per tensor: " +
          human(static_cast<double>(plan.unplanned_bytes), "B") + "), a step: " + human(total.flops, "FLOP") + ", " +
          human(total.bytes, "B") + "\n";
  return text;
}

}  // namespace electra
