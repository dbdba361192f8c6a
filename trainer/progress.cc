#include "trainer/progress.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <string_view>
#include <vector>

#include "trainer/log.h"
#include "trainer/terminal.h"

namespace electra {
namespace {

constexpr double kDecay = 1 - 1.0 / 30;  // of Throughput's sums, a step
constexpr auto kRedraw = std::chrono::milliseconds(100);
constexpr auto kLine = std::chrono::seconds(1);  // between two lines of WorkProgress in a log
constexpr double kMiB = 1024.0 * 1024.0;

// 1,234,567
std::string grouped(int64_t n) {
  std::string digits = fmt::format("{}", n);
  for (auto i = static_cast<int64_t>(digits.size()) - 3; i > 0; i -= 3)
    digits.insert(static_cast<size_t>(i), ",");
  return digits;
}

std::string format_memory(int64_t bytes) {
  const double mib = static_cast<double>(bytes) / kMiB;
  return mib < 1024 ? fmt::format("{:.0f} MiB", mib) : fmt::format("{:.1f} GiB", mib / 1024);
}

double fraction_done(const ProgressState& s) {
  return s.train_steps > 0
             ? std::clamp(static_cast<double>(s.step) / static_cast<double>(s.train_steps), 0.0,
                          1.0)
             : 0;
}

// "[=====>    ]", width columns in all.
std::string gauge(double fraction, int width) {
  const int inner = width - 2, filled = static_cast<int>(fraction * inner);
  std::string cells(static_cast<size_t>(inner), ' ');
  std::fill_n(cells.begin(), filled, '=');
  if (filled > 0 && filled < inner) cells[static_cast<size_t>(filled) - 1] = '>';
  return "[" + cells + "]";
}

// "25.1k/s"
std::string brief_rate(double rate) {
  if (rate < 1e3) return fmt::format("{:.0f}/s", rate);
  if (rate < 1e6) return fmt::format("{:.1f}k/s", rate / 1e3);
  return fmt::format("{:.2f}M/s", rate / 1e6);
}

// "312M", "1.2G", "12G"
std::string brief_memory(int64_t bytes) {
  const double mib = static_cast<double>(bytes) / kMiB;
  if (mib < 1024) return fmt::format("{:.0f}M", mib);
  return fmt::format("{:.{}f}G", mib / 1024, mib < 10 * 1024 ? 1 : 0);
}

// "12:05", "3h05", "4d3h"
std::string brief_duration(double seconds) {
  const auto s = static_cast<int64_t>(std::llround(seconds));
  if (s < 3600) return fmt::format("{}:{:02}", s / 60, s % 60);
  if (s < 86400) return fmt::format("{}h{:02}", s / 3600, s / 60 % 60);
  return fmt::format("{}d{}h", s / 86400, s / 3600 % 24);
}

// A part of the bar in full and in brief (empty: in full only); rank 0 always stays, the highest
// goes first.
struct Part {
  std::string text, brief;
  int rank = 0;
  std::string_view style = {};
};

constexpr int kGaugeRank = 8;

int width_of(const std::vector<Part>& parts, int gap) {
  int width = 0;
  for (const Part& part : parts)
    width += static_cast<int>(part.text.size()) + (width > 0 ? gap : 0);
  return width;
}

void drop_least(std::vector<Part>& parts, int columns, int gap) {
  while (width_of(parts, gap) > columns) {
    const auto least = std::max_element(
        parts.begin(), parts.end(), [](const Part& a, const Part& b) { return a.rank < b.rank; });
    if (least->rank == 0) break;
    parts.erase(least);
  }
}

}  // namespace

std::string format_duration(double seconds) {
  const auto s = static_cast<int64_t>(std::llround(seconds));
  if (s < 60) return fmt::format("{} s", s);
  if (s < 3600) return fmt::format("{}:{:02}", s / 60, s % 60);
  if (s < 86400) return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
  return fmt::format("{} d {} h", s / 86400, s / 3600 % 24);
}

std::string format_rate(double rate) {
  if (rate < 1e3) return fmt::format("{:.0f} tok/s", rate);
  if (rate < 1e6) return fmt::format("{:.1f} k tok/s", rate / 1e3);
  return fmt::format("{:.2f} M tok/s", rate / 1e6);
}

std::string format_bar(const ProgressState& s, int columns, bool colour) {
  constexpr int kNarrow = 8, kWide = 24;  // columns of the gauge
  const double fraction = fraction_done(s);
  std::vector<Part> parts;
  parts.push_back({fmt::format("{}/{}", grouped(s.step), grouped(s.train_steps)),
                   fmt::format("{}/{}", s.step, s.train_steps), 0, ansi::kBold});
  parts.push_back({gauge(fraction, kNarrow), "", kGaugeRank, ansi::kGreen});
  parts.push_back({fmt::format("{:.0f} %", 100 * fraction), "", 5});
  parts.push_back({fmt::format("loss {:.3f}", s.loss), fmt::format("loss {:.1f}", s.loss), 0,
                   ansi::kBold});
  parts.push_back({fmt::format("mlm {:.3f}", s.masked_lm_loss),
                   fmt::format("mlm {:.2f}", s.masked_lm_loss), 1});
  if (!(s.disc_loss < 0))
    parts.push_back(
        {fmt::format("disc {:.4f}", s.disc_loss), fmt::format("disc {:.3f}", s.disc_loss), 2});
  parts.push_back({format_rate(s.tokens_per_second), brief_rate(s.tokens_per_second), 4});
  if (s.mfu >= 0)
    parts.push_back({fmt::format("mfu {:.0f} %", 100 * s.mfu),
                     fmt::format("mfu {:.0f}%", 100 * s.mfu), 5, ansi::kDim});
  parts.push_back({fmt::format("wait {:.1f} %", 100 * s.data_wait),
                   fmt::format("wait {:.0f}%", 100 * s.data_wait), 6, ansi::kDim});
  parts.push_back(
      {format_memory(s.memory_bytes), brief_memory(s.memory_bytes), 7, ansi::kDim});
  if (s.eta_seconds >= 0)
    parts.push_back({"eta " + format_duration(s.eta_seconds), brief_duration(s.eta_seconds), 3});

  int gap = 2;
  if (width_of(parts, gap) - (kNarrow + gap) > columns) {
    std::erase_if(parts, [](const Part& part) { return part.brief.empty(); });
    for (Part& part : parts) part.text = part.brief;
    drop_least(parts, columns, 1);
    if (width_of(parts, gap) > columns) gap = 1;
  }
  drop_least(parts, columns, gap);
  // Room to spare widens the gauge.
  for (Part& part : parts)
    if (part.rank == kGaugeRank)
      part.text =
          gauge(fraction, std::clamp(kNarrow + columns - width_of(parts, gap), kNarrow, kWide));

  std::string bar;
  int room = columns;
  for (const Part& part : parts) {
    const std::string text =
        (std::string(bar.empty() ? 0 : static_cast<size_t>(gap), ' ') + part.text)
            .substr(0, static_cast<size_t>(std::max(room, 0)));
    room -= static_cast<int>(text.size());
    bar += colour && !part.style.empty() ? fmt::format("{}{}{}", part.style, text, ansi::kReset)
                                         : text;
  }
  return bar;
}

std::string format_line(const ProgressState& s) {
  std::string line = fmt::format("step {}/{}  loss {:.4f}  masked_lm_loss {:.4f}", s.step,
                                 s.train_steps, s.loss, s.masked_lm_loss);
  if (!(s.disc_loss < 0)) line += fmt::format("  disc_loss {:.4f}", s.disc_loss);
  line += "  " + format_rate(s.tokens_per_second);
  if (s.mfu >= 0) line += fmt::format("  mfu {:.1f} %", 100 * s.mfu);
  line += fmt::format("  data wait {:.1f} %  memory {}", 100 * s.data_wait,
                      format_memory(s.memory_bytes));
  if (s.eta_seconds >= 0) line += "  eta " + format_duration(s.eta_seconds);
  return line;
}

void Throughput::add_step(int64_t tokens, double flops, double seconds, double data_wait_seconds) {
  steps_ = steps_ * kDecay + 1;
  tokens_ = tokens_ * kDecay + static_cast<double>(tokens);
  flops_ = flops_ * kDecay + flops;
  seconds_ = seconds_ * kDecay + seconds;
  wait_ = wait_ * kDecay + data_wait_seconds;
}

double Throughput::tokens_per_second() const { return seconds_ > 0 ? tokens_ / seconds_ : 0; }
double Throughput::flops_per_second() const { return seconds_ > 0 ? flops_ / seconds_ : 0; }
double Throughput::data_wait() const { return seconds_ > 0 ? wait_ / seconds_ : 0; }
double Throughput::seconds_per_step() const { return steps_ > 0 ? seconds_ / steps_ : 0; }

Progress::Progress(Mode mode) {
  if (mode == Mode::quiet) return;
  bar_ = is_terminal(STDERR_FILENO);
  lines_ = !bar_;
  colour_ = colours_allowed(STDERR_FILENO);
  if (bar_) log::set_line_hooks([this] { clear(); }, [this] { draw(); });
}

Progress::~Progress() {
  if (!bar_) return;
  log::set_line_hooks({}, {});
  clear();
}

void Progress::update(const ProgressState& state, bool log_step) {
  last_ = state;
  if (log_step) lines_ ? log::info(format_line(state)) : log::record(format_line(state));
  if (!bar_) return;
  const auto now = std::chrono::steady_clock::now();
  if (drawn_ && now - drawn_at_ < kRedraw && state.step < state.train_steps) return;
  drawn_ = true;
  drawn_at_ = now;
  clear();
  draw();
}

void Progress::clear() { fmt::print(stderr, "{}", ansi::kClearLine); }

void Progress::draw() {
  if (!drawn_) return;
  // The last column stays free: some terminals wrap as soon as it is written.
  fmt::print(stderr, "{}", format_bar(last_, terminal_columns(STDERR_FILENO) - 1, colour_));
  std::fflush(stderr);
}

void WorkEstimate::update(std::string_view stage, double share, double amount, double seconds) {
  if (stage != stage_) {
    stage_ = stage;
    first_share_ = share;
    first_amount_ = amount;
    first_seconds_ = seconds;
  }
  share_ = std::clamp(share, 0.0, 1.0);
  amount_ = amount;
  seconds_ = seconds;
}

double WorkEstimate::rate() const { return seconds_ > first_seconds_ ? (amount_ - first_amount_) / (seconds_ - first_seconds_) : -1; }

double WorkEstimate::eta_seconds() const {
  return share_ > first_share_ && seconds_ > first_seconds_ ? (seconds_ - first_seconds_) * (1 - share_) / (share_ - first_share_) : -1;
}

std::string format_work(const WorkEstimate& e, bool bytes) {
  std::string text = fmt::format("{} {:.0f} %", e.stage(), std::floor(100 * e.share()));
  if (bytes && e.rate() >= 0) text += fmt::format(", {:.1f} MB/s", e.rate() / 1e6);
  if (e.eta_seconds() >= 0) text += ", eta " + format_duration(e.eta_seconds());
  return text;
}

WorkProgress::WorkProgress(std::string command, Progress::Mode mode, bool bytes) : command_(std::move(command)), bytes_(bytes) {
  if (mode == Progress::Mode::quiet) return;
  line_ = is_terminal(STDERR_FILENO);
  tenths_ = !line_;
  if (line_) log::set_line_hooks([] { fmt::print(stderr, "{}", ansi::kClearLine); }, [this] { draw(); });
}

WorkProgress::~WorkProgress() {
  if (!line_) return;
  log::set_line_hooks({}, {});
  fmt::print(stderr, "{}", ansi::kClearLine);
  std::fflush(stderr);
}

void WorkProgress::update(std::string_view stage, double share, double amount) {
  const auto now = std::chrono::steady_clock::now();
  if (stage != estimate_.stage()) {
    tenth_ = static_cast<int>(share * 10);
    drawn_ = false;
  } else if (line_ && drawn_ && now - drawn_at_ < kRedraw) {
    return;
  }
  estimate_.update(stage, share, amount, std::chrono::duration<double>(now.time_since_epoch()).count());
  if (const int tenth = static_cast<int>(share * 10); tenths_ && tenth > tenth_ && now - drawn_at_ >= kLine) {
    tenth_ = tenth;
    drawn_at_ = now;
    log::info(fmt::format("{}: {}", command_, format_work(estimate_, bytes_)));
  }
  if (!line_) return;
  drawn_ = true;
  drawn_at_ = now;
  fmt::print(stderr, "{}", ansi::kClearLine);
  draw();
}

void WorkProgress::draw() {
  if (!drawn_) return;
  // The last column stays free: some terminals wrap as soon as it is written.
  fmt::print(stderr, "{}", (command_ + ": " + format_work(estimate_, bytes_)).substr(0, static_cast<size_t>(std::max(terminal_columns(STDERR_FILENO) - 1, 0))));
  std::fflush(stderr);
}

int64_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");  // pages: total, resident, …
  int64_t total = 0, resident = 0;
  statm >> total >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

int64_t peak_resident_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;  // KiB on Linux
}

}  // namespace electra
