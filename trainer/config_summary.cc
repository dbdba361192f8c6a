#include "trainer/config_summary.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "trainer/config_yaml.h"

namespace electra {
namespace {

constexpr size_t kColumns = 100;

// "my.yaml:3" becomes "my.yaml".
std::string without_line(const std::string& origin) {
  const size_t colon = origin.rfind(':');
  const bool is_line = colon != std::string::npos && colon + 1 < origin.size() &&
                       origin.find_first_not_of("0123456789", colon + 1) == std::string::npos;
  return is_line ? origin.substr(0, colon) : origin;
}

// From what the user gave to what nobody did.
int rank(Origin::Layer layer) {
  using enum Origin::Layer;
  constexpr Origin::Layer kOrder[] = {command_line, file, found, preset, compat, builtin};
  return static_cast<int>(std::find(std::begin(kOrder), std::end(kOrder), layer) - std::begin(kOrder));
}

struct Paragraph {
  int rank = 0;
  std::string origin;
  std::vector<std::string> settings;
};

}  // namespace

std::string configuration_summary(const ResolvedConfig& resolved) {
  std::vector<Paragraph> paragraphs;
  for (const YamlEntry& entry : read_yaml(to_yaml(resolved), "configuration")) {
    if (entry.value.empty()) continue;
    const Origin& origin = resolved.origin(entry.key);
    const std::string text = without_line(origin.text);
    auto at = std::find_if(paragraphs.begin(), paragraphs.end(), [&](const Paragraph& p) { return p.origin == text; });
    if (at == paragraphs.end()) at = paragraphs.insert(at, {rank(origin.layer), text, {}});
    at->settings.push_back(entry.key + "=" + entry.value);
  }
  std::stable_sort(paragraphs.begin(), paragraphs.end(), [](const Paragraph& a, const Paragraph& b) { return a.rank < b.rank; });
  std::string summary;
  for (const Paragraph& paragraph : paragraphs) {
    std::string line = "  " + paragraph.origin + ":";
    for (const std::string& setting : paragraph.settings) {
      if (line.size() + 1 + setting.size() > kColumns) {
        summary += line + "\n";
        line = "   ";
      }
      line += " " + setting;
    }
    summary += line + "\n";
  }
  summary.pop_back();
  return summary;
}

}  // namespace electra
