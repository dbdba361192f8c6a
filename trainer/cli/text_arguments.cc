#include "trainer/cli/text_arguments.h"

#include <fmt/format.h>

#include "trainer/log.h"

namespace electra::cli {

CorpusOptions TextArguments::options() const {
  CorpusOptions o;
  o.format = format == "text" ? CorpusFormat::text : format == "jsonl" ? CorpusFormat::json_lines : CorpusFormat::by_name;
  o.field = field;
  o.boundary = documents == "line" ? DocumentBoundary::line : documents == "file" ? DocumentBoundary::file : DocumentBoundary::blank_line;
  if (normal_form != "none") o.normal_form = normal_form == "nfc" ? unicode::NormalForm::nfc : unicode::NormalForm::nfkc;
  o.deduplicate = deduplicate;
  o.skip_invalid = skip_invalid;
  return o;
}

CLI::Option* add_text_arguments(CLI::App& command, TextArguments& arguments) {
  CLI::Option* const text = command.add_option("text", arguments.texts,
                     "UTF-8 text, a paragraph a line, or JSON lines; plain, gzip, zstd or xz, told by content; files, patterns, folders searched for *.txt and *.jsonl, or - for standard input")
      ->option_text("TEXT…");
  command.add_option("--format", arguments.format, "auto: JSON lines where a file's name ends in .jsonl (.jsonl.gz, …), text otherwise")
      ->check(CLI::IsMember({"auto", "text", "jsonl"}))
      ->capture_default_str()
      ->option_text("auto|text|jsonl");
  command.add_option("--field", arguments.field, "the field of a JSON line that holds its text; each JSON line is a document")->capture_default_str()->option_text("NAME");
  command.add_option("--documents", arguments.documents, "what ends a document of plain text")
      ->check(CLI::IsMember({"blank-line", "line", "file"}))
      ->capture_default_str()
      ->option_text("blank-line|line|file");
  command.add_option("--normalize", arguments.normal_form, "bring paragraphs to this Unicode normal form")
      ->check(CLI::IsMember({"none", "nfc", "nfkc"}))
      ->capture_default_str()
      ->option_text("none|nfc|nfkc");
  command.add_flag("--deduplicate", arguments.deduplicate, "leave out paragraphs that came before, and say how many");
  command.add_flag("--skip-invalid", arguments.skip_invalid, "leave out lines that are not UTF-8 text, or no JSON object with the field, and say how many");
  return text;
}

void warn_of_skipped_lines(const std::string& command, int64_t lines) {
  if (lines > 0) log::warning(fmt::format("[{}] left out {} lines that are not UTF-8 text or not what --format and --field say", command, lines));
}

}  // namespace electra::cli
