// How a training run is doing: a live line on a terminal, plain lines elsewhere.
#pragma once
#include <chrono>
#include <cstdint>
#include <string>

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

// Resident memory of this process in bytes, now and at its peak.
int64_t resident_bytes();
int64_t peak_resident_bytes();

}  // namespace electra
