#include "trainer/cli/tokenizer_arguments.h"

namespace electra::cli {

TokenizerOptions TokenizerArguments::options() const {
  TokenizerOptions o;
  o.mode = mode == "hf" ? TokenizerMode::hf : TokenizerMode::google;
  o.lowercase = !cased;
  o.split_chinese = split_chinese == "yes";
  if (strip_accents == "yes" || strip_accents == "no") o.strip_accents = strip_accents == "yes";
  return o;
}

void add_tokenizer_arguments(CLI::App& command, TokenizerArguments& arguments) {
  command.add_option("--mode", arguments.mode, "hf: as transformers' fast tokenizer; google: as the original code")
      ->check(CLI::IsMember({"hf", "google"}))
      ->capture_default_str()
      ->option_text("hf|google");
  command.add_flag("--cased", arguments.cased, "keep capital letters");
  command.add_option("--strip-accents", arguments.strip_accents, "yes or no; by default accents go when capitals do")
      ->check(CLI::IsMember({"yes", "no"}))
      ->option_text("yes|no");
  command.add_option("--split-chinese", arguments.split_chinese, "make each Chinese character a word")
      ->check(CLI::IsMember({"yes", "no"}))
      ->option_text("yes|no");
}

}  // namespace electra::cli
