#include "tokenizer/unicode.h"

#include <unicode/bytestream.h>
#include <unicode/locid.h>
#include <unicode/normalizer2.h>
#include <unicode/uchar.h>
#include <unicode/unistr.h>
#include <unicode/utf8.h>
#include <unicode/uversion.h>

#include <cstdint>
#include <cstring>

#include "kernels/core/error.h"

namespace electra::unicode {
namespace {

const icu::Normalizer2& nfd() {
  static const icu::Normalizer2* const instance = [] {
    UErrorCode status = U_ZERO_ERROR;
    return icu::Normalizer2::getNFDInstance(status);
  }();
  return *instance;
}

// The Unicode version that the normalization of transformers' tokenizers knows.
constexpr int kNormalizerAge = 9;

int age(char32_t c) {
  UVersionInfo version;
  u_charAge(static_cast<UChar32>(c), version);
  return version[0];
}

// General category as transformers' tables have it: those of Unicode 8, with what was reclassified since set back.
int category(char32_t c, TokenizerMode mode) {
  if (mode == TokenizerMode::google) return u_charType(static_cast<UChar32>(c));
  switch (c) {
    case 0x166D: case 0x111C9: return U_OTHER_PUNCTUATION;
    case 0x1734: return U_NON_SPACING_MARK;
    case 0x1885: case 0x1886: return U_OTHER_LETTER;
    case 0xA9BD: return U_COMBINING_SPACING_MARK;
    default: break;
  }
  const int since = age(c);
  if (since == 0 || since > 8) return U_UNASSIGNED;
  return u_charType(static_cast<UChar32>(c));
}

std::u32string to_utf32(const icu::UnicodeString& text) {
  std::u32string out;
  for (int32_t i = 0; i < text.length();) {
    const UChar32 c = text.char32At(i);
    out.push_back(static_cast<char32_t>(c));
    i += U16_LENGTH(c);
  }
  return out;
}

}  // namespace

size_t find_invalid_utf8(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    for (uint64_t bytes; at + sizeof bytes <= text.size(); at += sizeof bytes) {  // ASCII, eight at a time
      std::memcpy(&bytes, text.data() + at, sizeof bytes);
      if (bytes & 0x8080808080808080u) break;
    }
    if (at == text.size()) break;
    const auto byte = static_cast<unsigned char>(text[at]);
    if (byte < 0x80) {
      ++at;
      continue;
    }
    int length = 0;
    unsigned char low = 0x80, high = 0xBF;  // allowed second byte: no overlong forms, no surrogates, nothing above U+10FFFF
    if (byte >= 0xC2 && byte <= 0xDF) length = 2;
    else if (byte >= 0xE0 && byte <= 0xEF) length = 3;
    else if (byte >= 0xF0 && byte <= 0xF4) length = 4;
    else return at;
    if (byte == 0xE0) low = 0xA0;
    if (byte == 0xED) high = 0x9F;
    if (byte == 0xF0) low = 0x90;
    if (byte == 0xF4) high = 0x8F;
    if (at + static_cast<size_t>(length) > text.size()) return at;
    for (int k = 1; k < length; ++k) {
      const auto next = static_cast<unsigned char>(text[at + static_cast<size_t>(k)]);
      if (next < (k == 1 ? low : 0x80) || next > (k == 1 ? high : 0xBF)) return at;
    }
    at += static_cast<size_t>(length);
  }
  return kValid;
}

void append_utf8(char32_t c, std::string& text) {
  char bytes[U8_MAX_LENGTH];
  int32_t n = 0;
  U8_APPEND_UNSAFE(bytes, n, static_cast<UChar32>(c));
  text.append(bytes, static_cast<size_t>(n));
}

bool is_removed(char32_t c, TokenizerMode mode) {
  if (c == 0 || c == 0xFFFD) return true;
  if (c == '\t' || c == '\n' || c == '\r') return false;
  const int type = category(c, mode);
  const bool other = type == U_CONTROL_CHAR || type == U_FORMAT_CHAR || type == U_PRIVATE_USE_CHAR;
  return other || (mode == TokenizerMode::google && (type == U_UNASSIGNED || type == U_SURROGATE));
}

bool is_white_space(char32_t c) { return u_isUWhiteSpace(static_cast<UChar32>(c)); }

bool is_punctuation(char32_t c, TokenizerMode mode) {
  if ((c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) || (c >= 123 && c <= 126)) return true;
  if (c < 128) return false;
  switch (category(c, mode)) {
    case U_DASH_PUNCTUATION: case U_START_PUNCTUATION: case U_END_PUNCTUATION: case U_CONNECTOR_PUNCTUATION:
    case U_OTHER_PUNCTUATION: case U_INITIAL_PUNCTUATION: case U_FINAL_PUNCTUATION:
      return true;
    default: return false;
  }
}

bool is_chinese(char32_t c, TokenizerMode mode) {
  const char32_t extension_e = mode == TokenizerMode::google ? 0x2B820 : 0x2B920;
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
         (c >= 0x2A700 && c <= 0x2B73F) || (c >= 0x2B740 && c <= 0x2B81F) || (c >= extension_e && c <= 0x2CEAF) ||
         (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

bool is_nonspacing_mark(char32_t c, TokenizerMode mode) { return category(c, mode) == U_NON_SPACING_MARK; }

std::u32string decompose(char32_t c, TokenizerMode mode) {
  icu::UnicodeString decomposed;
  if ((mode == TokenizerMode::google || age(c) <= kNormalizerAge) && nfd().getDecomposition(static_cast<UChar32>(c), decomposed))
    return to_utf32(decomposed);
  return std::u32string(1, c);
}

int combining_class(char32_t c, TokenizerMode mode) {
  return mode == TokenizerMode::google || age(c) <= kNormalizerAge ? u_getCombiningClass(static_cast<UChar32>(c)) : 0;
}

std::u32string lowercase(char32_t c) {
  icu::UnicodeString text(static_cast<UChar32>(c));
  text.toLower(icu::Locale::getRoot());
  return to_utf32(text);
}

bool is_cased(char32_t c) { return u_hasBinaryProperty(static_cast<UChar32>(c), UCHAR_CASED); }
bool is_case_ignorable(char32_t c) { return u_hasBinaryProperty(static_cast<UChar32>(c), UCHAR_CASE_IGNORABLE); }

std::string normalize(std::string_view text, NormalForm form) {
  UErrorCode status = U_ZERO_ERROR;
  const icu::Normalizer2* const normalizer = form == NormalForm::nfc ? icu::Normalizer2::getNFCInstance(status) : icu::Normalizer2::getNFKCInstance(status);
  std::string normal;
  icu::StringByteSink<std::string> sink(&normal, static_cast<int32_t>(text.size()));
  if (U_SUCCESS(status)) normalizer->normalizeUTF8(0, icu::StringPiece(text.data(), static_cast<int32_t>(text.size())), sink, nullptr, status);
  if (U_FAILURE(status)) throw DataError("normalization", std::string("expected no failure of ICU, got ") + u_errorName(status));
  return normal;
}

const char* icu_version() { return U_ICU_VERSION; }

}  // namespace electra::unicode
