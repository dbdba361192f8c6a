// A set of 64-bit hashes: 8 bytes a slot, three eighths to three quarters of them full, so 11 to 21 bytes a hash (32 for the
// moment in which it grows).
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace electra {

class HashSet {
 public:
  // True where the hash is new.
  bool insert(uint64_t hash) {
    if (hash == 0) {  // an empty slot
      const bool is_new = !has_zero_;
      has_zero_ = true;
      return is_new;
    }
    if (4 * (count_ + 1) > 3 * slots_.size()) grow();
    uint64_t& slot = slot_of(hash);
    if (slot == hash) return false;
    slot = hash;
    ++count_;
    return true;
  }
  size_t bytes() const { return slots_.capacity() * sizeof(uint64_t); }

 private:
  uint64_t& slot_of(uint64_t hash) {
    size_t at = static_cast<size_t>(hash) & (slots_.size() - 1);
    while (slots_[at] != 0 && slots_[at] != hash) at = (at + 1) & (slots_.size() - 1);
    return slots_[at];
  }
  void grow() {
    std::vector<uint64_t> before(slots_.empty() ? 1024 : 2 * slots_.size());
    before.swap(slots_);
    for (const uint64_t hash : before)
      if (hash != 0) slot_of(hash) = hash;
  }

  std::vector<uint64_t> slots_;  // a power of two of them
  size_t count_ = 0;
  bool has_zero_ = false;
};

}  // namespace electra
