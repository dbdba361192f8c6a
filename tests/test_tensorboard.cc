#include <fmt/format.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "kernels/core/error.h"
#include "tests/temporary_directory.h"
#include "trainer/tensorboard.h"

using namespace electra;

namespace {

std::string hex(const std::string& bytes) {
  std::string out;
  for (const char c : bytes) out += fmt::format("{:02x}", static_cast<unsigned char>(c));
  return out;
}

uint64_t length_at(const std::string& bytes, size_t offset) {
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i)
    length = length << 8 | static_cast<unsigned char>(bytes.at(offset + static_cast<size_t>(i)));
  return length;
}

}  // namespace

// The two vectors were written by TensorFlow's own writer.
TEST_CASE("the header record is TensorFlow's, byte for byte") {
  CHECK(hex(tensorboard_header(1700000000.0)) ==
        "1800000000000000a37f4b220900000040fc54d9411a0d627261696e2e4576656e743a32eced8f9d");
}

TEST_CASE("a scalar record is TensorFlow's, byte for byte") {
  CHECK(hex(tensorboard_scalar(1700000001.0, 10, {"train/loss", 1.5})) ==
        "200000000000000029eda9500900004040fc54d941100a2a130a110a0a747261696e2f6c6f7373150000c03f3f"
        "ddc379");
}

TEST_CASE("steps beyond seven bits take more bytes") {
  const std::string small = tensorboard_scalar(0, 127, {"x", 0}),
                    large = tensorboard_scalar(0, 128, {"x", 0});
  CHECK(large.size() == small.size() + 1);
  CHECK(hex(large).find("108001") != std::string::npos);
}

TEST_CASE("the file name is the one TensorBoard looks for") {
  CHECK(tensorboard_file_name(1700000000, "host", 42) ==
        "events.out.tfevents.1700000000.host.42.0");
  CHECK(tensorboard_file_name(5, "h", 1) == "events.out.tfevents.0000000005.h.1.0");
}

TEST_CASE("the writer's file is a header and a record for each scalar") {
  const test::TemporaryDirectory directory;
  std::string path;
  {
    TensorBoardWriter writer(directory.path());
    path = writer.path();
    writer.write(1, {{"loss", 2.5}, {"disc_loss", 0.5}});
    // Nothing is kept back: what was written can be read while the run goes on.
    CHECK(test::read_file(path).find("disc_loss") != std::string::npos);
    writer.write(2, {{"loss", 2.25}});
  }
  CHECK(path.find("/events.out.tfevents.") != std::string::npos);
  CHECK(path.ends_with(fmt::format(".{}.0", getpid())));
  const std::string bytes = test::read_file(path);
  int records = 0;
  size_t offset = 0;
  for (; offset < bytes.size(); ++records) offset += 8 + 4 + length_at(bytes, offset) + 4;
  CHECK(offset == bytes.size());
  CHECK(records == 4);
  CHECK(bytes.find("brain.Event:2") == 8 + 4 + 9 + 2);
}

TEST_CASE("the writer says when its directory cannot be written") {
  const test::TemporaryDirectory directory;
  CHECK_THROWS_AS(TensorBoardWriter(directory / "none"), IoError);
}
