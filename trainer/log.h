// Messages: lines on standard error, and in RUN/log.txt once a run has begun. Callers format them
// (fmt) beforehand.
#pragma once
#include <functional>
#include <string>
#include <string_view>

namespace electra::log {

// debug | info | warning | error: what standard error shows. The file gets everything from info on.
void set_level(std::string_view level);
// Appends to path from now on; an empty path ends that. Throws IoError.
void set_file(const std::string& path);
// Called before and after each line on standard error: a progress bar steps aside.
void set_line_hooks(std::function<void()> before, std::function<void()> after);

void debug(std::string_view message);
void info(std::string_view message);
void record(std::string_view message);   // in the file alone
void warning(std::string_view message);  // "electra: warning: …"
void error(std::string_view message);  // for what does not end the command; that is thrown instead

// Warnings and errors so far: tests check that there were none.
int warnings();

}  // namespace electra::log
