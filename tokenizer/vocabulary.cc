#include "tokenizer/vocabulary.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include "kernels/core/error.h"
#include "tokenizer/sha256.h"
#include "tokenizer/unicode.h"

namespace electra {
namespace {

std::string place(std::string_view where, size_t line) { return std::string(where) + ":" + std::to_string(line + 1); }

std::string_view trim_end(std::string_view s) {
  const size_t end = s.find_last_not_of(" \t\r");
  return end == std::string_view::npos ? std::string_view() : s.substr(0, end + 1);
}

std::vector<std::string> lines_of(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in || std::filesystem::is_directory(file))
    throw IoError(file.string(), std::string("expected a vocabulary file, got '") + std::strerror(in ? EISDIR : errno) + "'");
  std::ostringstream content;
  content << in.rdbuf();
  const std::string text = content.str();
  std::vector<std::string> tokens;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    tokens.emplace_back(trim_end(std::string_view(text).substr(at, end - at)));
    at = end + 1;
  }
  return tokens;
}

}  // namespace

template <class Fail> Vocabulary Vocabulary::assemble(std::vector<std::string> tokens, std::string_view where, Fail fail) {
  Vocabulary v;
  v.tokens_ = std::move(tokens);
  if (v.tokens_.empty()) fail(DataError(where, "expected one token a line, got an empty vocabulary"));
  std::string all;
  for (size_t i = 0; i < v.tokens_.size(); ++i) {
    const std::string& token = v.tokens_[i];
    if (token.empty()) {
      fail(DataError(place(where, i), "expected a token, got an empty line"));
      continue;
    }
    if (unicode::find_invalid_utf8(token) != unicode::kValid) fail(DataError(place(where, i), "expected valid UTF-8, got other bytes"));
    const auto [it, inserted] = v.ids_.emplace(token, static_cast<int32_t>(i));
    if (!inserted)
      fail(DataError(place(where, i), "expected each token once, got '" + token + "' again after line " + std::to_string(it->second + 1)));
    all.append(token).push_back('\n');
  }
  v.sha256_ = electra::sha256(all);
  const std::pair<const char*, int32_t*> special[] = {
      {"[PAD]", &v.pad_}, {"[UNK]", &v.unk_}, {"[CLS]", &v.cls_}, {"[SEP]", &v.sep_}, {"[MASK]", &v.mask_}};
  for (const auto& [token, id] : special) {
    const auto found = v.find(token);
    if (!found) fail(DataError(where, std::string("expected a vocabulary with ") + token + ", got none among " + std::to_string(v.size()) + " tokens"));
    *id = found.value_or(0);
  }
  return v;
}

Vocabulary Vocabulary::load(const std::filesystem::path& file) { return from_tokens(lines_of(file), file.string()); }

Vocabulary Vocabulary::from_tokens(std::vector<std::string> tokens, std::string_view where) {
  return assemble(std::move(tokens), where, [](const DataError& error) { throw error; });
}

std::vector<std::string> Vocabulary::errors(const std::filesystem::path& file) {
  std::vector<std::string> messages;
  assemble(lines_of(file), file.string(), [&](const DataError& error) { messages.emplace_back(error.what()); });
  return messages;
}

std::optional<int32_t> Vocabulary::find(std::string_view token) const {
  const auto it = ids_.find(token);
  if (it == ids_.end()) return std::nullopt;
  return it->second;
}

}  // namespace electra
