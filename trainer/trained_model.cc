#include "trainer/trained_model.h"

#include "trainer/data/data_set.h"

namespace electra {

TrainedModel::TrainedModel(const std::filesystem::path& path, const std::vector<std::string>& overrides)
    : checkpoint_(Checkpoint::open(path)),
      config_(load_config(checkpoint_.file("config.resolved.yaml").string(), overrides)),
      tokenizer_(Vocabulary::load(checkpoint_.file("vocab.txt")), parse_tokenizer_config(checkpoint_.file("tokenizer_config.json"))) {}

SpecialIds TrainedModel::special() const {
  const Vocabulary& v = tokenizer_.vocabulary();
  return {v.pad(), v.unk(), v.cls(), v.sep(), v.mask()};
}

void TrainedModel::load_weights(ParameterStore& store, bool whole) const {
  checkpoint_.load_weights(config().model, store.on_host(), whole);
  store.to_device();
}

ElectraProgram TrainedModel::program(ElectraGraph traced, Stream stream) const {
  ElectraProgram program(std::move(traced), /*train=*/false, stream);
  load_weights(*program.store(), /*whole=*/false);
  return program;
}

}  // namespace electra
