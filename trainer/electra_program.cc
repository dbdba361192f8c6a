#include "trainer/electra_program.h"

#include <cstring>

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
  program_->send_inputs();
}

}  // namespace electra
