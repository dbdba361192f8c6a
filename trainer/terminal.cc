#include "trainer/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdlib>

namespace electra {

bool is_terminal(int fd) { return isatty(fd) == 1; }

bool colours_allowed(int fd) {
  const char* const no_color = std::getenv("NO_COLOR");
  const char* const term = std::getenv("TERM");
  return is_terminal(fd) && (!no_color || *no_color == '\0') &&
         !(term && std::string_view(term) == "dumb");
}

int terminal_columns(int fd) {
  winsize size{};
  return ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace electra
