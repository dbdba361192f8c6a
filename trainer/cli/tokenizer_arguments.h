// Options that say how text is tokenized; the same for vocab, tokenize and data.
#pragma once
#include <CLI/CLI.hpp>
#include <string>

#include "tokenizer/tokenizer.h"

namespace electra::cli {

struct TokenizerArguments {
  std::string mode = "hf", strip_accents = "as lower-casing", split_chinese = "yes";
  bool cased = false;
  TokenizerOptions options() const;
};

// --mode hf|google, --cased, --strip-accents yes|no, --split-chinese yes|no
void add_tokenizer_arguments(CLI::App& command, TokenizerArguments& arguments);

}  // namespace electra::cli
