#include "trainer/schedule.h"

#include <algorithm>
#include <cmath>

namespace electra {

double learning_rate(const Schedule& schedule, int64_t step) {
  if (step >= schedule.train_steps) return 0;
  // The decay counts from 0 in both: with step + 1 the last update would be the one that does
  // nothing.
  const double left = 1 - static_cast<double>(step) / static_cast<double>(schedule.train_steps);
  const double rate = schedule.learning_rate * std::pow(left, schedule.power);
  if (schedule.warmup_steps == 0) return rate;
  const int64_t warm = schedule.first_step_zero ? step : step + 1;
  return rate *
         std::min(1.0, static_cast<double>(warm) / static_cast<double>(schedule.warmup_steps));
}

}  // namespace electra
