// Token shards: Megatron's indexed dataset (NAME.bin, NAME.idx) plus a sidecar NAME.json. A sequence is a sentence, a document
// a document.
#pragma once
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "trainer/files.h"

namespace electra {

// What the sidecar says.
struct ShardInfo {
  std::string tokenizer_sha256;   // of the vocabulary
  int64_t vocab_size = 0;
  std::string mode = "hf";        // or google: the tokenizer's
  bool lowercase = true, strip_accents = true, split_chinese = true;
  std::string split_unit;         // "document", or "block of N paragraphs" where there were few documents
  int64_t tokens = 0, sentences = 0, documents = 0;
  std::string corpus_xxh64;       // of the text, in order
  std::vector<std::string> block_xxh64;  // of each MiB of NAME.bin
};

// How far a shard is written.
struct ShardProgress {
  int64_t tokens = 0, sentences = 0, documents = 0;
  bool operator==(const ShardProgress&) const = default;
};

// Everything goes to files at once, so memory does not grow with the shard.
class TokenShardWriter {
 public:
  // stem: path without extension. Ids are stored as u16 where the vocabulary has fewer than 65,500 tokens, else as i32. parts: stem of
  // the files that the index is made of at the end, for whoever wants to go on after an interruption; empty: beside the shard, and
  // finish removes them. at: go on from there with the files of an earlier writer, which must be able to (see can_resume).
  TokenShardWriter(const std::filesystem::path& stem, int64_t vocab_size, const std::filesystem::path& parts = {}, const ShardProgress& at = {});
  static bool can_resume(const std::filesystem::path& stem, int64_t vocab_size, const std::filesystem::path& parts, const ShardProgress& at);
  void add_sentence(std::span<const int32_t> ids);
  void end_document();
  int64_t tokens() const { return at_.tokens; }
  int64_t documents() const { return at_.documents; }
  // Only between documents is this a place to go on from, and only once it was synced.
  const ShardProgress& progress() const { return at_; }
  void sync();
  // Writes .idx and .json; counts and checksums of info are filled in. Throws IoError.
  void finish(ShardInfo info);

 private:
  std::filesystem::path stem_, parts_;
  bool keep_parts_;
  int64_t vocab_size_;
  ShardProgress at_;
  int64_t document_end_ = 0;  // sentences before the last document's end
  OutputFile bin_, lengths_, documents_, blocks_;  // lengths: i32 a sentence; documents: i64 sentences before each end; blocks: u64 checksums
  std::string block_;         // bytes of the current MiB
  void end_block(size_t bytes);
};

// Validated once, then mapped: memory does not grow with the text, whose pages the system takes back when it needs room.
class TokenShard {
 public:
  // Opens and validates: the sidecar, sizes, offsets, document table, checksums, ids below the vocabulary's size. Throws IoError and, naming
  // file, what was expected and what came, DataError.
  explicit TokenShard(const std::filesystem::path& stem);

  const ShardInfo& info() const { return info_; }
  int64_t documents() const { return info_.documents; }
  int64_t sentences() const { return info_.sentences; }
  int64_t tokens() const { return info_.tokens; }
  // Of ids, sentences and documents: what two builds of the same data have in common. A sum over several shards goes on from another's.
  uint64_t checksum(uint64_t seed = 0) const;
  // First sentence of a document; document may be documents(), so that a document's are [first_sentence(d), first_sentence(d + 1)).
  int64_t first_sentence(int64_t document) const;
  // First token of a sentence, counted over the shard; sentence may be sentences().
  int64_t start(int64_t sentence) const;
  int32_t token(int64_t i) const;
  void copy(int64_t first, int64_t count, int32_t* out) const;

 private:
  MappedFile bin_, idx_;  // what stands in them is read where it is needed: nothing grows with the shard
  bool wide_ = false;
  ShardInfo info_;
};

}  // namespace electra
