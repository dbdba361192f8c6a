#include "trainer/electra_program.h"

#include <cstring>
#include <string>

#include "kernels/core/error.h"

namespace electra {

ElectraProgram::ElectraProgram(ElectraGraph traced, bool train, Stream stream, std::shared_ptr<ParameterStore> store,
                               Program::Options options)
    : traced_(std::move(traced)), store_(std::move(store)) {
  const Graph& graph = *traced_.graph;
  Plan plan = make_plan(graph, {.train = train, .loss = traced_.loss, .keep = traced_.outputs()});
  cost_ = total_cost(graph, plan);
  if (!store_) store_ = std::make_shared<ParameterStore>(graph, plan, train, stream);
  program_ = std::make_unique<Program>(graph, std::move(plan), *store_, stream, options);
}

void ElectraProgram::load(const HostBatch& batch) {
  const auto copy = [&](Value v, const int32_t* from) {
    const Tensor to = program_->input(v);
    std::memcpy(to.data, from, to.bytes());
  };
  copy(traced_.batch.ids, batch.ids);
  copy(traced_.batch.segments, batch.segments);
  copy(traced_.batch.sequence_offsets, batch.sequence_offsets);
  if (traced_.continuations != kNoValue) {
    const std::vector<uint8_t>& table = *traced_.continuation_table;
    const Tensor to = program_->input(traced_.continuations);
    if (table.size() != to.bytes()) throw ShapeError("continuations", "expected one for each of " + std::to_string(to.bytes()) + " ids, got " + std::to_string(table.size()));
    std::memcpy(to.data, table.data(), table.size());
  }
  program_->send_inputs();
}

}  // namespace electra
