// TensorBoard event files without TensorFlow: TFRecord framing around the few protobuf fields of a
// scalar summary.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/append_file.h"

namespace electra {

struct Scalar {
  std::string_view tag;  // "masked_lm_loss"
  double value = 0;      // stored as float
};

// wall_time: seconds since 1970. The first record of a file, and one record for each scalar.
std::string tensorboard_header(double wall_time);
std::string tensorboard_scalar(double wall_time, int64_t step, const Scalar& scalar);
// "events.out.tfevents.<seconds, 10 digits>.<host>.<pid>.0"
std::string tensorboard_file_name(int64_t seconds, std::string_view host, int64_t pid);

class TensorBoardWriter {
 public:
  // A new file in directory, as every writer of this format makes one for each process. Throws
  // IoError.
  explicit TensorBoardWriter(const std::string& directory);
  // Stamped with the present time.
  void write(int64_t step, const std::vector<Scalar>& scalars);
  const std::string& path() const { return file_.path(); }

 private:
  AppendFile file_;
};

}  // namespace electra
