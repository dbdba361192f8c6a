// Vocabulary: the tokens of a vocab.txt, one a line; the line number is the id.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace electra {

class Vocabulary {
 public:
  // Throws IoError when the file cannot be read and DataError naming file:line for a vocabulary that cannot work:
  // duplicates, an empty line before the end, invalid UTF-8, or [UNK], [CLS], [SEP], [MASK] or [PAD] missing.
  static Vocabulary load(const std::filesystem::path& file);
  static Vocabulary from_tokens(std::vector<std::string> tokens, std::string_view where);
  // All that load would refuse a file for, a message each; none for a good one. Throws IoError when the file cannot be read.
  static std::vector<std::string> errors(const std::filesystem::path& file);

  int32_t size() const { return static_cast<int32_t>(tokens_.size()); }
  std::optional<int32_t> find(std::string_view token) const;
  const std::string& token(int32_t id) const { return tokens_[static_cast<size_t>(id)]; }
  const std::vector<std::string>& tokens() const { return tokens_; }
  int32_t pad() const { return pad_; }
  int32_t unk() const { return unk_; }
  int32_t cls() const { return cls_; }
  int32_t sep() const { return sep_; }
  int32_t mask() const { return mask_; }
  // sha256 of the tokens, each followed by a line feed, in hexadecimal: identifies the vocabulary in every artefact.
  const std::string& sha256() const { return sha256_; }

 private:
  // Calls fail(DataError) for each reason why the tokens cannot work; where that returns, the vocabulary is of no use.
  template <class Fail> static Vocabulary assemble(std::vector<std::string> tokens, std::string_view where, Fail fail);

  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view s) const { return std::hash<std::string_view>{}(s); }
  };
  std::vector<std::string> tokens_;
  std::unordered_map<std::string, int32_t, Hash, std::equal_to<>> ids_;
  std::string sha256_;
  int32_t pad_ = 0, unk_ = 0, cls_ = 0, sep_ = 0, mask_ = 0;
};

}  // namespace electra
