// Positions in UTF-8 text in code points.
#pragma once
#include <cstdint>
#include <string_view>

namespace electra {

// The number of code points before a byte of valid UTF-8, at which one begins; cheap where bytes are asked for in ascending order.
class CodePoints {
 public:
  explicit CodePoints(std::string_view text) : text_(text) {}
  int64_t at(uint32_t byte) {
    if (byte < byte_) {  // rare: pieces of reordered characters
      byte_ = 0;
      count_ = 0;
    }
    for (; byte_ < byte; ++byte_) count_ += (static_cast<unsigned char>(text_[byte_]) & 0xC0) != 0x80;
    return count_;
  }

 private:
  std::string_view text_;
  uint32_t byte_ = 0;
  int64_t count_ = 0;
};

}  // namespace electra
