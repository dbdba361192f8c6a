// Files of other programs, made field by field from their description.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace electra::test {

inline std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2) bytes.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  return bytes;
}

// A record of the original's pre-training data: ids 101, 7592, 102, 0.
inline const std::string kTfRecord = from_hex(
    "4b00000000000000870999960a490a160a09696e7075745f69647312091a070a0565a83b66000a160a0a696e7075745f6d61736b12081a060a040101"
    "01000a170a0b7365676d656e745f69647312081a060a0400000000bc1ae6ea");

// Megatron's index of sequences of 3, 2 and 4 u16 ids in documents of two and one.
inline const std::string kMegatronIndex = from_hex(
    "4d4d49444944580000010000000000000008030000000000000003000000000000000300000002000000040000000000000000000000060000000000"
    "00000a00000000000000000000000000000002000000000000000300000000000000");

template <class T> void append(std::string& out, T value) { out.append(reinterpret_cast<const char*>(&value), sizeof value); }

// Both files of an indexed dataset of ids of type T, whose code is given; documents: boundaries, or none for fairseq's.
struct IndexedFiles {
  std::string bin, idx;
};

template <class T> IndexedFiles indexed_files(uint8_t code, const std::vector<std::vector<int64_t>>& sequences, const std::vector<int64_t>& documents = {}) {
  IndexedFiles files;
  files.idx = std::string("MMIDIDX\0\0", 9);
  append<uint64_t>(files.idx, 1);
  append(files.idx, code);
  append<uint64_t>(files.idx, sequences.size());
  if (!documents.empty()) append<uint64_t>(files.idx, documents.size());
  for (const auto& s : sequences) append(files.idx, static_cast<int32_t>(s.size()));
  for (const auto& s : sequences) {
    append(files.idx, static_cast<int64_t>(files.bin.size()));
    for (const int64_t id : s) append(files.bin, static_cast<T>(id));
  }
  for (const int64_t d : documents) append(files.idx, d);
  return files;
}

}  // namespace electra::test
