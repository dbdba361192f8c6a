// Tests in a process of their own: for signals, limits and exit statuses.
#pragma once
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>
#include <string>
#include <vector>

namespace electra::test {

// Exit status as a shell has it: 128 + signal for a process that died of one.
inline int wait_for(pid_t child) {
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// Exit status of a child process that runs body; body's result is its status.
inline int in_child(const std::function<int()>& body) {
  const pid_t child = fork();
  if (child == 0) _exit(body());
  return wait_for(child);
}

// Exit status of a child process that runs body without the rights of root, which writes everywhere; its own are the paths.
inline int in_child_without_root(const std::vector<std::string>& own, const std::function<int()>& body) {
  constexpr uid_t kNobody = 65534;
  const bool root = geteuid() == 0;
  for (const std::string& path : own)
    if (root && chown(path.c_str(), kNobody, kNobody) != 0) return 126;
  return in_child([&] { return root && setuid(kNobody) != 0 ? 127 : body(); });
}

// Starts a program with its standard error and output in files.
inline pid_t start(const std::string& program, std::vector<std::string> arguments, const std::string& out, const std::string& err) {
  const pid_t child = fork();
  if (child != 0) return child;
  for (const int signal : {SIGINT, SIGTERM}) std::signal(signal, SIG_DFL);  // in place of the test framework's
  dup2(open("/dev/null", O_RDONLY), 0);
  dup2(open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644), 1);
  dup2(open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644), 2);
  std::vector<char*> argv{const_cast<char*>(program.c_str())};
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  execv(argv[0], argv.data());
  _exit(127);
}

}  // namespace electra::test
