// Learning rate as a function of the step (optimization.py of the original).
#pragma once
#include <cstdint>

namespace electra {

struct Schedule {
  double learning_rate = 0;  // peak
  int64_t train_steps = 1;
  int64_t warmup_steps = 0;
  double power = 1;
  bool first_step_zero = false;
};

// Rate of the update that follows `step` updates: peak · (1 − step/T)^power · min(1, s/warmup), so
// warm-up and decay act at the same time. s = step in the original, whose first update therefore
// does nothing (first_step_zero); else s = step + 1. 0 from step T on.
double learning_rate(const Schedule& schedule, int64_t step);

}  // namespace electra
