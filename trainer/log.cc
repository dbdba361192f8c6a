#include "trainer/log.h"

#include <fmt/format.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <utility>

#include "kernels/core/error.h"
#include "trainer/terminal.h"

namespace electra::log {
namespace {

// Lines on standard error, in the form that errors have, with the hooks around them.
class StandardError final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  void set_hooks(std::function<void()> before, std::function<void()> after) {
    const std::lock_guard lock(mutex_);
    before_ = std::move(before);
    after_ = std::move(after);
  }

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    if (before_) before_();
    const std::string_view text(message.payload.data(), message.payload.size());
    const bool serious = message.level >= spdlog::level::warn;
    const char* const prefix = message.level >= spdlog::level::err ? "electra: error: "
                               : serious                           ? "electra: warning: "
                                                                   : "";
    const bool colour = serious && colours_allowed(STDERR_FILENO);
    fmt::print(stderr, "{}{}{}{}\n", colour ? ansi::kYellow : "", prefix,
               colour ? ansi::kReset : "", text);
    if (after_) after_();
  }
  void flush_() override { std::fflush(stderr); }

 private:
  std::function<void()> before_, after_;
};

std::atomic<int> warning_count{0};

const std::shared_ptr<StandardError>& standard_error() {
  static const auto sink = std::make_shared<StandardError>();
  return sink;
}

spdlog::logger& logger() {
  static spdlog::logger logger = [] {
    spdlog::logger made("electra", standard_error());
    made.set_level(spdlog::level::debug);  // the sinks choose
    made.flush_on(spdlog::level::debug);
    standard_error()->set_level(spdlog::level::info);
    return made;
  }();
  return logger;
}

}  // namespace

void set_level(std::string_view level) {
  logger();
  standard_error()->set_level(level == "debug"     ? spdlog::level::debug
                              : level == "warning" ? spdlog::level::warn
                              : level == "error"   ? spdlog::level::err
                                                   : spdlog::level::info);
}

void set_file(const std::string& path) {
  auto& sinks = logger().sinks();
  sinks.resize(1);
  if (path.empty()) return;
  try {
    auto file = std::make_shared<spdlog::sinks::basic_file_sink_mt>(path);
    file->set_level(spdlog::level::info);
    file->set_formatter(std::make_unique<spdlog::pattern_formatter>(
        "%Y-%m-%dT%H:%M:%SZ [%l] %v", spdlog::pattern_time_type::utc));
    sinks.push_back(std::move(file));
  } catch (const spdlog::spdlog_ex& error) {
    throw IoError(path, fmt::format("expected a log file to append to, got '{}'", error.what()));
  }
}

void set_line_hooks(std::function<void()> before, std::function<void()> after) {
  standard_error()->set_hooks(std::move(before), std::move(after));
}

void debug(std::string_view message) { logger().debug("{}", message); }
void info(std::string_view message) { logger().info("{}", message); }

void record(std::string_view message) {
  const spdlog::details::log_msg line("electra", spdlog::level::info,
                                      spdlog::string_view_t(message.data(), message.size()));
  auto& sinks = logger().sinks();
  for (size_t i = 1; i < sinks.size(); ++i) {
    sinks[i]->log(line);
    sinks[i]->flush();
  }
}

void warning(std::string_view message) {
  ++warning_count;
  logger().warn("{}", message);
}

void error(std::string_view message) {
  ++warning_count;
  logger().error("{}", message);
}

int warnings() { return warning_count; }

}  // namespace electra::log
