#include "trainer/nearest.h"

#include <algorithm>

namespace electra {

// Optimal string alignment: Levenshtein's recurrence plus a swap of two neighbours.
int edit_distance(std::string_view a, std::string_view b) {
  const size_t columns = b.size() + 1;
  std::vector<int> before(columns), above(columns), row(columns);
  for (size_t j = 0; j < columns; ++j) row[j] = static_cast<int>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    before.swap(above);
    above.swap(row);
    row[0] = static_cast<int>(i);
    for (size_t j = 1; j < columns; ++j) {
      const int substitution = above[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      row[j] = std::min({above[j] + 1, row[j - 1] + 1, substitution});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        row[j] = std::min(row[j], before[j - 2] + 1);
    }
  }
  return row[b.size()];
}

std::string nearest(std::string_view got, const std::vector<std::string>& names) {
  const int limit = std::max(2, static_cast<int>(got.size()) / 3);
  std::string best;
  int best_distance = limit + 1;
  for (const std::string& name : names) {
    int distance = edit_distance(got, name);
    // "learning_rate" is meant for "optimizer.learning_rate": a missing or wrong group costs one
    // edit.
    const size_t dot = name.rfind('.'), got_dot = got.rfind('.');
    const std::string_view leaf =
        dot == std::string::npos ? std::string_view(name) : std::string_view(name).substr(dot + 1);
    const std::string_view got_leaf =
        got_dot == std::string_view::npos ? got : got.substr(got_dot + 1);
    if (dot != std::string::npos || got_dot != std::string_view::npos)
      distance = std::min(distance, 1 + edit_distance(got_leaf, leaf));
    if (distance < best_distance) {
      best_distance = distance;
      best = name;
    }
  }
  return best;
}

}  // namespace electra
