// The name somebody meant: spelling suggestions for keys, options and commands.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace electra {

// Smallest number of insertions, deletions, substitutions and swaps of neighbours that turns a into
// b.
int edit_distance(std::string_view a, std::string_view b);
// The name closest to got, the first of equals; empty when none is near enough to be a misspelling
// of it.
std::string nearest(std::string_view got, const std::vector<std::string>& names);

}  // namespace electra
