// Vocabulary training: merges against a plain implementation and the package tokenizers, word counts, sizes and entries.
#include "tokenizer/vocabulary_trainer.h"

#include <sys/resource.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <filesystem>
#include <map>
#include <random>

#include "kernels/core/error.h"
#include "kernels/core/philox.h"
#include "tests/child_process.h"
#include "tests/source_directory.h"
#include "tests/temporary_directory.h"
#include "tokenizer/pair_merger.h"
#include "tokenizer/top_down.h"
#include "tokenizer/unicode.h"

using namespace electra;

namespace {

using Words = std::vector<std::pair<std::vector<int32_t>, int64_t>>;

// Counts all pairs anew for each merge.
std::vector<std::string> merge_plainly(std::vector<std::string> tokens, Words words, size_t size, int64_t min_frequency) {
  while (tokens.size() < size) {
    std::map<std::pair<int32_t, int32_t>, int64_t> counts;
    for (const auto& [pieces, count] : words)
      for (size_t i = 0; i + 1 < pieces.size(); ++i) counts[{pieces[i], pieces[i + 1]}] += count;
    std::pair<int32_t, int32_t> best;
    int64_t most = 0;
    for (const auto& [pair, count] : counts)
      if (count > most) {  // the lowest ids come first
        best = pair;
        most = count;
      }
    if (most < min_frequency) break;
    const std::string& right = tokens[static_cast<size_t>(best.second)];
    const std::string token = tokens[static_cast<size_t>(best.first)] + (right.starts_with("##") ? right.substr(2) : right);
    const auto known = std::find(tokens.begin(), tokens.end(), token);
    const auto id = static_cast<int32_t>(known - tokens.begin());
    if (known == tokens.end()) tokens.push_back(token);
    for (auto& [pieces, count] : words) {
      std::vector<int32_t> after;
      for (size_t i = 0; i < pieces.size(); ++i) {
        const bool here = i + 1 < pieces.size() && pieces[i] == best.first && pieces[i + 1] == best.second;
        after.push_back(here ? id : pieces[i]);
        i += here;
      }
      pieces = after;
    }
  }
  return tokens;
}

using Counts = std::map<std::string, int64_t>;

// The top-down algorithm with a table of all pieces for each iteration. Words are ASCII.
Counts learn_plainly(const Counts& words, int64_t threshold) {
  Counts kept;
  for (int iteration = 0; iteration < 4; ++iteration) {
    std::map<size_t, Counts, std::greater<>> pieces;  // by length, the longest first
    for (const auto& [word, count] : words)
      for (size_t start = 0, next = 0; start < word.size(); start = next) {
        const std::string prefix = start > 0 ? "##" : "";
        for (size_t length = 1; start + length <= word.size(); ++length) pieces[length][prefix + word.substr(start, length)] += count;
        next = start + 1;
        if (iteration > 0)
          for (size_t end = word.size(); end > start; --end)
            if (kept.contains(prefix + word.substr(start, end - start))) {
              next = end;
              break;
            }
      }
    kept.clear();
    for (auto& [length, counts] : pieces)
      for (const auto& [piece, count] : counts) {
        if (count < threshold) continue;
        kept[piece] = count;
        for (size_t k = 1; k < length; ++k) pieces[k][piece.substr(0, piece.size() - length + k)] -= count;
      }
  }
  return kept;
}

std::vector<std::string> learn_vocabulary_plainly(const Counts& words, size_t size, int64_t min_frequency) {
  std::map<char, int64_t> alphabet;
  int64_t most = 0;
  for (const auto& [word, count] : words)
    for (const char c : word) {
      alphabet[c] += count;
      most += count;
    }
  const auto vocabulary_of = [&](int64_t threshold) {
    std::vector<std::string> tokens = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
    std::vector<std::pair<int64_t, std::string>> kept;
    for (const auto& [piece, count] : learn_plainly(words, threshold)) kept.emplace_back(-count, piece);
    std::sort(kept.begin(), kept.end());
    const auto take = [&](const std::string& token) {
      if (std::find(tokens.begin(), tokens.end(), token) == tokens.end()) tokens.push_back(token);
    };
    for (const auto& [c, count] : alphabet) take(std::string(1, c));
    for (const auto& [count, piece] : kept) take(piece);
    for (const auto& [c, count] : alphabet) take(std::string("##") + c);
    return tokens;
  };
  int64_t low = min_frequency, high = std::max(low, most + 1);
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (vocabulary_of(middle).size() <= size) high = middle;
    else low = middle + 1;
  }
  std::vector<std::string> tokens = vocabulary_of(high);
  if (high > min_frequency)
    for (const std::string& token : vocabulary_of(high - 1))
      if (tokens.size() < size && std::find(tokens.begin(), tokens.end(), token) == tokens.end()) tokens.push_back(token);
  return tokens;
}

// Words of syllables; tests/golden/write_vocabulary_golden.py makes the same.
std::string generated_text() {
  constexpr const char* kSyllables[] = {"ka", "ru", "e", "to", "mi", "sa", "n", "Lo", "\u00e9", "pre", "d\u00e4", "sch", "\u0438\u044f", "\u0441\u0442", "\u6771", "th", "ing", "q", "0", "19", "\u0e01", "ss", "aa", "bab"};
  constexpr uint32_t kCount = std::size(kSyllables);
  const uint64_t key = 20200323 ^ fnv1a64("vocabulary/generated_text");
  std::string text;
  for (uint32_t word = 0; word < 30000; ++word) {
    const Bits128 head = philox(key, {.step = word});
    for (uint32_t k = 0; k < 1 + head.word[0] % 5; ++k) {
      const Bits128 draw = philox(key, {.step = word, .position = 1 + k});
      text += kSyllables[draw.word[0] % kCount * (draw.word[1] % kCount) / kCount];  // the first ones more often
    }
    text += head.word[1] % 8 == 0 ? ", " : " ";
    if (head.word[2] % 16 == 0) text += "\n";
  }
  return text;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    lines.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return lines;
}

}  // namespace

TEST_CASE("merging counts as a plain implementation does") {
  std::mt19937 random(7);
  const test::TemporaryDirectory dir;
  size_t merged = 0, on_disk = 0;
  for (int round = 0; round < 300; ++round) {
    const uint32_t letters = 1 + random() % 4;  // few, so that aaaa and one piece made in two ways are frequent
    std::vector<std::string> tokens;
    for (uint32_t c = 0; c < letters; ++c) tokens.push_back(std::string(1, static_cast<char>('a' + c)));
    for (uint32_t c = 0; c < letters; ++c) tokens.push_back("##" + tokens[c]);
    if (random() % 2) tokens.push_back("##ab");
    Words words;
    ScratchSpace space(random() % 2 ? UINT64_MAX : random() % 400000, dir.path());
    PairMerger merger(tokens, space, 1 + random() % 6);
    for (uint32_t w = random() % 30; w > 0; --w) {
      std::vector<int32_t> pieces{static_cast<int32_t>(random() % letters)};
      for (uint32_t k = random() % (round % 50 == 0 ? 200 : 12); k > 0; --k) pieces.push_back(static_cast<int32_t>(letters + random() % letters));
      words.push_back({pieces, 1 + random() % 5});
      merger.add_word(pieces, words.back().second);
    }
    const size_t size = tokens.size() + random() % 60;
    const int64_t least = 1 + random() % 3;
    CHECK(merger.run(static_cast<int64_t>(size), least, {}));
    REQUIRE(merger.tokens() == merge_plainly(tokens, words, size, least));
    merged += merger.tokens().size() - tokens.size();
    on_disk += space.on_disk();
  }
  CHECK(merged > 3000);
  CHECK(on_disk > 100);
}

TEST_CASE("counts need 64 bits") {
  ScratchSpace space;
  PairMerger merger({"a", "b", "##a", "##b"}, space);
  merger.add_word({0, 3}, int64_t{3} << 31);
  merger.add_word({1, 2}, (int64_t{3} << 31) + 1);
  CHECK(merger.run(5, 1, {}));
  CHECK(merger.tokens().back() == "ba");
}

TEST_CASE("a long word takes time in proportion to its length") {
  // Quadratic work would take hours.
  ScratchSpace space;
  PairMerger merger({"a", "##a", "##c", "##g"}, space);
  std::vector<int32_t> word{0};
  std::mt19937 random(9);
  for (int i = 0; i < 1000000; ++i) word.push_back(static_cast<int32_t>(1 + random() % 3));
  merger.add_word(word, 1);
  CHECK(merger.run(3000, 1, {}));
  CHECK(merger.tokens().size() == 3000);
}

TEST_CASE("words are counted as the pre-tokenizer splits them") {
  std::mt19937 random(11);
  const char* const parts[] = {"Ab", "c", " ", ",", "\u0301", "\u00c9", "\u6771", "\u200b", "\x01", "\t", "\u03a3", "'", "x9", "\u00a0", "[MASK]"};
  for (const TokenizerMode mode : {TokenizerMode::hf, TokenizerMode::google})
    for (int round = 0; round < 400; ++round) {
      TokenizerOptions options;
      options.mode = mode;
      options.lowercase = random() % 2;
      options.split_chinese = random() % 2;
      std::string text;
      for (uint32_t k = random() % 40; k > 0; --k) text += parts[random() % std::size(parts)];
      if (round % 10 == 0) text += std::string(100 + random() % 60, 'Z') + (round % 20 ? "\u0301a b" : "");
      const PreTokenizer pre_tokenizer(options);
      std::map<std::string, int64_t> expected;
      Word word;
      pre_tokenizer.for_each_word(text, word, [&](const Word& w) { ++expected[w.text]; });
      std::vector<WordCounter> counters;
      counters.emplace_back(pre_tokenizer).add(text);
      std::map<std::string, int64_t> actual;
      CHECK(visit_word_counts(counters, [&](std::string_view w, int64_t n) { return actual.emplace(w, n).second; }));
      INFO(text);
      REQUIRE(actual == expected);
    }
}

TEST_CASE("tables and files of words are visited as one, in order") {
  const PreTokenizer pre_tokenizer(TokenizerOptions{});
  for (const uint64_t memory : {UINT64_MAX, uint64_t{300000}, uint64_t{30000}}) {
    const test::TemporaryDirectory dir;
    std::vector<WordCounter> counters;
    for (int i = 0; i < 3; ++i) counters.emplace_back(pre_tokenizer, memory, dir.path());
    std::map<std::string, int64_t> expected;
    std::mt19937 random(13);
    for (int i = 0; i < 60000; ++i) {
      const std::string word = std::to_string(random() % 40000) + (i % 1000 == 0 ? std::string(50000, 'x') : "");
      const auto count = static_cast<int64_t>(1 + random() % 3);
      counters[random() % 2].add_word(word, count);
      expected[word] += count;
    }
    CHECK(counters[0].runs().empty() == (memory == UINT64_MAX));
    CHECK(counters[0].runs().size() <= 16);
    CHECK(std::filesystem::is_empty(dir.path()));  // files without a name
    auto next = expected.begin();
    CHECK(visit_word_counts(counters, [&](std::string_view word, int64_t count) {
      REQUIRE(next != expected.end());
      REQUIRE((word == next->first && count == next->second));
      ++next;
      return true;
    }));
    CHECK(next == expected.end());
    int visited = 0;
    CHECK(!visit_word_counts(counters, [&](std::string_view, int64_t) { return ++visited < 3; }));
    CHECK(visited == 3);
  }
}

TEST_CASE("the vocabulary is that of the package tokenizers") {
  std::vector<std::string> golden = lines_of(test::read_file(test::source_directory() + "/tests/golden/vocabulary.txt"));
  REQUIRE(golden.size() == 1500);
  for (const int threads : {1, 3}) {
    VocabularyTrainerOptions o;
    o.size = static_cast<int64_t>(golden.size());
    o.threads = threads;
    VocabularyTrainer trainer(o);
    for (std::string& line : lines_of(generated_text())) trainer.add(std::move(line));
    const std::vector<std::string> tokens = trainer.train();
    REQUIRE(tokens.size() == golden.size());
    for (size_t i = 0; i < tokens.size(); ++i) {
      INFO(i);
      REQUIRE(tokens[i] == golden[i]);
    }
  }
}

TEST_CASE("any number of threads makes one vocabulary") {
  std::vector<std::vector<std::string>> results;
  const std::vector<std::string> lines = lines_of(generated_text());
  for (const int threads : {1, 2, 4}) {
    VocabularyTrainerOptions o;
    o.size = 3000;
    o.threads = threads;
    VocabularyTrainer trainer(o);
    for (int repeat = 0; repeat < 12; ++repeat)  // several batches
      for (const std::string& line : lines) trainer.add(line);
    results.push_back(trainer.train());
  }
  CHECK(results[0] == results[1]);
  CHECK(results[0] == results[2]);
}

TEST_CASE("words and pairs beyond the memory go to files, and the vocabulary is the same") {
  std::string text = generated_text();
  for (int i = 0; i < 15000; ++i) text += "w" + std::to_string(i * 7919 % 1000003) + (i % 10 == 0 ? "\n" : " ");
  const std::vector<std::string> lines = lines_of(text);
  const auto train = [&](uint64_t memory, int threads, bool spills) {
    const test::TemporaryDirectory dir;
    VocabularyTrainerOptions o;
    o.size = 2000;
    o.threads = threads;
    o.memory = memory;
    o.folder = dir.path();
    VocabularyTrainer trainer(o);
    for (const std::string& line : lines) trainer.add(line);
    const std::vector<std::string> tokens = trainer.train();
    CHECK(trainer.spilled() == spills);
    CHECK(std::filesystem::is_empty(dir.path()));
    return tokens;
  };
  const std::vector<std::string> expected = train(UINT64_MAX, 2, false);
  CHECK(expected.size() == 2000);
  CHECK((train(uint64_t{1} << 32, 2, false) == expected));
  for (const uint64_t memory : {uint64_t{8} << 20, uint64_t{1} << 19})
    for (const int threads : {1, 2}) CHECK((train(memory, threads, true) == expected));
}

TEST_CASE("pieces learnt top down are those of a plain implementation") {
  std::mt19937 random(17);
  size_t learned = 0, filled = 0;
  for (int round = 0; round < 150; ++round) {
    const uint32_t letters = 2 + random() % 5;
    Counts words;
    std::string text;
    std::vector<std::string> roots;
    for (int k = 0; k < 4; ++k) {
      roots.emplace_back();
      for (uint32_t i = 1 + random() % 4; i > 0; --i) roots.back() += static_cast<char>('a' + random() % letters);
    }
    for (uint32_t w = 2 + random() % 30; w > 0; --w) {
      std::string word = roots[random() % 4];
      if (random() % 2) word += roots[random() % 4];
      for (uint32_t i = random() % 3; i > 0; --i) word += static_cast<char>('a' + random() % letters);
      const uint32_t count = 1 + random() % 9;
      words[word] += count;
      for (uint32_t i = 0; i < count; ++i) text += word + " ";
    }
    VocabularyTrainerOptions o;
    o.algorithm = VocabularyAlgorithm::top_down;
    o.size = 5 + 2 * letters + random() % 60;
    o.min_frequency = 1 + random() % 4;
    o.threads = 1 + round % 2;
    VocabularyTrainer trainer(o);
    trainer.add(text);
    const std::vector<std::string> tokens = trainer.train();
    INFO(text);
    REQUIRE(tokens == learn_vocabulary_plainly(words, static_cast<size_t>(o.size), o.min_frequency));
    CHECK(static_cast<int64_t>(tokens.size()) <= o.size);
    learned += tokens.size() - 5 - 2 * letters;
    filled += static_cast<int64_t>(tokens.size()) == o.size;
  }
  CHECK(learned > 1500);
  CHECK(filled > 20);
}

TEST_CASE("top down a piece counts only where no longer one covers it") {
  // hell is not kept for the words that hello covers; a piece below the threshold covers nothing.
  TopDownLearner learner;
  learner.add_word("hell", 30);
  learner.add_word("hello", 100);
  learner.add_word("helle", 40);
  learner.build();
  const std::vector<TopDownLearner::Piece> pieces = learner.learn(60, {});
  REQUIRE(pieces.size() == 2);
  CHECK((pieces[0].text == "hello" && pieces[0].count == 100));
  CHECK((pieces[1].text == "hell" && pieces[1].count == 70));
  CHECK(learner.learn(learner.most() + 1, {}).empty());
  int asked = 0;
  CHECK(learner.learn(60, [&] { return ++asked == 3; }).empty());
  CHECK(asked == 3);
}

TEST_CASE("top down words with rare characters, long words and entries are left out") {
  VocabularyTrainerOptions o;
  o.algorithm = VocabularyAlgorithm::top_down;
  o.size = 40;
  o.alphabet_limit = 3;
  o.reserved = {"cc"};
  VocabularyTrainer trainer(o);
  const std::string longest(50, 'a'), longer(51, 'b');
  trainer.add("cc cc cc cc acx acx acx \u6771 " + longest + " " + longest + " " + longer + " " + longer);
  // Neither x nor the Chinese character is one of the three.
  CHECK(trainer.train() == std::vector<std::string>{"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cc", "a", "b", "c", longest, "##a", "##b", "##c"});
  o.stop = [] { return true; };
  VocabularyTrainer stopped(o);
  stopped.add("ab ab");
  CHECK(stopped.train().empty());
  o.stop = {};
  o.reserved.clear();
  for (o.size = 6; o.size < 12; ++o.size) {
    VocabularyTrainer least(o);
    least.add("ab ab cb");
const std::vector<std::string> tokens = least.train();
    CHECK((tokens.size() > 5 && static_cast<int64_t>(tokens.size()) <= o.size));
    CHECK(tokens[5] == (o.size < 9 ? "b" : "a"));  // the most frequent character where there is room for one
  }
}

TEST_CASE("training says how far it is") {
  for (const VocabularyAlgorithm algorithm : {VocabularyAlgorithm::bpe, VocabularyAlgorithm::top_down}) {
    std::vector<std::pair<std::string, double>> told;
    VocabularyTrainerOptions o;
    o.algorithm = algorithm;
    o.size = 500;
    o.progress = [&](const char* stage, double share) { told.emplace_back(stage, share); };
    VocabularyTrainer trainer(o);
    trainer.add(generated_text());
    trainer.train();
    REQUIRE(told.size() > 5);
    CHECK(told.front() == std::pair<std::string, double>(algorithm == VocabularyAlgorithm::bpe ? "splitting words" : "learning pieces", 0));
    CHECK(told.back().first == (algorithm == VocabularyAlgorithm::bpe ? "merging pairs" : "learning pieces"));
    CHECK(told.back().second > 0.7);
    CHECK(told.back().second < 1);
    for (size_t i = 1; i < told.size(); ++i) CHECK((told[i].first != told[i - 1].first || told[i].second >= told[i - 1].second));
  }
}

TEST_CASE("a folder that takes no files is named") {
  VocabularyTrainerOptions o;
  o.memory = 1;
  o.folder = "/no/such/folder";
  o.threads = 2;
  VocabularyTrainer trainer(o);
  trainer.add("a word");
  CHECK_THROWS_WITH(trainer.train(), "[/no/such/folder] expected a folder to write temporary files in, got 'No such file or directory'");
  CHECK_THROWS_AS(trainer.train(), IoError);
}

TEST_CASE("a disk that is full is an error that says so") {
  const test::TemporaryDirectory dir;
  const auto error_of = [&](auto body) {
    return test::in_child([&] {
      std::signal(SIGXFSZ, SIG_IGN);
      const rlimit limit{100000, 100000};  // bytes of a file
      if (setrlimit(RLIMIT_FSIZE, &limit) != 0) return 2;
      try {
        body();
      } catch (const IoError& error) {
        return std::string(error.what()).find("temporary file, got 'File too large'") == std::string::npos ? 3 : 0;
      }
      return 1;
    });
  };
  CHECK(error_of([&] {
          ScratchSpace space(0, dir.path());
          ScratchArray<uint64_t> array(space);
          array.resize(20000);
        }) == 0);
  CHECK(error_of([&] {
          const PreTokenizer pre_tokenizer(TokenizerOptions{});
          WordCounter counter(pre_tokenizer, 0, dir.path());
          for (int i = 0; i < 20; ++i) counter.add_word(std::string(70000, 'a'));
          counter.spill();
          for (int i = 0; i < 200000; ++i) counter.add_word(std::to_string(i));
        }) == 0);
}

TEST_CASE("an array keeps its content when it moves to a file") {
  const test::TemporaryDirectory dir;
  ScratchSpace space(300000, dir.path());
  ScratchArray<uint64_t> a(space), b(space);
  for (uint64_t i = 0; i < 200000; ++i) {
    a.push_back(i * i);
    if (i % 3 == 0) b.push_back(~i);
    if (i % 1000 == 0) space.trim();
  }
  CHECK(space.on_disk());
  for (uint64_t i = 0; i < 200000; ++i) REQUIRE(a[i] == i * i);
  for (uint64_t i = 0; i < b.size(); ++i) REQUIRE(b[i] == ~(3 * i));
  a.reset(100);
  b.reset(100);
  CHECK(!space.on_disk());
  for (uint64_t i = 0; i < 100; ++i) REQUIRE(a[i] + b[i] == 0);
}

TEST_CASE("characters beyond the limit are left out of their words") {
  VocabularyTrainerOptions o;
  o.size = 100;
  o.alphabet_limit = 2;
  o.min_frequency = 3;
  VocabularyTrainer trainer(o);
  trainer.add("azb azb ab ab");
  CHECK(trainer.train() == std::vector<std::string>{"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##b", "ab"});
}

TEST_CASE("training merges the most frequent pairs first and breaks ties by text") {
  VocabularyTrainerOptions o;
  o.size = 14;
  VocabularyTrainer trainer(o);
  trainer.add("ab ab ab cd cd cd abc");
  // Pieces: each character, and ##b ##c ##d; pairs a##b 4, c##d 3, ##b##c 1 (below the least frequency).
  CHECK(trainer.train() == std::vector<std::string>{"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "d", "##b", "##c", "##d", "ab", "cd"});
  CHECK(trainer.distinct_words() == 3);
}

TEST_CASE("training is exact in size, the same every time, and uses every piece once") {
  std::string text;
  for (int i = 0; i < 400; ++i) text += "The cat number " + std::to_string(i * 37 % 101) + " sat on mat " + std::to_string(i % 13) + "; happily so.\n";
  VocabularyTrainerOptions o;
  o.size = 70;
  std::vector<std::vector<std::string>> results;
  for (int run = 0; run < 2; ++run) {
    VocabularyTrainer trainer(o);
    trainer.add(text);
    results.push_back(trainer.train());
  }
  CHECK(results[0] == results[1]);
  CHECK(results[0].size() == 70);
  CHECK_NOTHROW(Vocabulary::from_tokens(results[0], "trained"));
  o.size = 100000;
  VocabularyTrainer greedy(o);
  greedy.add(text);
  CHECK(greedy.train().size() < 200);  // the text yields no more
  CHECK_THROWS_AS(VocabularyTrainer(VocabularyTrainerOptions{}).train(), DataError);
}

TEST_CASE("a vocabulary has room for a character and fits an embedding table") {
  VocabularyTrainerOptions o;
  for (const int64_t size : {kMinVocabularySize - 1, kMaxVocabularySize + 1, int64_t{-3}}) {
    o.size = size;
    CHECK_THROWS_AS(VocabularyTrainer(o), ConfigError);
    CHECK_THROWS_WITH(VocabularyTrainer(o), "[vocab train] expected a size of 6 to 16777216 entries, got " + std::to_string(size));
  }
  o.size = kMinVocabularySize;
  VocabularyTrainer least(o);
  least.add("a b b");
  CHECK(least.train() == std::vector<std::string>{"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "b"});
  o.size = kMaxVocabularySize;
  CHECK_NOTHROW(VocabularyTrainer(o));
}

TEST_CASE("reserved and unused entries stand behind the special tokens, and each entry once") {
  VocabularyTrainerOptions o;
  o.size = 18;
  o.reserved = {"ab", "c", "[DOC]"};
  o.unused = 2;
  VocabularyTrainer trainer(o);
  trainer.add("ab ab ab cd cd cd abc");
  // As above, but ab and c are there already, so that merging a and ##b makes no new entry.
  CHECK(trainer.train() ==
        std::vector<std::string>{"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ab", "c", "[DOC]", "[unused0]", "[unused1]", "a", "b", "d", "##b", "##c", "##d", "cd"});
  const auto refused = [](VocabularyTrainerOptions bad) {
    try {
      VocabularyTrainer t(bad);
    } catch (const ConfigError& error) {
      return std::string(error.what());
    }
    return std::string("none");
  };
  for (const auto& [entry, message] : {std::pair<std::string, std::string>{"", "expected a reserved entry without white space, got an empty one"},
                                       {"a b", "expected a reserved entry without white space, got 'a b', with white space"},
                                       {"\xFF", "expected a reserved entry without white space, got one that is not UTF-8"},
                                       {"[CLS]", "expected each reserved entry once, got '[CLS]' again"},
                                       {"[unused1]", "expected each reserved entry once, got '[unused1]' again"}}) {
    o.reserved = {"x", entry};
    CHECK(refused(o) == "[vocab train] " + message);
  }
  o.reserved.clear();
  o.unused = 13;
  CHECK(refused(o) == "[vocab train] expected a size of 19 to 16777216 entries, 18 of them special, reserved or unused, got 18");
  o.unused = 12;
  CHECK(refused(o) == "none");
  o.min_frequency = 0;
  CHECK(refused(o) == "[vocab train] expected a least frequency of at least 1, got 0");
}

TEST_CASE("a size is rounded up, and filled up where the text yields less") {
  VocabularyTrainerOptions o;
  const auto size_of = [&](int64_t size, int64_t multiple, bool exact) {
    o.size = size;
    o.multiple_of = multiple;
    o.exact_size = exact;
    VocabularyTrainer trainer(o);
    trainer.add("ab ab ab cd cd cd abc");  // fourteen entries
    const std::vector<std::string> tokens = trainer.train();
    CHECK_NOTHROW(Vocabulary::from_tokens(tokens, "trained"));
    return std::pair(trainer.size(), static_cast<int64_t>(tokens.size()));
  };
  using Sizes = std::pair<int64_t, int64_t>;
  CHECK(size_of(100, 1, false) == Sizes(100, 14));
  CHECK(size_of(100, 1, true) == Sizes(100, 100));
  CHECK(size_of(10, 1, true) == Sizes(10, 10));
  CHECK(size_of(100, 64, false) == Sizes(128, 64));
  CHECK(size_of(100, 64, true) == Sizes(128, 128));
  CHECK(size_of(9, 4, false) == Sizes(12, 12));
  o.unused = 3;
  o.size = 20;
  o.multiple_of = 1;
  o.exact_size = true;
  VocabularyTrainer trainer(o);
  trainer.add("ab ab ab cd cd cd abc");
  const auto tokens = trainer.train();
  CHECK(std::vector<std::string>(tokens.begin() + 16, tokens.end()) == std::vector<std::string>{"cd", "[unused3]", "[unused4]", "[unused5]"});
}

TEST_CASE("training that is told to stop makes no vocabulary") {
  VocabularyTrainerOptions o;
  int asked = 0, most = 0;
  o.stop = [&] { return ++asked > most; };
  VocabularyTrainer trainer(o);
  trainer.add("abcdef abcdef abc abc bcd bcd");
  for (; most < 6; ++most) {
    asked = 0;
    CHECK(trainer.train().empty());
    CHECK(asked == most + 1);
  }
  most = 1000;
  asked = 0;
  CHECK(trainer.train().size() > 15);
  CHECK(asked > 3);
}
