// Sentence boundaries by ICU's rules (Unicode Standard Annex 29, root locale).
#pragma once
#include <memory>
#include <string_view>
#include <vector>

namespace electra {

class SentenceSplitter {
 public:
  SentenceSplitter();
  ~SentenceSplitter();
  // The sentences of one paragraph of valid UTF-8, trimmed of white space, empty ones left out; views into text.
  // Not safe to call from several threads at once: one splitter a thread.
  void split(std::string_view text, std::vector<std::string_view>& sentences);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace electra
