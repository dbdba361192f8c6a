#include "model/names.h"

#include <array>

namespace electra {
namespace {

constexpr std::string_view kQkv = ".self.qkv.";
constexpr std::array<std::string_view, 3> kParts = {".self.query.", ".self.key.", ".self.value."};

bool starts_with(std::string_view text, std::string_view prefix) { return text.substr(0, prefix.size()) == prefix; }

}  // namespace

std::string parameter_name(Half half, std::string_view name) {
  return (half == Half::discriminator ? "discriminator/" : "generator/") + std::string(name);
}

bool has_weight_decay(std::string_view name) {
  return name.find("LayerNorm") == std::string_view::npos && name.find("layer_norm") == std::string_view::npos &&
         name.find("bias") == std::string_view::npos;
}

std::vector<PublishedSlice> published_slices(const Parameter& parameter) {
  const size_t slash = parameter.name.find('/');
  const Half half = starts_with(parameter.name, "generator/") ? Half::generator : Half::discriminator;
  const std::string name = parameter.name.substr(slash + 1);
  const size_t at = name.find(kQkv);
  if (at == std::string::npos) return {{half, name, 0, parameter.shape}};
  const int64_t rows = parameter.shape[0] / 3;
  const Shape shape = parameter.shape.rank() == 1 ? Shape{rows} : Shape{rows, parameter.shape[1]};
  std::vector<PublishedSlice> slices;
  for (size_t k = 0; k < kParts.size(); ++k) {
    std::string part = name;
    part.replace(at, kQkv.size(), kParts[k]);
    slices.push_back({half, part, static_cast<int64_t>(k) * shape.size(), shape});
  }
  return slices;
}

std::vector<PublishedTensor> published_tensors(const ElectraConfig& config, const ParameterStore& store, Half half) {
  if (half == Half::discriminator && !config.electra_objective) return {};
  if (half == Half::generator && config.uniform_generator) return {};
  // The generator reads the discriminator's embeddings unless it has its own, and all of its body when it has none.
  const bool own_body = config.electra_objective && config.untied_generator;
  const bool own_embeddings = own_body && config.untied_generator_embeddings;
  std::vector<PublishedTensor> tensors;
  for (const Parameter& p : store.parameters())
    for (PublishedSlice& s : published_slices(p)) {
      const bool body = starts_with(s.name, "electra.");
      const bool embeddings = starts_with(s.name, "electra.embeddings.");
      const bool shared = half == Half::generator && s.half == Half::discriminator &&
                          (embeddings ? !own_embeddings : body && !own_body);
      if (s.half == half || shared) tensors.push_back({std::move(s.name), &p, s.begin, s.shape});
    }
  return tensors;
}

}  // namespace electra
