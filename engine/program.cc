#include "engine/program.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "kernels/core/error.h"

namespace electra {

Tensor Program::slot(int s, const TensorSpec& spec) const {
  if (s == kNoSlot) return {nullptr, spec.shape, spec.dtype};
  return {arena_.data() + plan_.slots[static_cast<size_t>(s)].offset, spec.shape, spec.dtype};
}

Program::Program(const Graph& graph, Plan plan, const ParameterStore& store, Stream stream, Options options)
    : graph_(&graph),
      plan_(std::move(plan)),
      stream_(stream),
      options_(options),
      state_(stream),
      arena_(plan_.arena_bytes, memory_of(stream.backend())),
      loss_gradient_(sizeof(double), memory_of(stream.backend())) {
  check_dtype("program", "the parameter store", store.dtype(), graph.float_type());
  const auto round_up = [](size_t bytes) { return (bytes + kArenaAlignment - 1) / kArenaAlignment * kArenaAlignment; };
  size_t bytes = 0, output_bytes = 0;
  for (const ValueInfo& v : graph.values())
    if (v.kind == ValueKind::input) bytes += round_up(v.spec.bytes());
  inputs_ = Buffer(bytes, memory_of(stream.backend()));
  if (stream.backend() == Backend::cuda) {
    for (Buffer& b : staging_) {
      b = Buffer(bytes, Memory::pinned);
      staged_.emplace_back(stream);
    }
    landing_ = Buffer(bytes, Memory::device);
    taken_.emplace(stream);
    copies_.emplace(stream);
    host_output_offset_.resize(graph.values().size());
    for (size_t v = 0; v < graph.values().size(); ++v) {
      host_output_offset_[v] = output_bytes;
      if (plan_.final_slot[v] != kNoSlot) output_bytes += round_up(graph.values()[v].spec.bytes());
    }
    host_outputs_ = Buffer(output_bytes, Memory::pinned);
  }
  const double one = 1;
  const float one_float = 1;
  if (graph.float_type() == DType::f64) copy(loss_gradient_.data(), &one, sizeof one, stream);
  else copy(loss_gradient_.data(), &one_float, sizeof one_float, stream);

  // Memory of inputs and parameters; computed values are bound call by call.
  std::vector<Tensor> fixed(graph.values().size()), fixed_grad(graph.values().size());
  bytes = 0;
  for (size_t v = 0; v < graph.values().size(); ++v) {
    const ValueInfo& info = graph.values()[v];
    fixed[v] = fixed_grad[v] = {nullptr, info.spec.shape, info.spec.dtype};
    if (info.kind == ValueKind::input) {
      fixed[v].data = inputs_.data() + bytes;
      bytes += round_up(info.spec.bytes());
    } else if (info.kind == ValueKind::parameter) {
      const Parameter& p = store.at(info.name);
      check_shape(info.name, "parameter", p.shape, info.spec.shape);
      fixed[v] = store.value(p);
      fixed_grad[v] = store.grad(p);
    }
  }
  input_tensors_ = fixed;

  for (size_t c = 0; c < plan_.calls.size(); ++c) {
    const Call& call = plan_.calls[c];
    const Node& node = graph.nodes()[static_cast<size_t>(call.node)];
    BoundCall bound;
    bound.op = node.op.get();
    bound.pass = call.pass;
    bound.mode = call.mode;
    bound.later_mode = call.later_mode;
    for (size_t k = 0; k < node.in.size(); ++k) {
      const auto v = static_cast<size_t>(node.in[k]);
      const TensorSpec& spec = graph.values()[v].spec;
      const bool computed = graph.values()[v].kind == ValueKind::computed;
      bound.in.push_back(computed ? slot(call.in[k], spec) : fixed[v]);
      if (call.pass != Pass::backward) continue;
      const bool parameter = graph.values()[v].kind == ValueKind::parameter && call.mode[k] != GradMode::none;
      bound.din.push_back(parameter ? fixed_grad[v] : slot(call.din[k], spec));
    }
    for (size_t k = 0; k < node.out.size(); ++k) {
      bound.out.push_back(slot(call.out[k], node.signature.outputs[k]));
      if (call.pass == Pass::backward) bound.dout.push_back(slot(call.dout[k], node.signature.outputs[k]));
    }
    for (size_t k = 0; k < call.saved.size(); ++k) bound.saved.push_back(slot(call.saved[k], node.signature.saved[k]));
    const size_t workspace = call.pass == Pass::backward ? node.signature.backward_workspace : node.signature.forward_workspace;
    bound.workspace = slot(call.workspace, {{static_cast<int64_t>(workspace)}, DType::u8});
    if (options_.poison)
      for (size_t s = 0; s < plan_.slots.size(); ++s)
        if (plan_.slots[s].last == static_cast<int>(c)) bound.ending.push_back(static_cast<int>(s));
    calls_.push_back(std::move(bound));
  }
  if (options_.time_calls) {
    host_marks_.resize(2 * calls_.size());
    for (size_t mark = 0; mark < host_marks_.size(); ++mark) marks_.emplace_back(stream);
  }
}

void Program::mark_time(size_t mark) {
  marks_[mark].record(stream_);
  host_marks_[mark] = std::chrono::steady_clock::now();
}

std::vector<double> Program::call_milliseconds() const {
  if (!options_.time_calls) throw Error("program", "expected Options::time_calls, it was not set");
  stream_.synchronize();
  const bool by_gpu = kGpuBuild == GpuBuild::CUDA && stream_.backend() == Backend::cuda;
  std::vector<double> all(calls_.size());
  for (size_t c = 0; c < calls_.size(); ++c) {
    const auto begin = host_marks_[2 * c], end = host_marks_[2 * c + 1];
    if (end == decltype(end){}) continue;
    all[c] = by_gpu ? marks_[2 * c + 1].milliseconds_since(marks_[2 * c]) : std::chrono::duration<double, std::milli>(end - begin).count();
  }
  return all;
}

void Program::call_ops(size_t first, size_t last, bool first_micro_batch) {
  for (size_t c = first; c < last; ++c) {
    const BoundCall& call = calls_[c];
    const Frame frame{.in = call.in,
                      .out = call.out,
                      .saved = call.saved,
                      .dout = call.dout,
                      .din = call.din,
                      .mode = first_micro_batch ? call.mode : call.later_mode,
                      .workspace = call.workspace,
                      .state = state_.data(),
                      .stream = &stream_};
    if (options_.time_calls) mark_time(2 * c);
    if (call.pass == Pass::backward) call.op->backward(frame);
    else call.op->forward(frame);
    if (options_.time_calls) mark_time(2 * c + 1);
    for (const int s : call.ending)
      poison(arena_.data() + plan_.slots[static_cast<size_t>(s)].offset, plan_.slots[static_cast<size_t>(s)].bytes, stream_);
  }
}

void Program::issue(Run run) {
  if (options_.poison) poison(arena_.data(), arena_.bytes(), stream_);
  if (options_.time_calls) std::fill(host_marks_.begin(), host_marks_.end(), decltype(host_marks_)::value_type{});
  const auto backward = static_cast<size_t>(plan_.first_backward);
  call_ops(0, backward, true);
  if (run == kForward) return;
  const Slot& loss = plan_.slots[static_cast<size_t>(plan_.loss_gradient)];
  copy(arena_.data() + loss.offset, loss_gradient_.data(), size_of(accumulate_type(graph_->float_type())), stream_);
  call_ops(backward, calls_.size(), run == kFirstMicroBatch);
}

void Program::send_inputs() {
  if (!filling_) return;
  taken_->wait(copies_->get());
  copy(landing_.data(), staging_[staging_now_].data(), landing_.bytes(), copies_->get());
  staged_[staging_now_].record(copies_->get());
  filling_ = false;
  sent_ = true;
}

void Program::prepare(const StepState& state) {
  state_.set(state);
  send_inputs();
  if (!sent_) return;
  staged_[staging_now_].wait(stream_);
  copy(inputs_.data(), landing_.data(), landing_.bytes(), stream_);
  taken_->record(stream_);
  sent_ = false;
}

void Program::start(const StepState& state, Run run) {
  prepare(state);
  if (stream_.backend() == Backend::cpu || options_.poison || options_.time_calls || !options_.record) return issue(run);
  recordings_[run].run(stream_, [&] { issue(run); });
}

void Program::forward(const StepState& state) { start(state, kForward); }

void Program::forward_backward(const StepState& state, bool first_micro_batch) {
  check_trains();
  start(state, first_micro_batch ? kFirstMicroBatch : kLaterMicroBatch);
}

void Program::issue_forward_backward(bool first_micro_batch) {
  check_trains();
  issue(first_micro_batch ? kFirstMicroBatch : kLaterMicroBatch);
}

void Program::check_trains() const {
  if (plan_.loss_gradient == kNoSlot) throw Error("program", "expected a plan made for training");
}

Tensor Program::input(Value v) {
  if (graph_->value(v).kind != ValueKind::input) throw Error("program", graph_->value(v).name + " is no input");
  Tensor t = input_tensors_[static_cast<size_t>(v)];
  if (stream_.backend() == Backend::cpu) return t;
  if (!filling_) {
    const size_t before = staging_now_;
    staging_now_ = (staging_now_ + 1) % staging_.size();
    staged_[staging_now_].synchronize();
    std::memcpy(staging_[staging_now_].data(), staging_[before].data(), inputs_.bytes());
    filling_ = true;
  }
  t.data = staging_[staging_now_].data() + (static_cast<std::byte*>(t.data) - inputs_.data());
  return t;
}

Tensor Program::device_output(Value v) const {
  const int s = plan_.final_slot[static_cast<size_t>(v)];
  if (s == kNoSlot) throw Error("program", "expected a kept value, " + graph_->value(v).name + " is not kept");
  return slot(s, graph_->value(v).spec);
}

void Program::copy_output(Value v, void* to) const {
  const Tensor t = device_output(v);
  copy(to, t.data, t.bytes(), stream_);
}

Tensor Program::output(Value v) const {
  Tensor t = device_output(v);
  if (stream_.backend() == Backend::cpu) return t;
  std::byte* const host = host_outputs_.data() + host_output_offset_[static_cast<size_t>(v)];
  copy_output(v, host);
  stream_.synchronize();
  t.data = host;
  return t;
}

}  // namespace electra
