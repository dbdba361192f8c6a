#include "trainer/gemm_algorithms.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "kernels/gemm.h"
#include "trainer/device_info.h"

namespace electra {
namespace {

using nlohmann::ordered_json;

constexpr const char* kFormat = "electra-gemm-algorithms";
constexpr int kVersion = 1;
constexpr size_t kDigits = 16;  // of a word

DType dtype_from(const std::string& name) {
  for (const DType t : {DType::f32, DType::bf16})
    if (name == name_of(t)) return t;
  throw Error("type", fmt::format("expected f32 or bf16, got '{}'", name));
}

std::string hex(const GemmAlgorithm& algorithm) {
  std::string text;
  for (const uint64_t word : algorithm) text += fmt::format("{:016x}", word);
  return text;
}

GemmAlgorithm from_hex(const std::string& text) {
  GemmAlgorithm algorithm{};
  if (text.size() != kDigits * algorithm.size() || text.find_first_not_of("0123456789abcdef") != std::string::npos)
    throw Error("algorithm", fmt::format("expected {} hexadecimal digits, got '{}'", kDigits * algorithm.size(), text));
  for (size_t i = 0; i < algorithm.size(); ++i) algorithm[i] = std::stoull(text.substr(i * kDigits, kDigits), nullptr, 16);
  return algorithm;
}

}  // namespace

GemmEnvironment gemm_environment(const Device& device) {
  return {gemm_library(device.stream().backend()).name, gpu_name(device)};
}

std::string to_json(const TunedGemm& tuned) {
  ordered_json products = ordered_json::array();
  for (const auto& [key, algorithm] : tuned.algorithms)
    products.push_back({{"m", key.m}, {"n", key.n}, {"k", key.k}, {"type", name_of(key.a_type)}, {"result_type", name_of(key.c_type)},
                        {"transpose_a", key.transpose_a}, {"transpose_b", key.transpose_b}, {"accumulate", key.accumulate},
                        {"bias", key.bias}, {"workspace", key.workspace}, {"alignment", {key.a_alignment, key.b_alignment, key.c_alignment}},
                        {"algorithm", hex(algorithm)}});
  const ordered_json json = {{"format", kFormat}, {"version", kVersion}, {"library", tuned.environment.matrix_library},
                             {"device", tuned.environment.device}, {"products", products}};
  return json.dump(1) + "\n";
}

TunedGemm parse_tuned_gemm(std::string_view text, const std::string& name) {
  try {
    const auto json = ordered_json::parse(text);
    if (json.at("format") != kFormat || json.at("version") != kVersion)
      throw FormatError(name, fmt::format("expected format {}, version {}, got another", kFormat, kVersion));
    TunedGemm tuned{{json.at("library").get<std::string>(), json.at("device").get<std::string>()}, {}};
    for (const auto& p : json.at("products")) {
      GemmKey key;
      p.at("m").get_to(key.m);
      p.at("n").get_to(key.n);
      p.at("k").get_to(key.k);
      key.a_type = dtype_from(p.at("type").get<std::string>());
      key.c_type = dtype_from(p.at("result_type").get<std::string>());
      p.at("transpose_a").get_to(key.transpose_a);
      p.at("transpose_b").get_to(key.transpose_b);
      p.at("accumulate").get_to(key.accumulate);
      p.at("bias").get_to(key.bias);
      p.at("workspace").get_to(key.workspace);
      p.at("alignment").at(0).get_to(key.a_alignment);
      p.at("alignment").at(1).get_to(key.b_alignment);
      p.at("alignment").at(2).get_to(key.c_alignment);
      if (!tuned.algorithms.emplace(key, from_hex(p.at("algorithm").get<std::string>())).second)
        throw FormatError(name, fmt::format("expected each product once, got m {} n {} k {} again", key.m, key.n, key.k));
    }
    return tuned;
  } catch (const FormatError&) {
    throw;
  } catch (const Error& error) {
    throw FormatError(name, std::string(error.detail()));
  } catch (const nlohmann::json::exception& error) {
    throw FormatError(name, fmt::format("expected algorithms of a matrix library in JSON, got '{}'", error.what()));
  }
}

std::string why_not_used(const GemmEnvironment& found_in, const GemmEnvironment& here) {
  if (found_in == here) return {};
  return fmt::format("they were found with {} on {}, this is {} on {}", found_in.matrix_library, found_in.device, here.matrix_library, here.device);
}

}  // namespace electra
