// Pre-training: the loop around TrainingStep, with its run directory, logs, evaluations, checkpoints and signals.
#pragma once
#include <string>

#include "trainer/config.h"
#include "trainer/device_info.h"

namespace electra {

struct PretrainRequest {
  ResolvedConfig config;
  bool resume = false;          // continue the run in config.run, bit for bit
  std::string init_from;        // take the weights alone from this run or checkpoint
  int64_t overfit = 0;          // train on the first N steps' batches again and again
  bool synthetic = false;       // made-up batches instead of data
  DeviceChoice device;
  int threads = 1;
  bool quiet = false;
};

// Trains until train_steps or a signal. Returns the exit status: 0, also where a resumed run is at train_steps already and
// nothing is done, or 128 + signal after a clean stop. Throws Error, three steps in a row that are not finite included; the last
// good checkpoint is kept. A resumed run throws ConfigError or DataError for other settings, batches or data than it began with,
// and any run DataError for data of another vocabulary than that of the checkpoint it starts from.
int pretrain(PretrainRequest request);

}  // namespace electra
