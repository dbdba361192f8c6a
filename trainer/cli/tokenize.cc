// electra tokenize: one text a line in, one line of tokens out.
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "kernels/core/thread_pool.h"
#include "tokenizer/code_points.h"
#include "tokenizer/unicode.h"
#include "trainer/cli/cli.h"
#include "trainer/cli/tokenizer_arguments.h"
#include "trainer/terminal.h"

namespace electra::cli {
namespace {

struct Arguments {
  std::vector<std::string> files;
  std::string vocabulary, output = "tokens", offsets = "codepoints";
  bool special = false;
  TokenizerArguments tokenizer;
};

// What one thread takes at a time, and how many of these are read at once for each thread; a longer line is read whole.
constexpr size_t kPartBytes = 64 << 10, kPartsPerThread = 4;

// Appends the result of one line to a part's output. One formatter a thread: its buffers are used again.
class LineFormatter {
 public:
  // colour: tokens of a word in one colour, of the next in another.
  LineFormatter(const Tokenizer& tokenizer, const Arguments& args, bool colour) : tokenizer_(tokenizer), args_(args), colour_(colour) {}

  void append(std::string_view line, std::string& out) {
    const Vocabulary& v = tokenizer_.vocabulary();
    if (colour_) {
      tokenizer_.encode(line, encoding_);
      append_coloured(out);
      return;
    }
    if (args_.output != "jsonl") {
      ids_.clear();
      if (args_.special) ids_.push_back(v.cls());
      tokenizer_.encode_ids(line, ids_);
      if (args_.special) ids_.push_back(v.sep());
      if (args_.output == "ids") append_ids(out);
      else append_tokens(out);
      return;
    }
    Encoding& e = encoding_;
    tokenizer_.encode(line, e);
    if (args_.special) {
      e.ids.insert(e.ids.begin(), v.cls());
      e.offsets.insert(e.offsets.begin(), ByteRange{});
      e.word_ids.insert(e.word_ids.begin(), -1);
      e.ids.push_back(v.sep());
      e.offsets.push_back({});
      e.word_ids.push_back(-1);
    }
    std::vector<std::string> tokens;
    for (const int32_t id : e.ids) tokens.push_back(v.token(id));
    nlohmann::ordered_json json = {{"tokens", tokens}, {"ids", e.ids}};
    json["offsets"] = nlohmann::json::array();
    CodePoints begins(line), ends(line);
    for (const ByteRange r : e.offsets) {
      if (args_.offsets == "bytes") json["offsets"].push_back({r.begin, r.end});
      else json["offsets"].push_back({begins.at(r.begin), ends.at(r.end)});
    }
    json["word_ids"] = nlohmann::json::array();
    for (const int32_t w : e.word_ids) json["word_ids"].push_back(w < 0 ? nlohmann::ordered_json() : nlohmann::ordered_json(w));
    out.append(json.dump(-1, ' ', false)).push_back('\n');
  }

 private:
  void append_ids(std::string& out) const {
    constexpr size_t kDigits = 11;  // of an int32_t, with the space behind it
    const size_t before = out.size();
    out.resize(before + ids_.size() * kDigits + 1);
    char* at = out.data() + before;
    for (const int32_t id : ids_) {
      at = std::to_chars(at, at + kDigits, id).ptr;
      *at++ = ' ';
    }
    if (!ids_.empty()) --at;
    *at++ = '\n';
    out.resize(static_cast<size_t>(at - out.data()));
  }
  void append_tokens(std::string& out) const {
    for (size_t k = 0; k < ids_.size(); ++k) {
      if (k > 0) out.push_back(' ');
      out.append(tokenizer_.vocabulary().token(ids_[k]));
    }
    out.push_back('\n');
  }

  void append_coloured(std::string& out) const {
    constexpr std::string_view kColours[] = {ansi::kGreen, ansi::kYellow};
    const Vocabulary& v = tokenizer_.vocabulary();
    const auto append_special = [&](int32_t id) { out.append(ansi::kDim).append(v.token(id)).append(ansi::kReset); };
    if (args_.special) append_special(v.cls());
    for (size_t k = 0; k < encoding_.ids.size(); ++k) {
      if (k > 0 || args_.special) out.push_back(' ');
      const int32_t id = encoding_.ids[k];
      out.append(id == v.unk() ? ansi::kRed : kColours[encoding_.word_ids[k] & 1]).append(v.token(id)).append(ansi::kReset);
    }
    if (args_.special) {
      out.push_back(' ');
      append_special(v.sep());
    }
    out.push_back('\n');
  }

  const Tokenizer& tokenizer_;
  const Arguments& args_;
  bool colour_;
  Encoding encoding_;
  std::vector<int32_t> ids_;
};

// Whole lines of the input, what becomes of them, and the first line that is not UTF-8.
struct Part {
  std::string_view text;
  std::string out;
  int64_t lines = 0;
  size_t bad = unicode::kValid;  // the byte of line number `lines` that is wrong

  void run(LineFormatter& format) {
    out.clear();
    lines = 0;
    bad = unicode::kValid;
    for (size_t at = 0; at < text.size() && bad == unicode::kValid;) {
      const size_t end = std::min(text.find('\n', at), text.size());
      std::string_view line = text.substr(at, end - at);
      if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
      ++lines;
      bad = unicode::find_invalid_utf8(line);
      if (bad == unicode::kValid) format.append(line, out);
      at = end + 1;
    }
  }
};

// Reads blocks of whole lines, whose parts run in parallel and are written in order: memory does not grow with the input, except
// for its longest line.
void run_stream(std::istream& in, const std::string& name, std::vector<LineFormatter>& formats, ThreadPool& pool) {
  std::string block(kPartBytes * kPartsPerThread * formats.size(), '\0');
  std::vector<Part> parts;
  size_t held = 0;  // bytes in the block
  int64_t line_number = 0;
  do {
    if (held == block.size()) block.resize(2 * block.size());  // a line that does not end in it
    in.read(block.data() + held, static_cast<std::streamsize>(block.size() - held));
    held += static_cast<size_t>(in.gcount());
    const std::string_view text(block.data(), held);
    const size_t last = text.rfind('\n');
    const size_t whole = in.eof() ? held : last == std::string_view::npos ? 0 : last + 1;
    size_t used = 0;
    for (size_t at = 0; at < whole; ++used) {
      const size_t feed = at + kPartBytes < whole ? text.find('\n', at + kPartBytes) : std::string_view::npos;
      const size_t end = feed < whole ? feed + 1 : whole;
      if (used == parts.size()) parts.emplace_back();
      parts[used].text = text.substr(at, end - at);
      at = end;
    }
    pool.parallel_for(static_cast<int64_t>(used), [&](int64_t i, int worker) { parts[static_cast<size_t>(i)].run(formats[static_cast<size_t>(worker)]); });
    for (size_t i = 0; i < used; ++i) {
      const Part& part = parts[i];
      std::fwrite(part.out.data(), 1, part.out.size(), stdout);
      line_number += part.lines;
      if (part.bad != unicode::kValid)
        throw DataError(name + ":" + std::to_string(line_number), "expected UTF-8, got another encoding at byte " + std::to_string(part.bad + 1) + " of the line");
    }
    held -= whole;
    std::memmove(block.data(), block.data() + whole, held);
  } while (in);
  if (in.bad()) throw IoError(name, std::string("expected to read a text file, got '") + std::strerror(errno) + "'");
}

int tokenize(const Arguments& args, int threads) {
  const Tokenizer tokenizer(Vocabulary::load(args.vocabulary), args.tokenizer.options());
  std::vector<LineFormatter> formats(static_cast<size_t>(threads), LineFormatter(tokenizer, args, args.output == "tokens" && colours_allowed(STDOUT_FILENO)));
  ThreadPool pool(threads);
  if (args.files.empty()) run_stream(std::cin, "standard input", formats, pool);
  for (const std::string& file : args.files) {
    std::ifstream in(file, std::ios::binary);
    if (!in) throw IoError(file, std::string("expected to read a text file, got '") + std::strerror(errno) + "'");
    run_stream(in, file, formats, pool);
  }
  return 0;
}

}  // namespace

void register_tokenize(CLI::App& root, Invocation& invocation) {
  const auto args = std::make_shared<Arguments>();
  CLI::App* command = add_command(root, "tokenize", "split text into word pieces, one text a line", "electra tokenize --vocab vocab.txt corpus.txt --output ids", invocation);
  command->add_option("file", args->files, "text files; standard input where there is none")->option_text("FILE…");
  command->add_option("--vocab", args->vocabulary, "the vocabulary")->required()->option_text("FILE");
  command->add_option("--output", args->output, "tokens, ids, or jsonl with offsets and word numbers; tokens on a terminal are coloured by word, [UNK] red")->check(CLI::IsMember({"tokens", "ids", "jsonl"}))->capture_default_str()->option_text("tokens|ids|jsonl");
  command->add_option("--offsets", args->offsets, "unit of the offsets")->check(CLI::IsMember({"codepoints", "bytes"}))->capture_default_str()->option_text("codepoints|bytes");
  command->add_flag("--special", args->special, "with [CLS] and [SEP]");
  add_tokenizer_arguments(*command, args->tokenizer);
  command->callback([args, &invocation] { invocation.action = [args, &invocation] { return tokenize(*args, thread_count(invocation)); }; });
}

}  // namespace electra::cli
