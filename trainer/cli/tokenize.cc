// electra tokenize: one text a line in, one line of tokens out.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "kernels/core/thread_pool.h"
#include "tokenizer/unicode.h"
#include "trainer/cli/cli.h"
#include "trainer/cli/tokenizer_arguments.h"

namespace electra::cli {
namespace {

struct Arguments {
  std::vector<std::string> files;
  std::string vocabulary, output = "tokens", offsets = "codepoints";
  bool special = false;
  TokenizerArguments tokenizer;
};

constexpr size_t kLinesPerRound = 4096;

// [begin, end) of a piece in code points: counts the bytes that begin one.
class CodePoints {
 public:
  explicit CodePoints(std::string_view text) : text_(text) {}
  int64_t at(uint32_t byte) {
    for (; byte_ < byte; ++byte_) count_ += (static_cast<unsigned char>(text_[byte_]) & 0xC0) != 0x80;
    if (byte < byte_) {  // rare: pieces of reordered characters
      byte_ = 0;
      count_ = 0;
      return at(byte);
    }
    return count_;
  }

 private:
  std::string_view text_;
  uint32_t byte_ = 0;
  int64_t count_ = 0;
};

class LineFormatter {
 public:
  LineFormatter(const Tokenizer& tokenizer, const Arguments& args) : tokenizer_(tokenizer), args_(args) {}

  std::string operator()(const std::string& line) const {
    Encoding e;
    tokenizer_.encode(line, e);
    const Vocabulary& v = tokenizer_.vocabulary();
    if (args_.special) {
      e.ids.insert(e.ids.begin(), v.cls());
      e.offsets.insert(e.offsets.begin(), ByteRange{});
      e.word_ids.insert(e.word_ids.begin(), -1);
      e.ids.push_back(v.sep());
      e.offsets.push_back({});
      e.word_ids.push_back(-1);
    }
    if (args_.output == "ids") return fmt::format("{}\n", fmt::join(e.ids, " "));
    std::vector<std::string> tokens;
    for (const int32_t id : e.ids) tokens.push_back(v.token(id));
    if (args_.output == "tokens") return fmt::format("{}\n", fmt::join(tokens, " "));
    nlohmann::ordered_json json = {{"tokens", tokens}, {"ids", e.ids}};
    json["offsets"] = nlohmann::json::array();
    CodePoints begins(line), ends(line);
    for (const ByteRange r : e.offsets) {
      if (args_.offsets == "bytes") json["offsets"].push_back({r.begin, r.end});
      else json["offsets"].push_back({begins.at(r.begin), ends.at(r.end)});
    }
    json["word_ids"] = nlohmann::json::array();
    for (const int32_t w : e.word_ids) json["word_ids"].push_back(w < 0 ? nlohmann::ordered_json() : nlohmann::ordered_json(w));
    return json.dump(-1, ' ', false) + "\n";
  }

 private:
  const Tokenizer& tokenizer_;
  const Arguments& args_;
};

void run_stream(std::istream& in, const std::string& name, const LineFormatter& format, ThreadPool& pool) {
  std::vector<std::string> lines, results;
  int64_t line_number = 0;
  const auto flush = [&] {
    results.resize(lines.size());
    pool.parallel_for(static_cast<int64_t>(lines.size()), [&](int64_t i, int) {
      results[static_cast<size_t>(i)] = format(lines[static_cast<size_t>(i)]);
    });
    for (const std::string& r : results) std::fwrite(r.data(), 1, r.size(), stdout);
    lines.clear();
  };
  for (std::string line; std::getline(in, line);) {
    ++line_number;
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (const size_t bad = unicode::find_invalid_utf8(line); bad != unicode::kValid) {
      flush();
      throw DataError(name + ":" + std::to_string(line_number), "expected UTF-8, got another encoding at byte " + std::to_string(bad + 1) + " of the line");
    }
    lines.push_back(std::move(line));
    if (lines.size() == kLinesPerRound) flush();
  }
  flush();
  if (in.bad()) throw IoError(name, std::string("expected to read a text file, got '") + std::strerror(errno) + "'");
}

int tokenize(const Arguments& args, int threads) {
  const Tokenizer tokenizer(Vocabulary::load(args.vocabulary), args.tokenizer.options());
  const LineFormatter format(tokenizer, args);
  ThreadPool pool(threads);
  if (args.files.empty()) run_stream(std::cin, "standard input", format, pool);
  for (const std::string& file : args.files) {
    std::ifstream in(file, std::ios::binary);
    if (!in) throw IoError(file, std::string("expected to read a text file, got '") + std::strerror(errno) + "'");
    run_stream(in, file, format, pool);
  }
  return 0;
}

}  // namespace

void register_tokenize(CLI::App& root, Invocation& invocation) {
  const auto args = std::make_shared<Arguments>();
  CLI::App* command = add_command(root, "tokenize", "split text into word pieces, one text a line", "electra tokenize --vocab vocab.txt corpus.txt --output ids", invocation);
  command->add_option("file", args->files, "text files; standard input where there is none")->option_text("FILE…");
  command->add_option("--vocab", args->vocabulary, "the vocabulary")->required()->option_text("FILE");
  command->add_option("--output", args->output, "tokens, ids, or jsonl with offsets and word numbers")->check(CLI::IsMember({"tokens", "ids", "jsonl"}))->capture_default_str()->option_text("tokens|ids|jsonl");
  command->add_option("--offsets", args->offsets, "unit of the offsets")->check(CLI::IsMember({"codepoints", "bytes"}))->capture_default_str()->option_text("codepoints|bytes");
  command->add_flag("--special", args->special, "with [CLS] and [SEP]");
  add_tokenizer_arguments(*command, args->tokenizer);
  command->callback([args, &invocation] { invocation.action = [args, &invocation] { return tokenize(*args, thread_count(invocation)); }; });
}

}  // namespace electra::cli
