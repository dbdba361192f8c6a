// StepState: everything that changes from step to step, in device memory, so that a planned step can be replayed.
#pragma once
#include <cstdint>

namespace electra {

struct StepState {
  uint64_t seed = 0;
  uint32_t step = 0;               // optimizer steps done before this one; the counter of every random draw
  uint32_t first_sequence = 0;     // index, in the step's global batch, of this micro-batch's sequence 0
  double masked_lm_denominator = 1;  // sum of masked weights over all micro-batches of the step
  double disc_denominator = 1;       // number of real tokens over all micro-batches of the step
  double learning_rate = 0;
  uint32_t adam_step = 1;          // updates applied including this one, for bias correction
};

}  // namespace electra
