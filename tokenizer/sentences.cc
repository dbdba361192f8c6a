#include "tokenizer/sentences.h"

#include <unicode/brkiter.h>
#include <unicode/utext.h>

#include <string>

#include "kernels/core/error.h"

namespace electra {

struct SentenceSplitter::Impl {
  std::unique_ptr<icu::BreakIterator> iterator;
  UText* text = nullptr;
  ~Impl() { utext_close(text); }
};

namespace {

void check(UErrorCode status, const char* what) {
  if (U_FAILURE(status)) throw DataError("sentences", std::string("expected ICU to ") + what + ", got " + u_errorName(status));
}

std::string_view trim(std::string_view s) {
  constexpr std::string_view kSpace = " \t\r\n\f\v";
  const size_t begin = s.find_first_not_of(kSpace);
  return begin == std::string_view::npos ? std::string_view() : s.substr(begin, s.find_last_not_of(kSpace) - begin + 1);
}

}  // namespace

SentenceSplitter::SentenceSplitter() : impl_(std::make_unique<Impl>()) {
  UErrorCode status = U_ZERO_ERROR;
  impl_->iterator.reset(icu::BreakIterator::createSentenceInstance(icu::Locale::getRoot(), status));
  check(status, "have sentence rules");
}

SentenceSplitter::~SentenceSplitter() = default;

void SentenceSplitter::split(std::string_view text, std::vector<std::string_view>& sentences) {
  sentences.clear();
  UErrorCode status = U_ZERO_ERROR;
  impl_->text = utext_openUTF8(impl_->text, text.data(), static_cast<int64_t>(text.size()), &status);
  check(status, "read UTF-8");
  impl_->iterator->setText(impl_->text, status);
  check(status, "take the text");
  int32_t begin = impl_->iterator->first();
  for (int32_t end = impl_->iterator->next(); end != icu::BreakIterator::DONE; begin = end, end = impl_->iterator->next()) {
    const auto sentence = trim(text.substr(static_cast<size_t>(begin), static_cast<size_t>(end - begin)));
    if (!sentence.empty()) sentences.push_back(sentence);
  }
}

}  // namespace electra
