// Options that say what text a command reads; the same for vocab and data.
#pragma once
#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "trainer/data/corpus.h"

namespace electra::cli {

struct TextArguments {
  std::vector<std::string> texts;
  std::string format = "auto", field = "text", documents = "blank-line";
  std::string normal_form = "none";
  bool deduplicate = false, skip_invalid = false;
  CorpusOptions options() const;
};

// TEXT…, --format auto|text|jsonl, --field NAME, --documents blank-line|line|file, --normalize none|nfc|nfkc, --deduplicate, --skip-invalid.
// Returns the option for TEXT.
CLI::Option* add_text_arguments(CLI::App& command, TextArguments& arguments);
// Says how many lines were left out, if any.
void warn_of_skipped_lines(const std::string& command, int64_t lines);

}  // namespace electra::cli
