// Damaged files of other programs: an Error or documents of ids that the vocabulary has, never anything else. Seconds; the slow tests run
// it with ELECTRA_FUZZ_ROUNDS times as many rounds.
#include <catch2/catch.hpp>
#include <cstdlib>

#include "tests/damaged.h"
#include "tests/foreign_files.h"
#include "tests/temporary_directory.h"
#include "trainer/data/foreign_data.h"
#include "trainer/tfrecord.h"

using namespace electra;
using test::damaged, test::survives;

namespace {

constexpr int kSize = 7600;  // of the vocabulary

Vocabulary vocabulary() {
  std::vector<std::string> tokens;
  for (int i = 0; i < kSize; ++i) tokens.push_back(i == 0 ? "[PAD]" : i == 100 ? "[UNK]" : i == 101 ? "[CLS]" : i == 102 ? "[SEP]" : i == 103 ? "[MASK]" : "t" + std::to_string(i));
  return Vocabulary::from_tokens(tokens, "fuzz");
}

int rounds(int fast) {
  const char* const times = std::getenv("ELECTRA_FUZZ_ROUNDS");
  return fast * (times ? std::atoi(times) : 1);
}

// A new file: to cut an old one short may wait for the disk.
void write(const std::string& path, const std::string& bytes) {
  std::filesystem::remove(path);
  test::write_file(path, bytes);
}

// Whether it is refused.
bool refused(const std::string& path, const Vocabulary& v, const std::optional<std::filesystem::path>& dictionary = {}) {
  return !survives([&] {
    const auto data = open_foreign_data(path, v, dictionary);
    for (TokenDocument d; data->next(d);) {
      REQUIRE((d.ends.empty() ? d.ids.empty() : d.ends.back() == d.ids.size()));
      for (size_t s = 0, begin = 0; s < d.ends.size(); begin = d.ends[s++]) REQUIRE(begin < d.ends[s]);
      for (const int32_t id : d.ids) REQUIRE((id >= 0 && id < kSize));
    }
  });
}

}  // namespace

TEST_CASE("damaged TFRecord files are refused or read") {
  const test::TemporaryDirectory dir;
  const Vocabulary v = vocabulary();
  std::mt19937 random(11);
  const std::string file = dir / "t";
  const std::string good = test::kTfRecord + tfrecord(to_tf_example({101, 7, 8, 102, 9, 102}, {0, 0, 0, 0, 1, 1}, 8)) + test::kTfRecord;
  write(file, good);
  REQUIRE(!refused(file, v));
  const int n = rounds(4000);
  int count = 0;
  for (int i = 0; i < n; ++i) {
    write(file, damaged(good, random));
    count += refused(file, v);
  }
  CHECK(count > n / 2);
  // Behind checksums that are right.
  const std::string example = to_tf_example({101, 7, 8, 102, 9, 102}, {0, 0, 0, 0, 1, 1}, 8);
  count = 0;
  for (int i = 0; i < n; ++i) {
    write(file, test::kTfRecord + tfrecord(damaged(example, random)));
    count += refused(file, v);
  }
  CHECK(count > n / 2);
  CHECK(count < n);
}

TEST_CASE("damaged indexed datasets are refused or read") {
  const test::TemporaryDirectory dir;
  const Vocabulary v = vocabulary();
  std::mt19937 random(12);
  std::string ids;
  for (uint16_t id = 5; id < 14; ++id) test::append(ids, id);
  write(dir / "dict.txt", "t5 9\nt6 8\nt7 7\nt8 6\nt9 5\nt10 4\nt11 3\nt12 2\nt13 1\n");
  const std::pair<test::IndexedFiles, bool> seeds[] = {{{ids, test::kMegatronIndex}, false},
                                                       {{ids, test::kMegatronIndex + std::string(3, '\0')}, false},
                                                       {test::indexed_files<int64_t>(5, {{5, 6}, {}, {7}}, {0, 1, 3}), false},
                                                       {test::indexed_files<uint32_t>(9, {{5, 6, 2}, {2}, {7, 3, 2}}), true},
                                                       {test::indexed_files<uint8_t>(1, {{5, 6}, {7}}), false}};
  const int n = rounds(1500);
  for (const auto& [good, with_dictionary] : seeds) {
    const auto check = [&, dictionary = with_dictionary ? std::optional<std::filesystem::path>(dir / "dict.txt") : std::nullopt] { return refused(dir / "x", v, dictionary); };
    write(dir / "x.bin", good.bin);
    write(dir / "x.idx", good.idx);
    REQUIRE(!check());
    int count = 0;
    for (int i = 0; i < n; ++i) {
      write(dir / "x.idx", i % 4 ? damaged(good.idx, random) : good.idx);
      write(dir / "x.bin", i % 4 ? good.bin : damaged(good.bin, random));
      count += check();
    }
    CHECK(count > n / 4);
    CHECK(count < n);
  }
}

TEST_CASE("damaged dictionaries are refused or read") {
  const test::TemporaryDirectory dir;
  const Vocabulary v = vocabulary();
  std::mt19937 random(13);
  const auto files = test::indexed_files<uint16_t>(8, {{4, 5, 2}, {6, 2}});
  write(dir / "x.bin", files.bin);
  write(dir / "x.idx", files.idx);
  const std::string good = "t5 9\nt6 8 #fairseq:overwrite\nt7 7\n";
  const int n = rounds(1500);
  int count = 0;
  for (int i = 0; i < n; ++i) {
    write(dir / "dict.txt", damaged(good, random));
    count += refused(dir / "x", v, dir / "dict.txt");
  }
  CHECK(count > n / 4);
  CHECK(count < n);
}
