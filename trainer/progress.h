// How a training run is doing: a live line on a terminal, plain lines elsewhere.
#pragma once
#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace electra {

struct ProgressState {
  int64_t step = 0, train_steps = 0;
  double loss = 0, masked_lm_loss = 0;
  double disc_loss = 0;      // < 0: the model has no discriminator
  double tokens_per_second = 0;
  double mfu = -1;           // model FLOP/s over the measured GEMM peak; < 0: not known
  double data_wait = 0;      // share of the time the step waited for data
  int64_t memory_bytes = 0;  // resident
  double eta_seconds = -1;   // < 0: not known
};

// "1,234/12,000  [=====>     ]  10 %  loss 41.234  mlm 7.123  disc 0.6821  25.1 k tok/s  mfu 46 %
// wait 1.2 %  312 MiB  eta 12:05", at most columns wide: first the gauge goes, then every part is
// written in brief ("25.1k/s" are tokens, the time at the end is the eta), which fits 80 columns,
// then what matters least goes. Colour adds escape sequences, which take no columns.
std::string format_bar(const ProgressState& state, int columns, bool colour);
// The same facts for a log: "step 1234/12000 loss 41.2340 masked_lm_loss 7.1230 …".
std::string format_line(const ProgressState& state);
// "59 s", "12:05", "3:05:00", "4 d 3 h"
std::string format_duration(double seconds);
// "999 tok/s", "25.1 k tok/s", "1.25 M tok/s"
std::string format_rate(double tokens_per_second);

// Rates over about the last 30 steps: sums that decay, so that their quotient is a mean weighted
// towards the present.
class Throughput {
 public:
  void add_step(int64_t tokens, double flops, double seconds, double data_wait_seconds);
  double tokens_per_second() const;
  double flops_per_second() const;
  double data_wait() const;  // share of the time
  double seconds_per_step() const;

 private:
  double steps_ = 0, tokens_ = 0, flops_ = 0, seconds_ = 0, wait_ = 0;
};

class Progress {
 public:
  enum class Mode {
    automatic,
    quiet
  };  // automatic: a bar where standard error is a terminal, else lines
  explicit Progress(Mode mode);
  ~Progress();  // leaves the cursor at the start of an empty line
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Redraws the bar, ten times a second at most. A log step is a line in the log, and on standard
  // error where there is no bar.
  void update(const ProgressState& state, bool log_step);

 private:
  void clear();
  void draw();
  bool bar_ = false, lines_ = false, colour_ = false, drawn_ = false;
  ProgressState last_;
  std::chrono::steady_clock::time_point drawn_at_{};
};

// How far a command with stages is, how fast, and how long it will still take.
class WorkEstimate {
 public:
  // share: done of the stage, in [0, 1]; amount: of anything, counted over the stage; seconds: of any clock. The first call of a stage
  // says where it begins, as it does where an interrupted one is gone on with.
  void update(std::string_view stage, double share, double amount, double seconds);
  const std::string& stage() const { return stage_; }
  double share() const { return share_; }
  double rate() const;         // amount a second since the stage began; < 0: not known
  double eta_seconds() const;  // to the stage's end; < 0: not known

 private:
  std::string stage_;
  double share_ = 0, amount_ = 0, seconds_ = 0;
  double first_share_ = 0, first_amount_ = 0, first_seconds_ = 0;
};

// "tokenizing 43 %, 12.3 MB/s, eta 2:10"; amounts are bytes, or not shown.
std::string format_work(const WorkEstimate& estimate, bool bytes);

// What a command without training shows: a line that is redrawn where standard error is a terminal, else a log line each tenth of a stage, and
// each second, at most.
class WorkProgress {
 public:
  // bytes: whether the amounts are bytes, for their rate to be shown.
  WorkProgress(std::string command, Progress::Mode mode, bool bytes);
  ~WorkProgress();  // leaves the cursor at the start of an empty line
  WorkProgress(const WorkProgress&) = delete;
  WorkProgress& operator=(const WorkProgress&) = delete;
  void update(std::string_view stage, double share, double amount = 0);

 private:
  void draw();
  std::string command_;
  bool bytes_, line_ = false, tenths_ = false, drawn_ = false;
  int tenth_ = -1;
  WorkEstimate estimate_;
  std::chrono::steady_clock::time_point drawn_at_ = std::chrono::steady_clock::now();
};

// Resident memory of this process in bytes, now and at its peak.
int64_t resident_bytes();
int64_t peak_resident_bytes();

}  // namespace electra
