#include "trainer/config_yaml.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>

#include "kernels/core/error.h"

namespace electra {
namespace {

std::string place(const std::string& name, const YAML::Mark& mark) {
  return mark.is_null() ? name : fmt::format("{}:{}", name, mark.line + 1);
}

void flatten(const YAML::Node& map, const std::string& prefix, const std::string& name,
             std::vector<YamlEntry>& entries) {
  for (const auto& item : map) {
    const YAML::Mark mark = item.first.Mark();
    if (!item.first.IsScalar())
      throw ConfigError(place(name, mark),
                        "expected a configuration key, got a list or map as key");
    const std::string key = prefix + item.first.Scalar();
    if (item.second.IsMap()) {
      flatten(item.second, key + ".", name, entries);
      continue;
    }
    if (item.second.IsSequence())
      throw ConfigError(place(name, mark), fmt::format("{}: expected one value, got a list", key));
    if (!item.second.IsScalar())
      throw ConfigError(place(name, mark), fmt::format("{}: expected a value, got none", key));
    const auto before = std::find_if(entries.begin(), entries.end(),
                                     [&](const YamlEntry& e) { return e.key == key; });
    if (before != entries.end())
      throw ConfigError(
          place(name, mark),
          fmt::format("{}: expected each key once, got it in line {} too", key, before->line));
    entries.push_back({key, item.second.Scalar(), mark.line + 1});
  }
}

}  // namespace

std::vector<YamlEntry> read_yaml(std::string_view text, const std::string& name) {
  YAML::Node root;
  try {
    root = YAML::Load(std::string(text));
  } catch (const YAML::Exception& error) {
    throw ConfigError(place(name, error.mark), fmt::format("expected YAML, got '{}'", error.msg));
  }
  std::vector<YamlEntry> entries;
  if (root.IsNull()) return entries;
  if (!root.IsMap())
    throw ConfigError(place(name, root.Mark()), "expected 'key: value' lines, got something else");
  flatten(root, "", name, entries);
  return entries;
}

}  // namespace electra
