// SHA-256 (FIPS 180-4): identifies a vocabulary in every artefact made with it.
#pragma once
#include <string>
#include <string_view>

namespace electra {

// 64 hexadecimal digits.
std::string sha256(std::string_view bytes);

}  // namespace electra
