#include <catch2/catch.hpp>

#include "trainer/schedule.h"

using namespace electra;

namespace {

// The original's: lr · (1 − step/T)^power · min(1, step/warmup), written out by hand below.
const Schedule kGoogle{
    .learning_rate = 8, .train_steps = 10, .warmup_steps = 4, .power = 1, .first_step_zero = true};

Schedule fixed() {
  Schedule schedule = kGoogle;
  schedule.first_step_zero = false;
  return schedule;
}

}  // namespace

TEST_CASE("the original's schedule warms up and decays at the same time and begins at zero") {
  const double expected[] = {0,       8 * 0.9 * 0.25, 8 * 0.8 * 0.5, 8 * 0.7 * 0.75, 8 * 0.6,
                             8 * 0.5, 8 * 0.4,        8 * 0.3,       8 * 0.2,        8 * 0.1};
  for (int step = 0; step < 10; ++step) {
    INFO("step " << step);
    CHECK(learning_rate(kGoogle, step) == Approx(expected[step]).margin(1e-15));
  }
}

TEST_CASE("the fixed schedule wastes neither the first update nor the last") {
  CHECK(learning_rate(fixed(), 0) == Approx(8 * 0.25));
  CHECK(learning_rate(fixed(), 3) == Approx(8 * 0.7));
  CHECK(learning_rate(fixed(), 9) == Approx(8 * 0.1));
}

TEST_CASE("both schedules are zero from the last step on") {
  for (const Schedule& schedule : {kGoogle, fixed()}) {
    CHECK(learning_rate(schedule, 10) == 0);
    CHECK(learning_rate(schedule, 1000) == 0);
  }
}

TEST_CASE("power shapes the decay") {
  Schedule schedule = fixed();
  schedule.warmup_steps = 0;
  schedule.power = 2;
  CHECK(learning_rate(schedule, 0) == 8);
  CHECK(learning_rate(schedule, 5) == Approx(8 * 0.25));
  schedule.power = 0;
  CHECK(learning_rate(schedule, 9) == 8);
}

TEST_CASE("a warm-up longer than the run never reaches the peak") {
  Schedule schedule = fixed();
  schedule.warmup_steps = 100;
  for (int step = 0; step < 10; ++step) CHECK(learning_rate(schedule, step) < 0.5);
}
