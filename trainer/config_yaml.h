// YAML behind one function: nested maps of scalars, flattened to dotted keys with their lines.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace electra {

struct YamlEntry {
  std::string key;    // "optimizer.learning_rate"
  std::string value;  // the scalar as written, quotes removed
  int line = 0;       // from 1
};

// Throws ConfigError "[name:line] …" for text that is no YAML, lists, empty values, and keys that
// stand twice.
std::vector<YamlEntry> read_yaml(std::string_view text, const std::string& name);

}  // namespace electra
