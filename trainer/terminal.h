// What the terminal behind a file descriptor can show.
#pragma once
#include <string_view>

namespace electra {

bool is_terminal(int fd);
// A terminal, NO_COLOR (no-color.org) not set, and TERM not "dumb".
bool colours_allowed(int fd);
// Columns of the terminal; 80 where they are not known.
int terminal_columns(int fd);

namespace ansi {
inline constexpr std::string_view kReset = "\x1b[0m", kBold = "\x1b[1m", kDim = "\x1b[2m",
                                  kRed = "\x1b[31m", kGreen = "\x1b[32m", kYellow = "\x1b[33m";
inline constexpr std::string_view kClearLine =
    "\r\x1b[K";  // back to the first column, erase to the end
}  // namespace ansi

}  // namespace electra
