// Damaged and random input to every parser: an Error or a valid result, never anything else. Long: run with ./test.sh --slow,
// most usefully in a sanitizer build.
#include <array>
#include <catch2/catch.hpp>
#include <cstring>
#include <random>

#include "model/formats/safetensors.h"
#include "tests/compressed.h"
#include "tests/damaged.h"
#include "tests/temporary_directory.h"
#include "tokenizer/model_input.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/unicode.h"
#include "tokenizer/vocabulary_trainer.h"
#include "trainer/config.h"
#include "trainer/data/corpus.h"
#include "trainer/data/examples.h"
#include "trainer/data/token_shards.h"
#include "trainer/log.h"

using namespace electra;
using test::damaged, test::survives;

TEST_CASE("damaged safetensors files are refused or read") {
  const std::vector<float> a(12, 1.5f), b(3, -2.0f);
  const std::string good = to_safetensors({{"weight", "F32", {3, 4}, std::as_bytes(std::span(a))}, {"bias", "F32", {3}, std::as_bytes(std::span(b))}},
                                          {{"format", "pt"}});
  std::mt19937 random(1);
  int refused = 0;
  for (int i = 0; i < 200000; ++i)
    refused += !survives([&] {
      [[maybe_unused]] volatile std::byte last;  // so that the last byte of each is read
      const Safetensors file(damaged(good, random), "fuzz");
      for (const NamedTensor& t : file.tensors())
        if (!t.data.empty()) last = t.data.back();
    });
  CHECK(refused > 100000);
}

TEST_CASE("damaged token shards are refused or read") {
  const test::TemporaryDirectory dir;
  TokenShardWriter writer(dir / "s", 50);
  std::mt19937 random(2);
  for (int s = 0; s < 40; ++s) {
    std::vector<int32_t> ids;
    for (uint32_t i = 0; i < 1 + random() % 9; ++i) ids.push_back(static_cast<int32_t>(random() % 50));
    writer.add_sentence(ids);
    if (s % 5 == 4) writer.end_document();
  }
  writer.finish({});
  int refused = 0;
  constexpr int kRounds = 6000;
  for (const char* extension : {".bin", ".idx", ".json"}) {
    const std::string file = dir / "s" + extension, good = test::read_file(file);
    for (int i = 0; i < kRounds; ++i) {
      test::write_file(file, damaged(good, random));
      refused += !survives([&] {
        const TokenShard shard(dir / "s");
        for (int64_t t = 0; t < shard.tokens(); ++t) REQUIRE(shard.token(t) < 50);
      });
    }
    test::write_file(file, good);
  }
  CHECK(refused > 2 * kRounds);
  CHECK(survives([&] { TokenShard shard(dir / "s"); }));
}

TEST_CASE("damaged plans of examples are refused or read, and an index is whole whatever stands there") {
  const test::TemporaryDirectory dir;
  TokenShardWriter writer(dir / "s", 50);
  std::mt19937 random(6);
  for (int s = 0; s < 60; ++s) {
    writer.add_sentence(std::vector<int32_t>(1 + random() % 9, static_cast<int32_t>(5 + random() % 40)));
    if (s % 5 == 4) writer.end_document();
  }
  writer.finish({});
  const TokenShard shard(dir / "s");
  log::set_level("error");
  const std::string path = dir / "train-16-0.plan";
  const int64_t examples = ExampleIndex(shard, {.seq_len = 16}, {0, 1, 2, 3, 4}, path).size();
  const std::string good = test::read_file(path);
  uint64_t key;
  std::memcpy(&key, good.data() + 16, sizeof key);
  int refused = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string bytes = damaged(good, random);
    const bool forged = i % 2 && bytes.size() >= 64;  // its checksums made good again
    if (forged) {
      const uint64_t records = xxh64(std::string_view(bytes).substr(64));
      std::memcpy(bytes.data() + 48, &records, sizeof records);
      const uint64_t header = xxh64(std::string_view(bytes).substr(0, 56));
      std::memcpy(bytes.data() + 56, &header, sizeof header);
    }
    test::write_file(path, bytes);
    refused += !survives([&] { ExamplePlan(MappedFile(path), path, key); });
    const ExampleIndex index(shard, {.seq_len = 16}, {0, 1, 2, 3, 4}, path);
    int32_t ids[16], segments[16];
    for (int64_t k = 0; k < index.size(); ++k) index.build(k, ids, segments);
    if (!forged) REQUIRE(index.size() == examples);
  }
  CHECK(refused > 10000);
  log::set_level("info");
}

TEST_CASE("any UTF-8 is tokenized within its bounds, in both modes") {
  std::vector<std::string> tokens = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##a", "b", "##b", "ab", "##ab", ".", "é", "東"};
  std::mt19937 random(3);
  for (const TokenizerMode mode : {TokenizerMode::hf, TokenizerMode::google})
    for (const bool lowercase : {true, false}) {
      TokenizerOptions options;
      options.mode = mode;
      options.lowercase = lowercase;
      const Tokenizer tokenizer(Vocabulary::from_tokens(tokens, "fuzz"), options);
      Encoding e;
      for (int i = 0; i < 20000; ++i) {
        std::string text;
        for (uint32_t k = random() % 30; k > 0; --k) {
          char32_t c = random() % 3 == 0 ? random() % 0x110000 : random() % 3 == 0 ? 0x300 + random() % 0x70 : 'a' + random() % 3;
          if (c >= 0xD800 && c <= 0xDFFF) c = '.';
          unicode::append_utf8(c, text);
        }
        tokenizer.encode(text, e);
        REQUIRE(e.ids.size() == e.offsets.size());
        for (size_t k = 0; k < e.ids.size(); ++k) {
          REQUIRE(e.offsets[k].begin < e.offsets[k].end);
          REQUIRE(e.offsets[k].end <= text.size());
          REQUIRE(unicode::find_invalid_utf8(std::string_view(text).substr(e.offsets[k].begin, e.offsets[k].end - e.offsets[k].begin)) == unicode::kValid);
          if (k > 0) REQUIRE(e.word_ids[k] >= e.word_ids[k - 1]);
        }
      }
    }
}

TEST_CASE("any UTF-8 makes a vocabulary, in any memory, and inputs within their lengths") {
  const test::TemporaryDirectory dir;
  std::mt19937 random(4);
  for (int i = 0; i < 1000; ++i) {
    std::string text;
    for (uint32_t k = 1 + random() % 300; k > 0; --k) {
      char32_t c = random() % 8 == 0 ? random() % 0x110000 : random() % 4 == 0 ? U' ' : 'a' + random() % 4;
      if (c >= 0xD800 && c <= 0xDFFF) c = '#';
      unicode::append_utf8(c, text);
    }
    VocabularyTrainerOptions o;
    o.algorithm = i % 2 ? VocabularyAlgorithm::top_down : VocabularyAlgorithm::bpe;
    o.size = 6 + random() % 200;
    o.min_frequency = 1 + random() % 3;
    o.alphabet_limit = 1 + random() % 40;
    o.multiple_of = 1 + random() % 9;
    o.exact_size = random() % 2;
    o.memory = random() % 2 ? UINT64_MAX : random() % 1000000;
    o.folder = dir.path();
    std::vector<std::string> tokens;
    if (!survives([&] {
          VocabularyTrainer trainer(o);
          trainer.add(text);
          tokens = trainer.train();
          REQUIRE(static_cast<int64_t>(tokens.size()) <= trainer.size());
        }))
      continue;
    const Tokenizer tokenizer(Vocabulary::from_tokens(tokens, "fuzz"), o.tokenizer);
    ModelInputOptions cut;
    cut.truncation = std::array{Truncation::longest_first, Truncation::only_first, Truncation::only_second}[random() % 3];
    cut.max_length = 3 + random() % 30;
    cut.stride = random() % 6;
    cut.overflow = random() % 2;
    survives([&] {
      for (const ModelInput& input : encode_inputs(tokenizer, text, random() % 2 ? std::optional<std::string_view>("a b c") : std::nullopt, cut)) {
        REQUIRE(static_cast<int64_t>(input.ids.size()) <= cut.max_length);
        REQUIRE(input.offsets.size() == input.ids.size());
        REQUIRE(input.segment_ids.size() == input.ids.size());
      }
    });
  }
}

TEST_CASE("damaged text, JSON lines and archives are refused or read") {
  const test::TemporaryDirectory dir;
  std::mt19937 random(5);
  std::string text, lines;
  for (int i = 0; i < 40; ++i) {
    text += "Zeile " + std::to_string(random() % 1000) + " \u00e4\u6771\n" + (i % 5 == 4 ? "\n" : "");
    lines += "{\"id\": " + std::to_string(i) + ", \"text\": \"ein Satz \\u00e9\\nnoch " + std::to_string(random() % 1000) + "\", \"more\": [1, {\"a\": null}]}\n";
  }
  for (const std::string* const source : {&text, &lines}) {
    const std::string& content = *source;
    int refused = 0;
    constexpr int kRounds = 4000;
    for (const auto& [kind, good] : {std::pair<std::string, std::string>{"plain", content}, {"gzip", test::gzip(content)}, {"zstd", test::zstd(content)}, {"xz", test::xz(content)}})
      for (int i = 0; i < kRounds; ++i) {
        test::write_file(dir / "t", damaged(good, random));
        CorpusOptions options;
        options.format = source == &lines ? CorpusFormat::json_lines : CorpusFormat::text;
        options.skip_invalid = i % 2;
        options.max_line_bytes = 1 << 20;
        refused += !survives([&] {
          CorpusReader reader(corpus_files({dir / "t"}), options);
          for (Document d; reader.next(d);) {
            REQUIRE(!d.paragraphs.empty());
            for (const std::string& p : d.paragraphs) {
              REQUIRE(!p.empty());
              REQUIRE(p.find('\n') == std::string::npos);
              REQUIRE(unicode::find_invalid_utf8(p) == unicode::kValid);
            }
          }
        });
      }
    CHECK(refused > 2 * kRounds);
    CHECK(refused < 4 * kRounds);
  }
}

TEST_CASE("damaged configurations are refused or valid") {
  const std::string good = presets().front().text;
  std::mt19937 random(4);
  int refused = 0;
  for (int i = 0; i < 5000; ++i) refused += !survives([&] { parse_config(damaged(good, random), "fuzz.yaml", {}); });
  CHECK(refused > 500);
  CHECK(survives([&] { parse_config(good, "fuzz.yaml", {}); }));
}
