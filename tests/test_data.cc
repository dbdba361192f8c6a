// Corpus, token shards, examples and the loader.
#include <catch2/catch.hpp>
#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <sstream>

#include <malloc.h>
#include <sys/stat.h>

#include "kernels/core/error.h"
#include "tests/child_process.h"
#include "tests/compressed.h"
#include "tests/error_of.h"
#include "tests/temporary_directory.h"
#include "trainer/data/build_directory.h"
#include "trainer/data/corpus.h"
#include "trainer/data/data_build.h"
#include "trainer/data/data_sets.h"
#include "trainer/data/loader.h"
#include "trainer/data/masked_view.h"
#include "trainer/log.h"

using namespace electra;
using test::error_of;
using test::read_file;
using test::TemporaryDirectory;
using test::write_file;

namespace {

namespace fs = std::filesystem;

const std::string kVocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\ncat\nsat\non\nmat\n.\ndog\nran\nto\nroad\nit\nwas\nred\n";

// Documents of two paragraphs; every word is in the vocabulary.
std::string small_text(int documents) {
  std::string text;
  for (int d = 0; d < documents; ++d) {
    const std::string a = d % 2 ? "cat" : "dog", b = d % 3 ? "mat" : "road";
    text += "The " + a + " sat on the " + b + ". It was red.\n";
    for (int k = 0; k < d % 7; ++k) text += "The " + b + " was red. The " + a + " ran to the " + b + ".\n";
    text += "It ran " + std::string(d % 5 ? "to the road" : "on") + ".\n\n";
  }
  return text;
}

// A shard with the given documents of sentence lengths; ids count up from 5 within 5 … 17.
TokenShard make_shard(const TemporaryDirectory& dir, const std::vector<std::vector<int>>& documents) {
  TokenShardWriter writer(dir / "s", 18);
  int32_t next = 0;
  for (const auto& document : documents) {
    for (const int length : document) {
      std::vector<int32_t> ids;
      for (int i = 0; i < length; ++i) ids.push_back(5 + next++ % 13);
      writer.add_sentence(ids);
    }
    writer.end_document();
  }
  writer.finish({});
  return TokenShard(dir / "s");
}

constexpr SpecialIds kSpecial{.pad = 0, .unk = 1, .cls = 2, .sep = 3, .mask = 4};

std::vector<std::vector<int>> many_documents() {
  std::vector<std::vector<int>> documents;
  for (int d = 0; d < 40; ++d) {
    documents.emplace_back();
    for (int s = 0; s < 1 + d % 9; ++s) documents.back().push_back(1 + (d * 7 + s * 5) % 31);
  }
  documents.push_back({200, 3, 90});
  return documents;
}

DataBuildOptions build_options(const TemporaryDirectory& dir, const std::string& text) {
  write_file(dir / "t.txt", text);
  write_file(dir / "v.txt", kVocabulary);
  DataBuildOptions o;
  o.texts = {dir / "t.txt"};
  o.vocabulary = dir / "v.txt";
  o.out = dir / "d";
  return o;
}

}  // namespace

TEST_CASE("the index file is Megatron's byte for byte") {
  const TemporaryDirectory dir;
  TokenShardWriter writer(dir / "s", 100);
  for (const auto& [ids, ends] : {std::pair{std::vector<int32_t>{1, 2, 3}, false}, {{4, 5}, true}, {{6, 7, 8, 9}, true}}) {
    writer.add_sentence(ids);
    if (ends) writer.end_document();
  }
  writer.finish({});
  const std::string hex =
      "4d4d49444944580000010000000000000008030000000000000003000000000000000300000002000000040000000000000000000000060000000000"
      "00000a00000000000000000000000000000002000000000000000300000000000000";
  std::string expected;
  for (size_t i = 0; i < hex.size(); i += 2) expected.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  CHECK(read_file(dir / "s.idx") == expected);
  CHECK(read_file(dir / "s.bin").size() == 18);
  const TokenShard shard(dir / "s");
  CHECK(shard.documents() == 2);
  CHECK(shard.sentences() == 3);
  CHECK(shard.token(8) == 9);
}

TEST_CASE("a damaged shard is refused with the reason") {
  const TemporaryDirectory dir;
  make_shard(dir, {{3, 4}, {5}});
  const std::string bin = read_file(dir / "s.bin"), idx = read_file(dir / "s.idx"), json = read_file(dir / "s.json");
  const auto open = [&] { TokenShard shard(dir / "s"); };
  write_file(dir / "s.bin", bin.substr(0, 10));
  CHECK(error_of<DataError>(open) == "[" + dir.path() + "/s.bin] expected 24 bytes for 12 tokens, got 10");
  std::string flipped = bin;
  flipped[4] ^= 1;
  write_file(dir / "s.bin", flipped);
  CHECK(error_of<DataError>(open).find("expected checksum") != std::string::npos);
  write_file(dir / "s.bin", bin);
  write_file(dir / "s.idx", idx.substr(0, idx.size() - 1));
  CHECK(error_of<DataError>(open).find("document boundaries, got") != std::string::npos);
  write_file(dir / "s.idx", "not an index");
  CHECK(error_of<DataError>(open).find("expected a Megatron index") != std::string::npos);
  write_file(dir / "s.idx", idx);
  std::string small = json;
  small.replace(small.find("\"vocab_size\": 18"), 16, "\"vocab_size\": 9 ");
  write_file(dir / "s.json", small);
  CHECK(error_of<DataError>(open).find("expected ids 0 to 8, got 9 at token 4") != std::string::npos);
  const auto replaced = [&](const std::string& from, const std::string& to) {
    std::string changed = json;
    REQUIRE(changed.find(from) != std::string::npos);
    changed.replace(changed.find(from), from.size(), to);
    write_file(dir / "s.json", changed);
  };
  replaced("\"mode\": \"hf\"", "\"mode\": \"xx\"");
  CHECK(error_of<DataError>(open) == "[" + dir.path() + "/s.json] expected mode hf or google, got 'xx'");
  replaced("\"tokens\": 12", "\"tokens\": 13");
  CHECK(error_of<DataError>(open) == "[" + dir.path() + "/s.json] expected 12 tokens as in the index, got 13");
  replaced("\"sentences\": 3", "\"sentences\": 2");
  CHECK(error_of<DataError>(open) == "[" + dir.path() + "/s.json] expected 3 sentences as in the index, got 2");
  replaced("\"documents\": 2", "\"documents\": 9");
  CHECK(error_of<DataError>(open) == "[" + dir.path() + "/s.json] expected 2 documents as in the index, got 9");
  write_file(dir / "s.json", "{");
  CHECK(error_of<DataError>(open).find("expected the sidecar of a token shard") != std::string::npos);
  write_file(dir / "s.json", json);
  CHECK_NOTHROW(open());
  CHECK_THROWS_AS(TokenShard(dir / "none"), IoError);
}

TEST_CASE("text that is no text is refused with its place") {
  const TemporaryDirectory dir;
  const auto read_all = [&](bool skip) {
    CorpusOptions options;
    options.skip_invalid = skip;
    CorpusReader reader(corpus_files({dir / "t.txt"}), options);
    int64_t paragraphs = 0;
    for (Document d; reader.next(d);) paragraphs += static_cast<int64_t>(d.paragraphs.size());
    return std::pair{paragraphs, reader.skipped_lines()};
  };
  CHECK_THROWS_AS(corpus_files({dir / "none.txt"}), IoError);
  write_file(dir / "t.txt", "");
  CHECK(error_of<DataError>([&] { read_all(false); }) == "[" + dir.path() + "/t.txt] expected text, got an empty file");
  write_file(dir / "t.txt", "good\nbad \xFF byte\nlast\n");
  CHECK(error_of<DataError>([&] { read_all(false); }).find("t.txt:2] expected UTF-8, got another encoding at byte 5") != std::string::npos);
  CHECK(read_all(true) == std::pair<int64_t, int64_t>{2, 1});
  write_file(dir / "t.txt", std::string("ab\0cd\n", 6));
  CHECK(error_of<DataError>([&] { read_all(false); }).find("t.txt:1] expected text, got binary data: a NUL at byte 3") != std::string::npos);
}

TEST_CASE("documents end at blank lines and at the end of a file") {
  const TemporaryDirectory dir;
  fs::create_directory(dir / "folder");
  write_file(dir / "folder/a.txt", "\xEF\xBB\xBFone\r\ntwo\n\n \nthree\n");
  write_file(dir / "folder/b.txt", "four");
  write_file(dir / "folder/c.md", "not read");
  CorpusReader reader(corpus_files({dir / "folder"}), {});
  std::vector<std::vector<std::string>> documents;
  for (Document d; reader.next(d);) documents.push_back(d.paragraphs);
  CHECK(documents == std::vector<std::vector<std::string>>{{"one", "two"}, {"three"}, {"four"}});
}

TEST_CASE("a reader that is told to stop returns in the middle of a document") {
  const TemporaryDirectory dir;
  write_file(dir / "t.txt", "one\ntwo\n\nthree\nfour\nfive\n");
  int lines = 0;
  CorpusOptions options;
  options.stop = [&] { return ++lines == 5; };
  CorpusReader reader(corpus_files({dir / "t.txt"}), options);
  Document d;
  CHECK(reader.next(d));
  CHECK(!reader.stopped());
  CHECK(!reader.next(d));
  CHECK(reader.stopped());
  CHECK(!reader.next(d));  // and it stays so
  CHECK(lines == 5);
}

namespace {

using Paragraphs = std::vector<std::vector<std::string>>;  // of each document

Paragraphs documents_of(const std::vector<std::string>& paths, const CorpusOptions& options = {}) {
  CorpusReader reader(corpus_files(paths), options);
  Paragraphs all;
  for (Document d; reader.next(d);) all.push_back(d.paragraphs);
  return all;
}

// More than any buffer, and no two lines alike.
std::string long_text() {
  std::string text;
  for (int i = 0; i < 60000; ++i) text += "line " + std::to_string(i * 7919) + (i % 10 == 9 ? ".\n\n" : " and more\n");
  return text;
}

}  // namespace

TEST_CASE("a blank line, a line or a file is a document") {
  const TemporaryDirectory dir;
  write_file(dir / "a.txt", "one\ntwo\n\nthree\n");
  write_file(dir / "b.txt", "\nfour\n");
  CorpusOptions o;
  CHECK(documents_of({dir.path()}, o) == Paragraphs{{"one", "two"}, {"three"}, {"four"}});
  o.boundary = DocumentBoundary::line;
  CHECK(documents_of({dir.path()}, o) == Paragraphs{{"one"}, {"two"}, {"three"}, {"four"}});
  o.boundary = DocumentBoundary::file;
  CHECK(documents_of({dir.path()}, o) == Paragraphs{{"one", "two", "three"}, {"four"}});
}

TEST_CASE("folders and patterns give the same files in the same order everywhere") {
  const TemporaryDirectory dir;
  fs::create_directories(dir / "x/y");
  for (const char* name : {"b.txt", "B.txt", "a.jsonl", "c.txt.gz", "x/d.jsonl.zst", "x/y/e.txt.xz", "f.md", "g.gz", "[h].txt"}) write_file(dir / name, "text");
  write_file(dir / "empty.txt", "");
  const auto names = [&](const std::vector<std::string>& paths) {
    std::string all;
    for (const CorpusFile& file : corpus_files(paths)) all += file.name.substr(dir.path().size() + 1) + " ";
    return all;
  };
  CHECK(names({dir.path()}) == "B.txt [h].txt a.jsonl b.txt c.txt.gz x/d.jsonl.zst x/y/e.txt.xz ");
  CHECK(names({dir / "?.txt"}) == "B.txt b.txt ");
  CHECK(names({dir / "c*", dir / "[ax]"}) == "c.txt.gz x/d.jsonl.zst x/y/e.txt.xz ");
  CHECK(names({dir / "[h].txt"}) == "[h].txt ");  // a file of that name is no pattern
  CHECK(names({dir / "f.md"}) == "f.md ");
  CHECK(error_of<IoError>([&] { corpus_files({dir / "z*"}); }) == "[" + dir.path() + "/z*] expected a pattern that files match, got none that does");
  CHECK(error_of<ConfigError>([&] { corpus_files({"-", "-"}); }) == "[text] expected standard input ('-') once, got it twice");
}

TEST_CASE("compressed text is read as the text, whatever it is called and however it is cut") {
  const TemporaryDirectory dir;
  const std::string text = long_text(), head = text.substr(0, 300001), tail = text.substr(head.size());
  write_file(dir / "plain", text);
  const Paragraphs expected = documents_of({dir / "plain"});
  REQUIRE(expected.size() == 6000);
  const auto read = [&](const std::string& bytes) {
    write_file(dir / "t.txt", bytes);
    return documents_of({dir / "t.txt"}) == expected;
  };
  using test::gzip, test::zstd, test::xz;
  CHECK(read(gzip(text)));
  CHECK(read(zstd(text)));
  CHECK(read(xz(text)));
  CHECK(read(gzip(head) + gzip(tail)));
  CHECK(read(zstd(head) + zstd("") + zstd(tail)));
  CHECK(read(std::string("\x5A\x2A\x4D\x18\x03\0\0\0abc", 11) + zstd(text)));  // a skippable frame first
  CHECK(read(xz(head) + std::string(8, '\0') + xz(tail)));  // padding between streams
}

TEST_CASE("a truncated or damaged archive is an error with the file and the byte") {
  const TemporaryDirectory dir;
  const std::string text = long_text();
  const auto error = [&](const std::string& bytes) {
    write_file(dir / "t.txt", bytes);
    return error_of<DataError>([&] { documents_of({dir / "t.txt"}); });
  };
  const std::string where = "[" + dir.path() + "/t.txt] ";
  for (const auto& [name, archive] : {std::pair<std::string, std::string>{"gzip", test::gzip(text)}, {"zstd", test::zstd(text)}, {"xz", test::xz(text)}}) {
    INFO(name);
    for (const size_t size : {size_t{10}, archive.size() / 2, archive.size() - 1})
      CHECK(error(archive.substr(0, size)) == where + "expected a whole " + name + " archive, got a truncated one that ends at byte " + std::to_string(size));
    std::string damaged = archive;
    damaged[archive.size() / 2] = static_cast<char>(damaged[archive.size() / 2] ^ 0x55);
    const std::string got = error(damaged), begin = where + "expected " + name + " data, got damage, found at byte ";
    REQUIRE(got.starts_with(begin));
    const size_t byte = std::stoul(got.substr(begin.size()));
    CHECK(byte + 128 * 1024 > archive.size() / 2);  // zstd: where the block begins, or a little before
    CHECK(byte <= archive.size());
    // Every byte is the archive's: what stands behind it is damage where it begins, give or take a header.
    const std::string followed = error(archive + "not compressed, and as long as a header");
    REQUIRE(followed.starts_with(begin));
    CHECK(std::stoul(followed.substr(begin.size())) >= archive.size());
    CHECK(std::stoul(followed.substr(begin.size())) <= archive.size() + 12);
  }
}

TEST_CASE("a JSON line is a document, its field's lines are the paragraphs") {
  const TemporaryDirectory dir;
  const std::string lines =
      "{\"text\": \"one\\r\\ntwo \\u00e9\\n\\n three\", \"id\": [1, {\"text\": \"no\"}]}\n\n"
      "{\"title\": \"Title\", \"text\": \"four\"}\n{\"text\": \"\", \"title\": \"Empty\"}\n{\"text\": \"\\ud83d\\ude00\"}";
  const Paragraphs expected = {{"one", "two \u00e9", " three"}, {"four"}, {"\U0001F600"}};
  write_file(dir / "a.jsonl", lines);
  CHECK(documents_of({dir / "a.jsonl"}) == expected);
  write_file(dir / "a.jsonl.gz", test::zstd(lines));  // told by content
  CHECK(documents_of({dir / "a.jsonl.gz"}) == expected);
  write_file(dir / "a.txt", lines);
  CorpusOptions o;
  CHECK(documents_of({dir / "a.txt"}).size() == 2);  // text, with a blank line
  o.format = CorpusFormat::json_lines;
  CHECK(documents_of({dir / "a.txt"}, o) == expected);
  o.field = "title";
  o.skip_invalid = true;
  CHECK(documents_of({dir / "a.txt"}, o) == Paragraphs{{"Title"}, {"Empty"}});
  o.format = CorpusFormat::text;
  CHECK(documents_of({dir / "a.jsonl"}, o).size() == 2);
}

TEST_CASE("a JSON line without text is refused with its place, or left out and counted") {
  const TemporaryDirectory dir;
  const std::pair<std::string, std::string> bad[] = {
      {"{\"text\": \"a\"", "expected a JSON object, got none: an error at byte 13 of the line"},
      {"plain", "expected a JSON object, got none: an error at byte 1 of the line"},
      {"[\"text\"]", "expected a JSON object, got JSON of type array"},
      {"{\"Text\": \"a\"}", "expected a field 'text', got an object without it"},
      {"{\"text\": null}", "expected a string in the field 'text', got JSON of type null"},
      {"{\"text\": \"\\ud83d\"}", "expected a JSON object, got none: an error at byte 17 of the line"},
      {"{\"text\": \"a\", \"n\": 1e999}", "expected a JSON object, got a number that is out of range"},
      {"{\"text\": \"a\\u0000\"}", "expected text, got binary data: a NUL at byte 2 of the line"},
      {"{\"text\": \"a\xFF\"}", "expected UTF-8, got another encoding at byte 12 of the line"}};
  for (const auto& [line, message] : bad) {
    write_file(dir / "t.jsonl", "{\"text\": \"good\"}\n" + line + "\n{\"text\": \"last\"}\n");
    CHECK(error_of<DataError>([&] { documents_of({dir / "t.jsonl"}); }) == "[" + dir.path() + "/t.jsonl:2] " + message + " (--skip-invalid leaves such lines out)");
    CorpusOptions o;
    o.skip_invalid = true;
    CorpusReader reader(corpus_files({dir / "t.jsonl"}), o);
    Document d;
    int documents = 0;
    while (reader.next(d)) ++documents;
    CHECK(documents == 2);
    CHECK(reader.skipped_lines() == 1);
  }
}

TEST_CASE("a paragraph that came before is left out, and counted") {
  const TemporaryDirectory dir;
  write_file(dir / "a.txt", "one\ntwo\none\n\ntwo\n\nthree\ne\u0301\n");
  write_file(dir / "b.txt", "One\nthree\r\n\u00e9\n");
  CorpusOptions o;
  o.deduplicate = true;
  CHECK(documents_of({dir.path()}, o) == Paragraphs{{"one", "two"}, {"three", "e\u0301"}, {"One", "\u00e9"}});
  o.normal_form = unicode::NormalForm::nfc;  // comes first
  CHECK(documents_of({dir.path()}, o) == Paragraphs{{"one", "two"}, {"three", "\u00e9"}, {"One"}});
  CorpusReader reader(corpus_files({dir.path()}), o);
  for (Document d; reader.next(d);) {}
  CHECK(reader.duplicates() == 4);
}

TEST_CASE("a set of hashes holds each once, in the memory it states") {
  HashSet set;
  std::set<uint64_t> expected;
  size_t most = 0;
  for (uint64_t i = 0; i < 100000; ++i) {
    // Zero, runs of neighbours, and values that differ in the high bits alone.
    const uint64_t hash = i % 3 == 0 ? i % 2000 : i % 3 == 1 ? (i % 50000) << 40 : i * 0x9E3779B97F4A7C15u;
    REQUIRE(set.insert(hash) == expected.insert(hash).second);
    if (expected.size() > 1000) most = std::max(most, set.bytes() / expected.size());
  }
  CHECK(expected.size() > 40000);
  CHECK(most <= 21);
}

TEST_CASE("text is brought to a normal form where that is asked for") {
  const TemporaryDirectory dir;
  write_file(dir / "t.txt", "e\u0301 \ufb01 \uff21\n\u00a0\nplain\n");
  CHECK(documents_of({dir / "t.txt"}) == Paragraphs{{"e\u0301 \ufb01 \uff21", "\u00a0", "plain"}});
  CorpusOptions o;
  o.normal_form = unicode::NormalForm::nfc;
  CHECK(documents_of({dir / "t.txt"}, o) == Paragraphs{{"\u00e9 \ufb01 \uff21", "\u00a0", "plain"}});
  o.normal_form = unicode::NormalForm::nfkc;
  CHECK(documents_of({dir / "t.txt"}, o) == Paragraphs{{"\u00e9 fi A", "plain"}});  // the space without break became one
}

TEST_CASE("a build reports what it read and wrote, the same for any number of threads") {
  const TemporaryDirectory dir;
  std::string text;
  for (int i = 0; i < 400; ++i) text += "The cat ran " + std::to_string(i % 300) + " to the road.\nIt was red.\n\n";
  DataBuildOptions o = build_options(dir, text);
  o.corpus.deduplicate = true;
  o.corpus.normal_form = unicode::NormalForm::nfkc;
  const DataBuildReport one = build_data(o);
  CHECK(one.documents == 300);
  CHECK(one.paragraphs == 301);
  CHECK(one.duplicate_paragraphs == 499);
  CHECK(one.unknown == 300);
  CHECK(one.lengths.tokens == 300 * 8 + 4);
  CHECK(one.lengths.sentences == 301);
  CHECK(one.lengths.tokens == one.train.tokens + one.heldout.tokens);
  CHECK(one.lengths.longest == 8);
  CHECK(one.lengths.counts == std::array<int64_t, 6>{301, 0, 0, 0, 0, 0});
  CHECK(one.text_bytes == text.size());
  CHECK(one.seconds > 0);
  const auto json = nlohmann::json::parse(report_json(one));
  CHECK(json["duplicate_paragraphs"] == 499);
  CHECK(json["unknown_rate"] == Approx(300.0 / 2404));
  CHECK(json["sentence_lengths"]["mean"] == Approx(2404.0 / 301));
  CHECK(json["tokens_per_second"] == Approx(2404 / one.seconds));
  CHECK(report_text(one).find("pieces            300 [UNK] of 2404 (12.4792 %)\n") != std::string::npos);
  const std::string bin = read_file(dir / "d/train.bin"), idx = read_file(dir / "d/train.idx"), sidecar = read_file(dir / "d/train.json"), heldout = read_file(dir / "d/heldout.bin");
  o.threads = 3;
  CHECK(build_data(o).lengths.counts == one.lengths.counts);
  CHECK(read_file(dir / "d/train.bin") == bin);
  CHECK(read_file(dir / "d/train.idx") == idx);
  CHECK(read_file(dir / "d/train.json") == sidecar);
  CHECK(read_file(dir / "d/heldout.bin") == heldout);
}

TEST_CASE("sentence lengths fall into the bin whose limit they reach") {
  SentenceLengths lengths;
  for (const int n : {1, 8, 9, 16, 17, 32, 64, 65, 128, 129, 1000}) lengths.add(n);
  CHECK(lengths.counts == std::array<int64_t, 6>{2, 2, 2, 1, 2, 2});
  CHECK(lengths.longest == 1000);
  CHECK(lengths.text() == "to 8: 2, 16: 2, 32: 2, 64: 1, 128: 2, more: 2; mean 133.5, longest 1000");
}

TEST_CASE("a line that cannot be held is refused before it is") {
  const TemporaryDirectory dir;
  CorpusOptions o;
  o.max_line_bytes = 1000;
  write_file(dir / "t.txt", "ok\n" + std::string(1000, 'a') + "\n");
  CHECK(documents_of({dir / "t.txt"}, o).size() == 1);
  write_file(dir / "t.txt", test::gzip("ok\n" + std::string(10'000'000, 'a')));
  CHECK(error_of<DataError>([&] { documents_of({dir / "t.txt"}, o); }) == "[" + dir.path() + "/t.txt:2] expected a line of at most 1000 bytes, got a longer one");
}

TEST_CASE("a pipe is read as it comes") {
  const TemporaryDirectory dir;
  const std::string text = small_text(40);
  write_file(dir / "t.txt", text);
  const Paragraphs expected = documents_of({dir / "t.txt"});
  for (const std::string& bytes : {text, test::gzip(text), test::zstd(text), test::xz(text)}) {
    fs::remove(dir / "pipe");
    REQUIRE(mkfifo((dir / "pipe").c_str(), 0600) == 0);
    const pid_t writer = fork();
    if (writer == 0) {
      const int to = open((dir / "pipe").c_str(), O_WRONLY);
      for (size_t at = 0; at < bytes.size(); at += 3) {  // in pieces shorter than what tells the compression
        if (write(to, bytes.data() + at, std::min<size_t>(3, bytes.size() - at)) < 0) _exit(1);
        if (at < 6) usleep(20000);
      }
      _exit(0);
    }
    CHECK(documents_of({dir / "pipe"}) == expected);
    CHECK(test::wait_for(writer) == 0);
  }
}

TEST_CASE("a build from standard input is the build from the file, and leaves no copy") {
  const TemporaryDirectory dir;
  DataBuildOptions o = build_options(dir, small_text(300));
  build_data(o);
  write_file(dir / "t.zst", test::zstd(small_text(300)));
  o.texts = {"-"};
  o.out = dir / "piped";
  const int status = test::in_child([&] {
    int ends[2];
    if (pipe(ends) != 0) return 125;
    const pid_t writer = fork();
    if (writer == 0) {
      const std::string bytes = read_file(dir / "t.zst");
      _exit(write(ends[1], bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()) ? 0 : 1);
    }
    close(ends[1]);
    dup2(ends[0], STDIN_FILENO);
    build_data(o);
    return test::wait_for(writer);
  });
  CHECK(status == 0);
  for (const char* file : {"train.bin", "train.idx", "train.json", "heldout.bin"}) CHECK(read_file(dir / "piped" + "/" + file) == read_file(dir / "d" + "/" + file));
  CHECK(std::distance(fs::directory_iterator(dir / "piped"), {}) == std::distance(fs::directory_iterator(dir / "d"), {}));
}

TEST_CASE("under fixed no piece is lost, none stands twice, and no example crosses a document") {
  const TemporaryDirectory dir;
  const TokenShard shard = make_shard(dir, many_documents());
  for (const int64_t length : {5, 16, 64, 512}) {
    ExampleOptions options;
    options.seq_len = length;
    options.seed = 3;
    const ExampleIndex index(shard, options, kSpecial);
    CHECK(index.share_kept() == 1);
    std::vector<int32_t> all, ids(512), segments(512);
    int64_t two_segments = 0;
    for (int64_t i = 0; i < index.size(); ++i) {
      const Example& e = index[i];
      const int64_t n = index.length(i);
      REQUIRE(n <= length);
      REQUIRE(e.first > 0);
      index.build(i, ids.data(), segments.data());
      CHECK(ids[0] == kSpecial.cls);
      CHECK(ids[static_cast<size_t>(n - 1)] == kSpecial.sep);
      CHECK(std::count(ids.begin(), ids.begin() + n, kSpecial.sep) == (e.second > 0 ? 2 : 1));
      CHECK(std::count(segments.begin(), segments.begin() + n, 1) == (e.second > 0 ? e.second + 1 : 0));
      two_segments += e.second > 0;
      for (int64_t t = 0; t < n; ++t)
        if (ids[static_cast<size_t>(t)] >= 5) all.push_back(ids[static_cast<size_t>(t)]);
    }
    // In order, examples laid end to end are the shard.
    REQUIRE(static_cast<int64_t>(all.size()) == shard.tokens());
    for (int64_t t = 0; t < shard.tokens(); ++t) REQUIRE(all[static_cast<size_t>(t)] == shard.token(t));
    if (length == 64) CHECK(two_segments > index.size() / 4);
  }
}

TEST_CASE("under google what overflows an example is thrown away and sentences begin examples") {
  const TemporaryDirectory dir;
  const TokenShard shard = make_shard(dir, many_documents());
  ExampleOptions options;
  options.seq_len = 32;
  options.overflow = Overflow::google;
  const ExampleIndex index(shard, options, kSpecial);
  CHECK(index.share_kept() < 0.9);
  std::vector<int32_t> ids(32), segments(32);
  for (int64_t i = 0; i < index.size(); ++i) {
    const Example& e = index[i];
    index.build(i, ids.data(), segments.data());
    // The first segment begins with the first sentence of the example.
    CHECK(ids[1] == shard.token(shard.start(shard.first_sentence(e.document) + e.begin)));
    CHECK(std::count(ids.begin(), ids.begin() + index.length(i), 0) == 0);
  }
}

TEST_CASE("one segment or two: the original's rule on a document made for it") {
  // Target 16 − 3 = 13, half of it 6: sentences of 3 fill the first segment while it stays below 6.
  const TemporaryDirectory dir;
  const TokenShard shard = make_shard(dir, {{3, 3, 3, 3, 3}});
  ExampleOptions options;
  options.seq_len = 16;
  options.single_segment = 0;
  options.random_length = 0;
  options.spill = 0;
  const ExampleIndex two(shard, options, kSpecial);
  REQUIRE(two.size() == 2);
  CHECK(two[0].first == 3);    // 3 + 3 is not below 6
  CHECK(two[0].second == 10);  // 16 − 3 − 3 of the other 12
  CHECK(two[1].first == 2);    // what overflowed
  options.spill = 1;           // the coin always falls for the first segment while it is below 6
  const ExampleIndex spilled(shard, options, kSpecial);
  CHECK(spilled[0].first == 6);
  options.single_segment = 1;
  const ExampleIndex one(shard, options, kSpecial);
  CHECK(one[0].first == 14);
  CHECK(one[0].second == 0);
}

TEST_CASE("examples are a function of seed and document") {
  const TemporaryDirectory dir;
  const TokenShard shard = make_shard(dir, many_documents());
  ExampleOptions options;
  options.seq_len = 32;
  const auto lengths = [&](uint64_t seed) {
    options.seed = seed;
    const ExampleIndex index(shard, options, kSpecial);
    std::vector<int64_t> all;
    for (int64_t i = 0; i < index.size(); ++i) all.push_back(index[i].first * 1000 + index[i].second);
    return all;
  };
  CHECK(lengths(1) == lengths(1));
  CHECK(lengths(1) != lengths(2));
  options.seq_len = 4;
  CHECK_THROWS_AS(ExampleIndex(shard, options, kSpecial), ConfigError);
}

namespace {

// Standard error without what the log says of plans made anew.
struct Quiet {
  Quiet() { log::set_level("error"); }
  ~Quiet() { log::set_level("info"); }
};

// Everything an index says of its examples.
std::vector<std::vector<int32_t>> content(const ExampleIndex& index) {
  std::vector<std::vector<int32_t>> all;
  for (int64_t i = 0; i < index.size(); ++i) {
    std::vector<int32_t> ids(static_cast<size_t>(index.length(i))), segments(ids.size());
    index.build(i, ids.data(), segments.data());
    ids.insert(ids.end(), segments.begin(), segments.end());
    all.push_back(std::move(ids));
  }
  return all;
}

}  // namespace

TEST_CASE("a plan of examples is made once, and again where it is not the shard's or is damaged") {
  const Quiet quiet;
  const TemporaryDirectory dir;
  const TokenShard shard = make_shard(dir, many_documents());
  for (const Overflow overflow : {Overflow::fixed, Overflow::google}) {
    const ExampleOptions options{.seq_len = 32, .overflow = overflow, .seed = 7};
    const fs::path path = plan_path(dir.path(), "train", options);
    CHECK(path == dir.path() + (overflow == Overflow::fixed ? "/train-32-7.plan" : "/train-32-7-google.plan"));
    const auto expected = content(ExampleIndex(shard, options, kSpecial));
    CHECK(!fs::exists(path));  // without a path there is no file
    const auto open = [&] { return ExampleIndex(shard, options, kSpecial, path); };
    CHECK(content(open()) == expected);
    const std::string good = read_file(path);
    CHECK(good.size() == 64 + 16 * expected.size());
    const auto written = fs::last_write_time(path) - std::chrono::hours(1);
    fs::last_write_time(path, written);
    CHECK(content(open()) == expected);
    CHECK(fs::last_write_time(path) == written);  // it was read and not made
    int64_t tokens = 0;
    for (const auto& e : expected) tokens += static_cast<int64_t>(e.size() / 2);
    CHECK(open().tokens() == tokens);

    const auto remade = [&](const std::string& bytes) {
      write_file(path.string(), bytes);
      CHECK(content(open()) == expected);
      CHECK((read_file(path) == good));
    };
    for (size_t at = 0; at < good.size(); at += at < 64 ? 1 : 37) {
      std::string flipped = good;
      flipped[at] = static_cast<char>(flipped[at] ^ 4);
      remade(flipped);
    }
    remade("");
    remade(good.substr(0, 63));
    remade(good.substr(0, good.size() - 16));
    remade(good.substr(0, good.size() - 1));
    remade(good + std::string(16, '\0'));
    // Another probability, another length, another shard under the same name.
    ExampleOptions other = options;
    other.single_segment = 0.5;
    ExampleIndex(shard, other, kSpecial, path);
    CHECK((read_file(path) != good));
    remade(read_file(path));
    const TemporaryDirectory second;
    ExampleIndex(make_shard(second, {{3, 4}, {5}}), options, kSpecial, path);
    remade(read_file(path));
    for (const auto& entry : fs::directory_iterator(dir.path())) CHECK(entry.path().string().find(".tmp-") == std::string::npos);
  }
}

TEST_CASE("a plan that was forged with good checksums is refused where it leaves its document") {
  const Quiet quiet;
  const TemporaryDirectory dir;
  const TokenShard shard = make_shard(dir, {{3, 4}, {5}});
  const ExampleOptions options{.seq_len = 16};
  const fs::path path = dir / "train-16-0.plan";
  { ExampleIndex(shard, options, kSpecial, path); }
  const std::string good = read_file(path);
  uint64_t key;
  std::memcpy(&key, good.data() + 16, sizeof key);
  const std::vector<Example> bad = {{2, 0, 0, 3, 0}, {0, 0, 0, 8, 0}, {0, 0, 5, 3, 0}, {1, 0, 0, 0, 0}, {0, 0, 0xFFFFFFFF, 1, 0}, {0, 0, 0, 5, 9}};
  for (const Example& e : bad) {
    ExamplePlanWriter writer(path, key);
    writer.add(e);
    writer.finish();
    REQUIRE(ExamplePlan(MappedFile(path), path, key).examples().size() == 1);
    ExampleIndex(shard, options, kSpecial, path);
    CHECK((read_file(path) == good));
  }
  // Sums that are not those of the examples.
  std::string forged = good;
  forged[32] = static_cast<char>(forged[32] + 1);
  const uint64_t sum = xxh64(std::string_view(forged).substr(0, 56));
  std::memcpy(forged.data() + 56, &sum, sizeof sum);
  write_file(path.string(), forged);
  REQUIRE_NOTHROW(ExamplePlan(MappedFile(path), path, key));
  ExampleIndex(shard, options, kSpecial, path);
  CHECK((read_file(path) == good));
}

TEST_CASE("what is wrong with a plan is said") {
  const TemporaryDirectory dir;
  const TokenShard shard = make_shard(dir, {{3, 4}, {5}});
  { ExampleIndex(shard, {.seq_len = 16}, kSpecial, dir / "p"); }
  const std::string good = read_file(dir / "p"), where = "[" + (dir / "p") + "] ";
  uint64_t key;
  std::memcpy(&key, good.data() + 16, sizeof key);
  const auto error = [&](const std::string& bytes, uint64_t k) {
    write_file(dir / "p", bytes);
    return error_of<DataError>([&] { ExamplePlan(MappedFile(dir / "p"), dir / "p", k); });
  };
  const auto with = [&](size_t at, char c) {
    std::string bytes = good;
    bytes[at] = c;
    return bytes;
  };
  CHECK(error(good, key) == "no error");
  CHECK(error(good.substr(0, 40), key) == where + "expected the header of a plan of examples, got 40 bytes");
  CHECK(error(with(0, 'X'), key) == where + "expected a plan of examples, got a file of " + std::to_string(good.size()) + " bytes without its magic number");
  CHECK(error(with(8, 2), key) == where + "expected version 1 of a plan with 16 bytes an example, got version 2 with 16");
  CHECK(error(with(24, 99), key).starts_with(where + "expected header checksum "));
  CHECK(error(good, key + 1) == where + "expected a plan of these shards and options, " + hex64(key + 1) + ", got another's, " + hex64(key));
  CHECK(error(good + "x", key) == where + "expected " + std::to_string((good.size() - 64) / 16) + " examples of 16 bytes, got " + std::to_string(good.size() - 63) + " bytes");
  CHECK(error(with(good.size() - 1, 99), key).starts_with(where + "expected checksum "));
}

TEST_CASE("where no plan can be kept one is made for the process alone") {
  const Quiet quiet;
  const TemporaryDirectory dir;
  const TokenShard shard = make_shard(dir, many_documents());
  const ExampleOptions options{.seq_len = 32};
  const auto expected = content(ExampleIndex(shard, options, kSpecial));
  CHECK(content(ExampleIndex(shard, options, kSpecial, dir / "none/train-32-0.plan")) == expected);
  CHECK(!fs::exists(dir / "none"));
}

TEST_CASE("an epoch's order is a permutation that changes with seed and epoch") {
  for (const int64_t size : {1, 2, 3, 17, 64, 1000}) {
    std::set<int64_t> seen;
    const EpochOrder order(size, 5, 0);
    for (int64_t i = 0; i < size; ++i) {
      CHECK(order(i) >= 0);
      CHECK(order(i) < size);
      seen.insert(order(i));
    }
    CHECK(static_cast<int64_t>(seen.size()) == size);
  }
  int same_epoch = 0, same_seed = 0, fixed = 0;
  for (int64_t i = 0; i < 1000; ++i) {
    same_epoch += EpochOrder(1000, 5, 0)(i) == EpochOrder(1000, 6, 0)(i);
    same_seed += EpochOrder(1000, 5, 0)(i) == EpochOrder(1000, 5, 1)(i);
    fixed += EpochOrder(1000, 5, 0)(i) == i;
  }
  for (const int n : {same_epoch, same_seed, fixed}) CHECK(n < 12);  // one in a thousand is expected of a random order
}

TEST_CASE("the loader hands out the same batches from any place on") {
  const TemporaryDirectory dir;
  const TokenShard shard = make_shard(dir, many_documents());
  ExampleOptions options;
  options.seq_len = 32;
  const ExampleIndex index(shard, options, kSpecial);
  for (const BatchShape shape : {BatchShape{4, 128, 32}, BatchShape{20, 96, 32}}) {
    std::vector<PackedBatch> expected;
    LoaderState state;
    for (int i = 0; i < 60; ++i) {  // more than an epoch
      fill_batch(index, shape, 9, state, expected.emplace_back(shape));
      state = expected.back().after;
    }
    CHECK(state.epoch >= 1);
    for (int from = 0; from < 60; ++from) {
      Loader loader(index, shape, 9, from == 0 ? LoaderState{} : expected[static_cast<size_t>(from - 1)].after);
      PackedBatch batch(shape);
      for (size_t i = static_cast<size_t>(from); i < expected.size(); ++i) {
        loader.next(batch);
        REQUIRE(batch.ids == expected[i].ids);
        REQUIRE(batch.segments == expected[i].segments);
        REQUIRE(batch.sequence_offsets == expected[i].sequence_offsets);
        REQUIRE(batch.after == expected[i].after);
        REQUIRE(batch.tokens <= shape.tokens);
        REQUIRE(batch.sequence_offsets.back() == batch.tokens);
      }
    }
  }
}

TEST_CASE("batches by tokens are filled to 98 percent and have every example of an epoch once") {
  const TemporaryDirectory dir;
  std::vector<std::vector<int>> documents;
  for (int d = 0; d < 300; ++d) {
    documents.emplace_back();
    for (int s = 0; s < 10 + d % 40; ++s) documents.back().push_back(4 + (d * 7 + s * 11) % 50);
  }
  const TokenShard shard = make_shard(dir, documents);
  for (const int64_t length : {64, 128}) {
    const ExampleIndex index(shard, {.seq_len = length, .seed = 2}, kSpecial);
    for (const int64_t tokens : {1600, 2048, 8192}) {
      const BatchShape shape{2 * ((tokens + length - 1) / length), tokens, length};
      INFO(length << " " << tokens);
      CHECK(packing_efficiency(index, shape, 3, 40) >= 0.98);
      // Each example is long enough to be told by its ids, or by its count.
      std::map<std::vector<int32_t>, int64_t> expected, got;
      for (int64_t i = 0; i < index.size(); ++i) {
        std::vector<int32_t> ids(static_cast<size_t>(index.length(i))), segments(ids.size());
        index.build(i, ids.data(), segments.data());
        expected[ids] += 2;
      }
      LoaderState state;
      int64_t sequences = 0, waiting = 0;
      PackedBatch batch(shape);
      while (state.epoch < 2) {
        fill_batch(index, shape, 3, state, batch);
        state = batch.after;
        REQUIRE(batch.tokens <= tokens);
        CHECK(std::all_of(batch.ids.begin() + batch.tokens, batch.ids.end(), [](int32_t id) { return id == 0; }));
        waiting += state.taken != 0;
        CHECK((state.taken & 1) == 0);
        for (int64_t s = 0; s < batch.sequences; ++s)
          ++got[{batch.ids.begin() + batch.sequence_offsets[static_cast<size_t>(s)], batch.ids.begin() + batch.sequence_offsets[static_cast<size_t>(s + 1)]}];
        sequences += batch.sequences;
      }
      CHECK(waiting > 0);
      // Two epochs, and what the third has begun with.
      int64_t more = 0;
      for (const auto& [ids, n] : expected) {
        REQUIRE(got[ids] >= n);
        more += got[ids] - n;
      }
      CHECK(sequences == 2 * index.size() + state.next + std::popcount(state.taken));
      CHECK(more == state.next + std::popcount(state.taken));
    }
  }
  // The end of an epoch is the beginning of the next.
  {
    const ExampleIndex index(shard, {.seq_len = 64}, kSpecial);
    PackedBatch a({16, 1024, 64}), b({16, 1024, 64});
    fill_batch(index, {16, 1024, 64}, 3, {0, index.size(), 0}, a);
    fill_batch(index, {16, 1024, 64}, 3, {1, 0, 0}, b);
    CHECK(a.ids == b.ids);
    CHECK(a.after == b.after);
  }
  // By sequences nothing waits, and the order is the epoch's.
  const ExampleIndex index(shard, {.seq_len = 64}, kSpecial);
  PackedBatch batch({16, 16 * 64, 64});
  fill_batch(index, {16, 16 * 64, 64}, 3, {}, batch);
  CHECK(batch.after == LoaderState{0, 16, 0});
  CHECK(packing_efficiency(index, {16, 16 * 64, 64}, 3, 1) == batch.tokens / (16 * 64.0));
}

TEST_CASE("fewer examples than a batch looks ahead are each in every epoch once") {
  const TemporaryDirectory dir;
  const TokenShard shard = make_shard(dir, {{3, 4}, {5}, {20, 9, 9}, {2}});
  const ExampleIndex index(shard, {.seq_len = 16}, kSpecial);
  const BatchShape shape{40, 40, 16};
  std::map<int64_t, int64_t> lengths, expected;
  for (int64_t i = 0; i < index.size(); ++i) ++expected[index.length(i)];
  LoaderState state;
  PackedBatch batch(shape);
  int64_t sequences = 0;
  while (state.epoch < 1000 || state.next != 0 || state.taken != 0) {
    fill_batch(index, shape, 3, state, batch);
    state = batch.after;
    sequences += batch.sequences;
    for (int64_t s = 0; s < batch.sequences; ++s) ++lengths[batch.sequence_offsets[static_cast<size_t>(s + 1)] - batch.sequence_offsets[static_cast<size_t>(s)]];
    REQUIRE(state.epoch < 100000);
  }
  CHECK(sequences == state.epoch * index.size());
  for (const auto& [length, n] : expected) CHECK(lengths[length] == state.epoch * n);
}

TEST_CASE("several indices give their shares exactly, each in its own epochs without a gap") {
  const TemporaryDirectory dir, second, third;
  const TokenShard a = make_shard(dir, many_documents()), b = make_shard(second, {{3, 4}, {5}, {20, 9, 9}}), c = make_shard(third, many_documents());
  const ExampleOptions options{.seq_len = 16};
  const ExampleIndex x(a, options, kSpecial), y(b, options, kSpecial), z(c, options, kSpecial);
  const ExampleStream stream({&x, &y, &z}, {1, 2.0 / 3, 1e-9});
  CHECK(stream.share(0) == 2457.0 / 4096);  // three fifths, a little less for what the third has
  CHECK(stream.share(1) == 1638.0 / 4096);
  CHECK(stream.share(2) == 1.0 / 4096);
  std::map<const ExampleIndex*, std::vector<int64_t>> seen;
  int together = 0;
  const ExampleIndex* last = nullptr;
  for (int64_t i = 0; i < 3 * 4096; ++i) {
    const auto place = stream.at(5, {0, i});
    seen[place.index].push_back(place.number);
    together += place.index == last;
    last = place.index;
    if (i % 4096 == 4095) {
      CHECK(seen[&x].size() == static_cast<size_t>(2457 * (i / 4096 + 1)));
      CHECK(seen[&y].size() == static_cast<size_t>(1638 * (i / 4096 + 1)));
      CHECK(seen[&z].size() == static_cast<size_t>(i / 4096 + 1));
    }
  }
  CHECK(together > 3 * 4096 * 0.49);  // of a shuffled order: 0.6² + 0.4² = 0.52 stand beside one of their own
  CHECK(together < 3 * 4096 * 0.55);
  for (const auto& [index, numbers] : seen) {  // as often as any other, but for the epoch that has begun
    std::map<int64_t, int64_t> times;
    for (const int64_t n : numbers) ++times[n];
    const auto epochs = static_cast<int64_t>(numbers.size()) / index->size();
    for (int64_t n = 0; n < index->size(); ++n) {
      REQUIRE(times[n] >= epochs);
      REQUIRE(times[n] <= epochs + 1);
    }
  }
  CHECK(x.size() == z.size());
  CHECK(seen[&x][0] != seen[&z][0]);  // equal sets do not go in step
  // One index is what it is alone.
  const ExampleStream one({&x}, {3});
  CHECK(one.epoch_size() == x.size());
  CHECK(one.at(5, {2, 7}).number == EpochOrder(x.size(), 5, 2)(7));
  CHECK(one.share(0) == 1);
  // Shares that cannot all be had: each index has one place, the others the rest.
  std::vector<const ExampleIndex*> many(1024, &x);
  std::vector<double> weights(1024, 1e-6);
  weights[3] = 1;
  const ExampleStream lopsided(many, weights);
  CHECK(lopsided.share(3) == (4096 - 1023) / 4096.0);
  CHECK(lopsided.share(1023) == 1 / 4096.0);
  many.push_back(&x);
  weights.push_back(1);
  CHECK(error_of<ConfigError>([&] { ExampleStream(many, weights); }) == "[loader] expected 1 to 1024 indices with a weight each, got 1025 with 1025 weights");
  CHECK(error_of<ConfigError>([&] { ExampleStream({&x, &y}, {1}); }).find("got 2 with 1 weights") != std::string::npos);
  CHECK(error_of<ConfigError>([&] { ExampleStream({&x, &y}, {1, 0}); }) == "[loader] expected weights above 0, got 0.000000");
}

TEST_CASE("a mixture is resumed at any batch, bit for bit, and the same for both sides of it") {
  const TemporaryDirectory dir, second;
  const TokenShard a = make_shard(dir, many_documents()), b = make_shard(second, {{3, 4}, {5}, {20, 9, 9}});
  const ExampleOptions options{.seq_len = 16};
  const ExampleIndex x(a, options, kSpecial), y(b, options, kSpecial);
  const ExampleStream stream({&x, &y}, {1, 3});
  const BatchShape shape{20, 96, 16};
  std::vector<PackedBatch> expected;
  LoaderState state{0, 4000};
  for (int i = 0; i < 60; ++i) {
    fill_batch(stream, shape, 9, state, expected.emplace_back(shape));
    state = expected.back().after;
  }
  CHECK(state.epoch == 0);
  CHECK(state.next > 4096);  // into the next round
  for (size_t from = 1; from < expected.size(); ++from) {
    Loader loader(stream, shape, 9, expected[from - 1].after);
    PackedBatch batch(shape);
    for (size_t i = from; i < std::min(from + 3, expected.size()); ++i) {
      loader.next(batch);
      REQUIRE(batch.ids == expected[i].ids);
      REQUIRE(batch.segments == expected[i].segments);
      REQUIRE(batch.sequence_offsets == expected[i].sequence_offsets);
      REQUIRE(batch.after == expected[i].after);
    }
  }
  // A place far into a run is entered at once: nothing before it is looked at.
  PackedBatch far(shape);
  fill_batch(stream, shape, 9, {0, int64_t{1} << 50}, far);
  CHECK(far.sequences > 0);
  // Held-out batches: from each in turn, all of each.
  int64_t sequences = 0;
  const auto batches = fixed_batches({&x, &y}, shape, 0);
  for (const PackedBatch& batch : batches) sequences += batch.sequences;
  CHECK(sequences == x.size() + y.size());
  CHECK(batches[1].ids == fixed_batches(y, shape, 0)[0].ids);
  CHECK(fixed_batches({&x, &y}, shape, 3).size() == 3);
}

TEST_CASE("data sets of a run have one vocabulary and one tokenizer") {
  const TemporaryDirectory dir;
  DataBuildOptions o = build_options(dir, small_text(50));
  build_data(o);
  o.out = dir / "e";
  o.tokenizer.lowercase = false;
  build_data(o);
  o.out = dir / "f";
  write_file(dir / "v.txt", kVocabulary + "blue\n");
  build_data(o);
  o.out = dir / "g";
  write_file(dir / "v.txt", kVocabulary);
  o.tokenizer.lowercase = true;
  write_file(dir / "t.txt", small_text(60));
  build_data(o);
  const auto open = [&](const std::vector<std::string>& names) {
    std::vector<std::string> paths;
    for (const std::string& name : names) paths.push_back(dir / name);
    return error_of<DataError>([&] { DataSets sets(paths); });
  };
  CHECK(open({"d", "g"}) == "no error");
  CHECK(open({"d", "e"}) == "[" + (dir / "e/train.json") + "] expected the tokenizer of " + (dir / "d") +
                               " (mode hf, lower case yes, accents stripped yes, Chinese split yes), got mode hf, lower case no, accents stripped no, Chinese split yes");
  CHECK(open({"d", "g", "f"}).find("f/train.json] expected the vocabulary of " + (dir / "d") + ", sha256 ") != std::string::npos);
  const DataSets both({dir / "d", dir / "g"}), one({dir / "d"}), swapped({dir / "g", dir / "d"});
  CHECK(both.checksum() != one.checksum());
  CHECK(both.checksum() != swapped.checksum());
  CHECK(both.heldout_tokens() == both[0].heldout().tokens() + both[1].heldout().tokens());
  CHECK(one.heldout_unigram_entropy() == one.first().heldout_unigram_entropy());
  CHECK(example_indices(both, Side::train, {}).size() == 2);
  CHECK(fs::exists(dir / "g/train-128-0.plan"));
  CHECK(data_directories(dir / "d" + "," + (dir / "g")) == std::vector{dir / "d", dir / "g"});
  CHECK(data_directories("a,,b") == std::vector<std::string>{"a", "", "b"});
  fs::create_directory(dir / "a,b");
  CHECK(data_directories(dir / "a,b") == std::vector{dir / "a,b"});
}

// A sanitizer keeps what was freed, and shadows of what is touched.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

namespace {

// Memory of this process that is no file's, in bytes; what the allocator holds free is given back first.
int64_t anonymous_bytes() {
  malloc_trim(0);
  std::istringstream status(test::read_file(std::string("/proc/self/status")));
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("RssAnon:")) return std::stoll(line.substr(8)) * 1024;
  return -1;
}

}  // namespace

TEST_CASE("memory neither grows with the examples nor with time") {
  const TemporaryDirectory dir;
  {
    TokenShardWriter writer(dir / "s", 18);
    std::vector<int32_t> ids;
    for (int32_t d = 0; d < 400000; ++d) {
      ids.assign(static_cast<size_t>(3 + d % 20), 5 + d % 13);
      writer.add_sentence(ids);
      writer.end_document();
    }
    writer.finish({});
  }
  const ExampleOptions options{.seq_len = 32};
  const fs::path path = plan_path(dir.path(), "s", options);
  const int64_t before = anonymous_bytes();
  REQUIRE(before > 0);
  const TokenShard shard(dir / "s");
  constexpr int64_t kMost = 2 << 20;  // 400,000 examples of 16 bytes are 6.4 MB
  for (const bool made : {true, false}) {  // written, then read
    const ExampleIndex index(shard, options, kSpecial, path);
    REQUIRE(index.size() == 400000);
    CHECK(fs::file_size(path) == 64 + 16 * 400000u);
    INFO(made);
    CHECK(anonymous_bytes() - before < kMost);
    const ExampleStream mixture({&index, &index}, {1, 2});
    for (const auto& [stream, shape] : {std::pair<ExampleStream, BatchShape>{index, {8, 256, 32}}, {index, {40, 500, 32}}, {mixture, {40, 500, 32}}}) {
      Loader loader(stream, shape, 1, {});
      PackedBatch batch(shape);
      for (int i = 0; i < 100; ++i) loader.next(batch);
      const int64_t begun = anonymous_bytes();
      for (int i = 0; i < 15000; ++i) loader.next(batch);
      // Ten bytes a batch would be 150 kB.
      CHECK(anonymous_bytes() - begun < 128 << 10);
      CHECK((batch.after.epoch > 0 || batch.after.next > 100000));
    }
  }
}

#endif

TEST_CASE("the loader stops at once, whatever it has been asked") {
  const TemporaryDirectory dir;
  const TokenShard shard = make_shard(dir, many_documents());
  const ExampleIndex index(shard, {}, kSpecial);
  const BatchShape shape{2, 256, 128};
  PackedBatch batch(shape);
  for (int i = 0; i < 20; ++i) {
    Loader loader(index, shape, 1, {});
    if (i % 2) loader.next(batch);
  }
  CHECK(batch.tokens > 0);
  CHECK_THROWS_AS(Loader(index, shape, 1, LoaderState{0, index.size() + 1}), DataError);
}

TEST_CASE("evaluation sees every example once, in order") {
  const TemporaryDirectory dir;
  const TokenShard shard = make_shard(dir, many_documents());
  ExampleOptions options;
  options.seq_len = 32;
  const ExampleIndex index(shard, options, kSpecial);
  int64_t sequences = 0, tokens = 0;
  for (const PackedBatch& b : fixed_batches(index, {5, 160, 32}, 0)) {
    sequences += b.sequences;
    tokens += b.tokens;
  }
  int64_t expected = 0;
  for (int64_t i = 0; i < index.size(); ++i) expected += index.length(i);
  CHECK(sequences == index.size());
  CHECK(tokens == expected);
  CHECK(index.tokens() == expected);
  CHECK(fixed_batches(index, {5, 160, 32}, 3).size() == 3);
}

namespace {

// Every file of a build, and how it is called.
std::map<std::string, std::string> files_in(const std::string& directory) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(directory)) files[entry.path().filename().string()] = read_file(entry.path().string());
  return files;
}

// Some 120 bytes a document of text, in two files, one of them compressed, with paragraphs that stand twice.
DataBuildOptions long_build(const TemporaryDirectory& dir, int documents) {
  std::string text, lines;
  for (int i = 0; i < documents; ++i) text += "The cat ran " + std::to_string(i % (documents * 3 / 4)) + " to the road.\nIt was red.\nThe dog sat on the mat. It was " + std::to_string(i) + ".\n\n";
  for (int i = 0; i < documents / 10; ++i) lines += "{\"text\": \"The cat ran " + std::to_string(i) + " to the mat.\\nIt was " + std::to_string(i) + ".\"}\n";
  DataBuildOptions o = build_options(dir, text);
  write_file(dir / "u.jsonl", test::gzip(lines));
  o.texts.push_back(dir / "u.jsonl");
  o.corpus.deduplicate = true;
  o.checkpoint_seconds = 0;
  return o;
}

}  // namespace

TEST_CASE("building data is a function of the text, whatever the threads") {
  const TemporaryDirectory dir;
  DataBuildOptions o = build_options(dir, small_text(600));
  const DataBuildReport report = build_data(o);
  CHECK(report.train.tokens > 10000);
  CHECK(report.heldout.tokens > 0);
  const std::string one = read_file(dir / "d/train.bin"), idx = read_file(dir / "d/train.idx"), out = read_file(dir / "d/heldout.bin");
  o.threads = 4;
  build_data(o);  // replaces the earlier build
  CHECK(read_file(dir / "d/train.bin") == one);
  CHECK(read_file(dir / "d/train.idx") == idx);
  CHECK(read_file(dir / "d/heldout.bin") == out);
  const DataSet data(dir / "d");
  CHECK(data.vocabulary().size() == 18);
  CHECK(data.special().mask == 4);
  CHECK(data.heldout_unigram_entropy() > 1);
  CHECK(data.heldout_unigram_entropy() < std::log(18));
}

TEST_CASE("threads do not change a byte, whatever ends documents and sentences") {
  for (const DocumentBoundary boundary : {DocumentBoundary::blank_line, DocumentBoundary::line, DocumentBoundary::file})
    for (const bool split : {true, false})
      for (const double heldout : {0.05, 0.001}) {
        const TemporaryDirectory dir;
        DataBuildOptions o = long_build(dir, 700);
        o.corpus.boundary = boundary;
        o.split_sentences = split;
        o.heldout = heldout;
        std::map<std::string, std::string> expected;
        for (const int threads : {1, 2, 5}) {
          o.threads = threads;
          const DataBuildReport report = build_data(o);
          if (threads == 1) expected = files_in(dir / "d");
          CHECK(files_in(dir / "d") == expected);
          CHECK(report.lengths.sentences > report.paragraphs - 1);
          CHECK((report.lengths.sentences == report.paragraphs) == !split);
        }
      }
}

TEST_CASE("sentences are found in any language, unless a line is one") {
  const TemporaryDirectory dir;
  write_file(dir / "v.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n");
  const std::string text = "Sie kam. Er ging!\n\u041e\u043d\u0430 \u043f\u0440\u0438\u0448\u043b\u0430. \u041e\u043d \u0443\u0448\u0451\u043b?\n\u4ed6\u6765\u4e86\u3002\u5979\u8d70\u4e86\u3002\n\u0935\u0939 \u0906\u092f\u093e\u0964 \u0935\u0939 \u0917\u092f\u093e\u0964\n\n";
  DataBuildOptions o = build_options(dir, text + text);
  write_file(dir / "v.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n.\n");
  CHECK(build_data(o).lengths.sentences == 16);
  o.split_sentences = false;
  CHECK(build_data(o).lengths.sentences == 8);
}

TEST_CASE("progress says what is done, how far that is, and never goes back") {
  const TemporaryDirectory dir;
  DataBuildOptions o = long_build(dir, 3000);
  o.checkpoint_seconds = 1000;
  o.heldout = 0.001;
  std::vector<std::pair<std::string, double>> seen;
  std::map<std::string, double> bytes;
  o.progress = [&](const char* stage, double share, double read) {
    CHECK(share >= 0);
    CHECK(share <= 1);
    if (!seen.empty() && seen.back().first == stage) CHECK(share >= seen.back().second);
    if (seen.empty() || seen.back().first != stage) seen.emplace_back(stage, share);
    seen.back().second = share;
    bytes[stage] = read;
  };
  const DataBuildReport report = build_data(o);
  REQUIRE(seen.size() == 3);
  CHECK(seen[0].first == "counting");
  CHECK(seen[1].first == "dividing");
  CHECK(seen[2].first == "tokenizing");
  for (const auto& [stage, share] : seen) {
    CHECK(share > 0.99);
    CHECK(bytes[stage] > 0.99 * static_cast<double>(report.text_bytes));
  }
}

TEST_CASE("the held-out split is never empty and shares no document with training") {
  const TemporaryDirectory dir;
  for (const int documents : {1, 2, 30, 2000}) {
    const DataBuildReport report = build_data(build_options(dir, small_text(documents)));
    INFO(documents);
    CHECK(report.heldout.tokens > 0);
    CHECK(report.train.tokens > (documents > 1 ? report.heldout.tokens : 0));
    CHECK((report.heldout.split_unit == "document") == (documents == 2000));
  }
  CHECK(error_of<DataError>([&] { build_data(build_options(dir, "One line only.\n")); }).find("at least two paragraphs") != std::string::npos);
}

TEST_CASE("nothing is half built") {
  const TemporaryDirectory dir;
  DataBuildOptions o = build_options(dir, small_text(50) + "bad \xFF\n");
  CHECK_THROWS_AS(build_data(o), DataError);
  CHECK(!fs::exists(dir / "d"));
  o.corpus.skip_invalid = true;
  CHECK(build_data(o).skipped_lines == 1);
  const std::string before = read_file(dir / "d/train.bin");
  o.stop = [] { return true; };
  CHECK(build_data(o).stopped);
  CHECK(read_file(dir / "d/train.bin") == before);
  int entries = 0;
  for (const auto& entry : fs::directory_iterator(dir.path())) entries += entry.is_directory();
  CHECK(entries == 1);
  fs::create_directory(dir / "other");
  write_file(dir / "other/precious", "x");
  o.out = dir / "other";
  CHECK_THROWS_AS(build_data(o), IoError);
  CHECK(read_file(dir / "other/precious") == "x");
}

TEST_CASE("a build replaces an earlier build and nothing else") {
  const TemporaryDirectory dir;
  DataBuildOptions o = build_options(dir, small_text(50));
  fs::create_directory(dir / "d");
  build_data(o);  // into an empty folder
  const std::string built = read_file(dir / "d/train.bin");
  const std::string refused = "[" + dir.path() + "/d] expected a new folder, an empty one or an earlier build, got a folder with other files, such as '";

  write_file(dir / "d/notes.txt", "mine");
  CHECK(error_of<IoError>([&] { build_data(o); }) == refused + "notes.txt'");
  CHECK(read_file(dir / "d/notes.txt") == "mine");
  fs::remove(dir / "d/notes.txt");
  fs::create_directory(dir / "d/run");
  CHECK(error_of<IoError>([&] { build_data(o); }) == refused + "run'");
  fs::remove(dir / "d/run");
  // A name of ours that is no file of ours.
  fs::rename(dir / "d/vocab.txt", dir / "vocab.txt");
  fs::create_directory(dir / "d/vocab.txt");
  CHECK(error_of<IoError>([&] { build_data(o); }) == refused + "vocab.txt'");
  fs::remove(dir / "d/vocab.txt");
  CHECK(read_file(dir / "d/train.bin") == built);
  write_file(dir / "d/train-128-0.plan", "a run's, which goes with the build");
  write_file(dir / "d/heldout-128-0.plan.tmp-123", "left by a process that was killed");
  build_data(o);  // what is left is an earlier build, if a damaged one
  CHECK(fs::exists(dir / "d/vocab.txt"));
  CHECK(std::distance(fs::directory_iterator(dir / "d"), {}) == 8);
  // Without the sidecar it is somebody's folder.
  fs::remove(dir / "d/train.json");
  CHECK(error_of<IoError>([&] { build_data(o); }).find(refused) == 0);
  CHECK(read_file(dir / "d/train.bin") == built);

  write_file(dir / "file", "");
  o.out = dir / "file";
  CHECK(error_of<IoError>([&] { build_data(o); }) == "[" + dir.path() + "/file] expected a new folder, an empty one or an earlier build, got a file");
  CHECK(fs::is_regular_file(dir / "file"));
  // What appears while the build runs is kept, too.
  o.out = dir / "late";
  o.progress = [&](const char*, double, double) {
    fs::create_directory(dir / "late");
    write_file(dir / "late/notes.txt", "mine");
  };
  CHECK_THROWS_AS(build_data(o), IoError);
  CHECK(read_file(dir / "late/notes.txt") == "mine");
}

TEST_CASE("a build that is stopped, wherever that is, goes on to the same bytes") {
  const TemporaryDirectory dir;
  constexpr int kDocuments = 60;
  for (const int threads : {1, 3}) {
    DataBuildOptions o = build_options(dir, small_text(kDocuments));
    o.threads = threads;
    std::atomic<int> asked = 0, first_written = 0;
    o.stop = [&] { ++asked; return false; };
    o.progress = [&](const char* stage, double, double) {
      if (first_written == 0 && std::string(stage) == "tokenizing") first_written = asked.load();
    };
    CHECK(!build_data(o).stopped);
    const auto expected = files_in(dir / "d");
    const int most = asked;
    CHECK(first_written > 2 * 2 * kDocuments);     // both passes before the first token ask at each of at least two lines a document
    CHECK(most > first_written + 2 * kDocuments);  // so do the third and the tokenizer
    fs::remove_all(dir / "d");
    o.progress = nullptr;
    std::atomic<int> asked_after = 0;
    for (int last = 1; last <= most; last += 37) {
      INFO(threads << " threads, stopped when asked for the " << last << "th time");
      asked = 0;
      o.stop = [&] { return ++asked == last; };  // asked again it would say no
      CHECK(build_data(o).stopped);
      REQUIRE(!fs::exists(dir / "d"));
      asked_after = 0;
      o.stop = [&] { ++asked_after; return false; };
      CHECK(!build_data(o).stopped);
      REQUIRE(files_in(dir / "d") == expected);
      REQUIRE(std::distance(fs::directory_iterator(dir.path()), {}) == 3);  // the text, the vocabulary and the build
      fs::remove_all(dir / "d");
    }
    CHECK(asked_after < most - first_written + 20);  // what was stopped last had only to tokenize
    // Nothing is left of a build that was stopped before it had done anything.
    o.stop = [] { return true; };
    CHECK(build_data(o).stopped);
    REQUIRE(std::distance(fs::directory_iterator(dir.path()), {}) == 2);
  }
}

TEST_CASE("a build that is killed time and again ends with the bytes of one that was not, and does little twice") {
  for (const double heldout : {0.05, 0.001}) {  // by documents, and in blocks, which takes a reading more
    const TemporaryDirectory dir;
    DataBuildOptions o = long_build(dir, 6000);
    o.heldout = heldout;
    std::atomic<int> asked = 0;
    o.stop = [&] { ++asked; return false; };
    const DataBuildReport whole = build_data(o);
    REQUIRE((whole.heldout.split_unit == "document") == (heldout == 0.05));
    CHECK(whole.duplicate_paragraphs == 6000 / 4 + 6000 - 1);
    const int most = asked;
    const auto expected = files_in(dir / "d");
    fs::remove_all(dir / "d");
    std::mt19937 random(7);
    int kills = 0, asked_in_all = 0;
    for (;; ++kills) {
      REQUIRE(kills < 100);
      const int life = 8000 + static_cast<int>(random() % 16000);
      int ends[2];
      REQUIRE(pipe(ends) == 0);
      const int status = test::in_child([&] {
        std::atomic<int> n = 0;
        o.stop = [&] {
          if (++n == life) kill(getpid(), SIGKILL);
          return false;
        };
        const DataBuildReport report = build_data(o);
        const int64_t facts[] = {n, report.documents, report.duplicate_paragraphs, report.unknown, report.lengths.tokens, report.lengths.longest, static_cast<int64_t>(report.text_bytes)};
        return write(ends[1], facts, sizeof facts) == sizeof facts ? 0 : 1;
      });
      close(ends[1]);
      if (status == 0) {
        int64_t facts[7] = {};
        CHECK(read(ends[0], facts, sizeof facts) == sizeof facts);
        CHECK(facts[1] == whole.documents);
        CHECK(facts[2] == whole.duplicate_paragraphs);
        CHECK(facts[3] == whole.unknown);
        CHECK(facts[4] == whole.lengths.tokens);
        CHECK(facts[5] == whole.lengths.longest);
        CHECK(facts[6] == static_cast<int64_t>(whole.text_bytes));
        asked_in_all += static_cast<int>(facts[0]);
      }
      close(ends[0]);
      if (status == 0) break;
      REQUIRE(status == 128 + SIGKILL);
      REQUIRE(!fs::exists(dir / "d"));
      asked_in_all += life;
    }
    CHECK(kills > 2);
    CHECK(asked_in_all < most + kills * 6000);  // what 64 KiB and a round ask
    CHECK(files_in(dir / "d") == expected);
    CHECK(std::distance(fs::directory_iterator(dir.path()), {}) == 4);
  }
}

TEST_CASE("what an interrupted build was made of is noticed when it changes") {
  const TemporaryDirectory dir;
  std::vector<std::pair<std::string, bool>> notices;
  const auto build = [&](DataBuildOptions o, bool stops) {
    notices.clear();
    std::atomic<int> asked = 0;
    o.stop = [&] { return stops && fs::exists(dir / ".tmp-d/result/train.bin") && ++asked > 4000; };
    o.notice = [&](const std::string& text, bool starts_over) { notices.emplace_back(text, starts_over); };
    CHECK(build_data(o).stopped == stops);
  };
  const std::string over = "starting over, for an interrupted build of " + dir.path() + "/d cannot be gone on with: ";
  const std::vector<std::pair<std::string, std::function<void(DataBuildOptions&)>>> changes = {
      {"--heldout has changed", [](DataBuildOptions& o) { o.heldout = 0.06; }},
      {"--deduplicate has changed", [](DataBuildOptions& o) { o.corpus.deduplicate = false; }},
      {"--documents has changed", [](DataBuildOptions& o) { o.corpus.boundary = DocumentBoundary::line; }},
      {"--format has changed", [](DataBuildOptions& o) { o.corpus.format = CorpusFormat::text; }},
      {"--field has changed", [&](DataBuildOptions& o) { o.corpus.field = "title"; o.corpus.skip_invalid = true; }},
      {"--normalize has changed", [](DataBuildOptions& o) { o.corpus.normal_form = unicode::NormalForm::nfc; }},
      {"--skip-invalid has changed", [](DataBuildOptions& o) { o.corpus.skip_invalid = true; }},
      {"longest line has changed", [](DataBuildOptions& o) { o.corpus.max_line_bytes = 1 << 20; }},
      {"--sentences has changed", [](DataBuildOptions& o) { o.split_sentences = false; }},
      {"--mode has changed", [](DataBuildOptions& o) { o.tokenizer.mode = TokenizerMode::google; }},
      {"--cased has changed", [](DataBuildOptions& o) { o.tokenizer.lowercase = false; }},
      {"--strip-accents has changed", [](DataBuildOptions& o) { o.tokenizer.strip_accents = false; }},
      {"--split-chinese has changed", [](DataBuildOptions& o) { o.tokenizer.split_chinese = false; }},
      {"the vocabulary (--vocab) has changed", [&](DataBuildOptions&) { write_file(dir / "v.txt", kVocabulary + "more\n"); }},
      {"the list of texts has changed", [](DataBuildOptions& o) { o.texts.pop_back(); }},
      {dir / "t.txt has changed", [&](DataBuildOptions&) { write_file(dir / "t.txt", read_file(dir / "t.txt") + "\nIt was red and on.\n"); }},
      // Of the same length, at another time.
      {dir / "t.txt has changed", [&](DataBuildOptions&) { fs::last_write_time(dir / "t.txt", fs::last_write_time(dir / "t.txt") + std::chrono::milliseconds(1)); }},
      {"its files are damaged", [&](DataBuildOptions&) { fs::resize_file(dir / ".tmp-d/train.lengths", fs::file_size(dir / ".tmp-d/train.lengths") / 2); }},
      {"its files are damaged", [&](DataBuildOptions&) { fs::remove(dir / ".tmp-d/hashes-2"); }},
      {"its state cannot be read", [&](DataBuildOptions&) { write_file(dir / ".tmp-d/state.json", "{\"settings\": {}"); }}};
  for (const auto& [message, change] : changes) {
    DataBuildOptions o = long_build(dir, 1500);
    o.heldout = 0.05;
    INFO(message);
    build(o, true);
    CHECK(notices.empty());
    REQUIRE(fs::exists(dir / ".tmp-d/state.json"));
    change(o);
    build(o, false);
    REQUIRE(notices.size() == 1);
    CHECK(notices[0] == std::pair{over + message, true});
    const auto built = files_in(dir / "d");
    o.out = dir / "e";
    build(o, false);
    CHECK(files_in(dir / "e") == built);
    CHECK(notices.empty());
    for (const char* name : {"d", "e"}) fs::remove_all(dir / name);
  }
  // Unchanged: it goes on, with other threads, too, and says so.
  DataBuildOptions o = long_build(dir, 1500);
  o.heldout = 0.05;
  build(o, true);
  o.threads = 3;
  build(o, false);
  REQUIRE(notices.size() == 1);
  CHECK_THAT(notices[0].first, Catch::StartsWith("going on with an interrupted build of " + dir.path() + "/d: 0.") && Catch::EndsWith(" MB of text were tokenized"));
  CHECK(!notices[0].second);
}

TEST_CASE("a text that changes between two readings is an error") {
  const TemporaryDirectory dir;
  DataBuildOptions o = build_options(dir, small_text(2000));
  bool changed = false;
  o.stop = [&] {
    if (!changed && fs::exists(dir / ".tmp-d/result/train.bin")) {
      changed = true;
      std::string text = small_text(2000);
      text[text.rfind("red")] = 'b';
      write_file(dir / "t.txt", text);
    }
    return false;
  };
  CHECK(error_of<DataError>([&] { build_data(o); }) == "[data build] expected the same text at every reading, got another: a file changed while it was read");
  REQUIRE(changed);
  CHECK(std::distance(fs::directory_iterator(dir.path()), {}) == 2);
}

TEST_CASE("publishing that was interrupted is made up for") {
  const TemporaryDirectory dir;
  DataBuildOptions o = build_options(dir, small_text(50));
  build_data(o);
  const auto before = files_in(dir / "d");
  write_file(dir / "t.txt", small_text(60));
  o.out = dir / "other";
  build_data(o);
  const auto expected = files_in(dir / "other");
  o.out = dir / "d";
  o.checkpoint_seconds = 0;
  // Complete, but not in place: a folder of somebody else's appears at the last moment.
  std::atomic<bool> late = false;
  o.progress = [&](const char*, double, double) {
    if (!late.exchange(true)) write_file(dir / "d/notes.txt", "mine");
  };
  CHECK_THROWS_AS(build_data(o), IoError);
  o.progress = nullptr;
  fs::remove(dir / "d/notes.txt");
  REQUIRE(fs::exists(dir / ".tmp-d/result/train.json"));
  fs::copy(dir / ".tmp-d", dir / "saved", fs::copy_options::recursive);
  const auto restore = [&](const std::string& name) {
    fs::remove_all(dir / name);
    fs::copy(dir / "saved", dir / name, fs::copy_options::recursive);
  };
  std::string notice;
  o.notice = [&](const std::string& text, bool) { notice = text; };

  // Between the renames: the earlier build is back at once, the new one takes its place.
  fs::rename(dir / "d", dir / ".tmp-d/replaced");
  { const BuildDirectory opened(dir / "d"); }
  CHECK(files_in(dir / "d") == before);
  fs::rename(dir / "d", dir / ".tmp-d/replaced");
  build_data(o);
  CHECK(files_in(dir / "d") == expected);
  CHECK(notice == "going on with an interrupted build of " + dir.path() + "/d: it was complete");
  CHECK(!fs::exists(dir / ".tmp-d"));
  // Behind them: there is nothing left to do but to clean up.
  restore(".tmp-d");
  fs::remove_all(dir / ".tmp-d/result");
  fs::create_directory(dir / ".tmp-d/replaced");
  const auto made = fs::last_write_time(dir / "d");
  CHECK(build_data(o).train.tokens > 0);
  CHECK(fs::last_write_time(dir / "d") == made);
  CHECK(!fs::exists(dir / ".tmp-d"));
  // But not where what was published is gone.
  restore(".tmp-d");
  fs::remove_all(dir / ".tmp-d/result");
  fs::remove_all(dir / "d");
  build_data(o);
  CHECK(files_in(dir / "d") == expected);
  CHECK(notice == "starting over, for an interrupted build of " + dir.path() + "/d cannot be gone on with: its files are damaged");
  CHECK(before != expected);
}

TEST_CASE("two builds of the same directory do not mix") {
  const TemporaryDirectory dir;
  DataBuildOptions o = build_options(dir, small_text(300));
  std::string message;
  o.progress = [&](const char*, double, double) {
    if (message.empty()) message = error_of<IoError>([&] { build_data(o); });
  };
  build_data(o);
  CHECK(message == "[" + dir.path() + "/d] expected no other build of it at work, got one that has locked " + dir.path() + "/.tmp-d/lock");
  CHECK(fs::exists(dir / "d/train.json"));
}

TEST_CASE("an interrupted build from a pipe goes on where the pipe brings the same again") {
  const TemporaryDirectory dir;
  DataBuildOptions o = long_build(dir, 1500);
  build_data(o);
  const auto expected = files_in(dir / "d");
  fs::remove_all(dir / "d");
  const std::string text = read_file(dir / "t.txt");
  REQUIRE(mkfifo((dir / "pipe.txt").c_str(), 0600) == 0);
  o.texts[0] = dir / "pipe.txt";
  std::string notice;
  o.notice = [&](const std::string& said, bool) { notice = said; };
  const auto build = [&](const std::string& bytes, bool stops) {
    const pid_t writer = fork();
    if (writer == 0) {
      const int to = open((dir / "pipe.txt").c_str(), O_WRONLY);
      _exit(write(to, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()) ? 0 : 1);
    }
    std::atomic<int> asked = 0;
    o.stop = [&] { return stops && fs::exists(dir / ".tmp-d/result/train.bin") && ++asked > 4000; };
    notice.clear();
    CHECK(build_data(o).stopped == stops);
    CHECK(test::wait_for(writer) == 0);
  };
  build(text, true);
  build(text, false);
  CHECK_THAT(notice, Catch::StartsWith("going on with "));
  CHECK(files_in(dir / "d") == expected);
  build(text, true);
  std::string other = text;
  other[other.rfind("red")] = 'b';
  build(other, false);
  CHECK(notice == "starting over, for an interrupted build of " + dir.path() + "/d cannot be gone on with: " + dir.path() + "/pipe.txt has changed");
}

TEST_CASE("a share that is none is refused") {
  const TemporaryDirectory dir;
  DataBuildOptions o = build_options(dir, small_text(50));
  for (const double share : {0.0, 1.0, -0.5, std::nan("")}) {
    o.heldout = share;
    CHECK(error_of<ConfigError>([&] { build_data(o); }).find("[data build] expected a held-out share in (0, 1), got ") == 0);
  }
}

TEST_CASE("shards of another vocabulary are refused") {
  const TemporaryDirectory dir;
  build_data(build_options(dir, small_text(50)));
  write_file(dir / "d/vocab.txt", kVocabulary + "more\n");
  CHECK(error_of<DataError>([&] { DataSet data(dir / "d"); }).find("expected tokens of the vocabulary with sha256") != std::string::npos);
  CHECK_THROWS_AS(DataSet(dir / "nowhere"), IoError);
}

TEST_CASE("tokenizer settings survive their file") {
  const TemporaryDirectory dir;
  for (const bool lowercase : {true, false})
    for (const std::optional<bool> strip : {std::optional<bool>(), std::optional<bool>(true), std::optional<bool>(false)})
      for (const TokenizerMode mode : {TokenizerMode::hf, TokenizerMode::google}) {
        const TokenizerOptions o{.mode = mode, .lowercase = lowercase, .strip_accents = strip, .split_chinese = !lowercase};
        write_file(dir / "t.json", tokenizer_config_json(o));
        CHECK(parse_tokenizer_config(dir / "t.json") == o);
      }
  write_file(dir / "t.json", "{\"electra_mode\": \"xx\"}");
  CHECK(error_of<FormatError>([&] { parse_tokenizer_config(dir / "t.json"); }) == "[" + dir.path() + "/t.json] electra_mode: expected hf or google, got 'xx'");
}

TEST_CASE("what is shown of an example's masks is what training does to it") {
  std::vector<int32_t> ids = {kSpecial.cls};
  for (int i = 0; i < 60; ++i) ids.push_back(5 + i % 13);
  ids[30] = kSpecial.sep;
  ids.push_back(kSpecial.sep);
  std::set<std::vector<int64_t>> drawn;
  int kept = 0, masked = 0;
  for (uint64_t seed = 0; seed < 40; ++seed) {
    const MaskedView v = masked_view(ids, kSpecial, 0.15, seed);
    REQUIRE(static_cast<int64_t>(v.positions.size()) == masked_count(ids.data(), static_cast<int64_t>(ids.size()), kSpecial, 0.15, 100, false));
    CHECK(v.positions.size() == 9);  // of 62
    CHECK(std::is_sorted(v.positions.begin(), v.positions.end()));
    CHECK(std::set<int64_t>(v.positions.begin(), v.positions.end()).size() == v.positions.size());
    for (size_t i = 0; i < ids.size(); ++i) {
      const bool here = std::binary_search(v.positions.begin(), v.positions.end(), static_cast<int64_t>(i));
      if (!here) REQUIRE(v.generator_ids[i] == ids[i]);
      else REQUIRE((v.generator_ids[i] == ids[i] || v.generator_ids[i] == kSpecial.mask));
      if (here) REQUIRE((ids[i] != kSpecial.cls && ids[i] != kSpecial.sep));
      kept += here && v.generator_ids[i] == ids[i];
      masked += here && v.generator_ids[i] != ids[i];
    }
    drawn.insert(v.positions);
    CHECK(masked_view(ids, kSpecial, 0.15, seed).generator_ids == v.generator_ids);
  }
  CHECK(drawn.size() == 40);
  CHECK(kept > 20);
  CHECK(masked > 4 * kept);
  CHECK(masked_view({kSpecial.cls, 7, kSpecial.sep}, kSpecial, 0.0, 1).positions == std::vector<int64_t>{1});  // one at least
}
