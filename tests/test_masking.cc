// Masking, corruption, and the gather of masked rows.
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <numeric>
#include <set>

#include "kernels/core/error.h"
#include "kernels/core/philox.h"
#include "kernels/dispatch.h"
#include "kernels/masking.h"
#include "tests/op_test.h"
#include "tests/traffic.h"

using namespace electra;
using namespace electra::test;

namespace {

constexpr SpecialIds kSpecial;
constexpr uint64_t kSite = fnv1a64("test/mask_tokens");

// [CLS] words [SEP] words [SEP], ids from 1000 on; what a real example looks like.
std::vector<int32_t> sentence(int64_t length, Random& random) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < length; ++i) ids.push_back(static_cast<int32_t>(1000 + random.below(5000)));
  ids.front() = kSpecial.cls;
  ids.back() = kSpecial.sep;
  if (length > 8) ids[static_cast<size_t>(length / 2)] = kSpecial.sep;
  return ids;
}

// One call of mask_tokens with memory of its own.
struct Masking {
  std::vector<int32_t> ids, offsets{0}, masked_ids, rows, targets;
  std::vector<float> weights;
  int64_t max_predictions;
  double mask_prob = 0.15;
  bool with_replacement = false;
  MaskUnit unit = MaskUnit::token;
  double span_words = 3;
  std::vector<uint8_t> continuations;
  StepState state{.seed = 12, .step = 5};

  Masking(const std::vector<int64_t>& lengths, int64_t predictions, uint64_t seed = 1) : max_predictions(predictions) {
    Random random(seed);
    for (const int64_t n : lengths) {
      if (n > 0) {
        const std::vector<int32_t> s = sentence(n, random);
        ids.insert(ids.end(), s.begin(), s.end());
      }
      offsets.push_back(static_cast<int32_t>(ids.size()));
    }
  }
  int64_t sequences() const { return static_cast<int64_t>(offsets.size()) - 1; }
  template <class T> static Tensor tensor(std::vector<T>& v) { return {v.data(), {static_cast<int64_t>(v.size())}, dtype_of<T>}; }
  MaskTokens arguments() {
    const auto slots = static_cast<size_t>(sequences() * max_predictions);
    masked_ids.assign(ids.size(), -1);
    rows.assign(slots, -1);
    targets.assign(slots, -1);
    weights.assign(slots, NAN);
    return {.ids = tensor(ids),
            .sequence_offsets = tensor(offsets),
            .masked_ids = tensor(masked_ids),
            .masked_rows = tensor(rows),
            .masked_weights = tensor(weights),
            .masked_targets = tensor(targets),
            .special = kSpecial,
            .max_predictions = max_predictions,
            .mask_prob = mask_prob,
            .with_replacement = with_replacement,
            .unit = unit,
            .span_words = span_words,
            .continuations = continuations.empty() ? Tensor{} : tensor(continuations),
            .site = kSite,
            .state = &state};
  }
  void run(int threads = 1) {
    ThreadPool pool(threads, Assignment::striped);
    Stream stream(pool);
    mask_tokens<Backend::cpu>(arguments(), stream);
  }
  // Of the ids from 1000 to 4999 three in five continue a word; those from 5000 on stand beyond the table.
  void use(MaskUnit u) {
    unit = u;
    continuations.assign(5000, 0);
    for (size_t id = 1000; id < 5000; ++id) continuations[id] = id * 2654435761u % 5 < 3;
  }
  bool continues(int32_t id) const { return static_cast<size_t>(id) < continuations.size() && continuations[static_cast<size_t>(id)] == 1; }
  // Rows of a sequence's used slots.
  std::vector<int32_t> used(int64_t s) const {
    std::vector<int32_t> result;
    for (auto i = static_cast<size_t>(s * max_predictions); i < static_cast<size_t>((s + 1) * max_predictions); ++i)
      if (weights[i] == 1) result.push_back(rows[i]);
    return result;
  }
};

void check_everywhere(const OpRecord& record) {
  check_kernel(record);
  check_device(record);
}

bool candidate(int32_t id) { return id != kSpecial.cls && id != kSpecial.sep && id != kSpecial.mask; }

uint32_t word_of(const Masking& m, int64_t s, int64_t index, uint32_t purpose) {
  return philox(m.state.seed ^ kSite, {m.state.step, m.state.first_sequence + static_cast<uint32_t>(s), static_cast<uint32_t>(index / 4), purpose})
      .word[index % 4];
}

// What kernels/masking.h says, by sorting all candidates.
void check_against_definition(const Masking& m) {
  for (int64_t s = 0; s < m.sequences(); ++s) {
    const int32_t begin = m.offsets[static_cast<size_t>(s)], length = m.offsets[static_cast<size_t>(s + 1)] - begin;
    std::vector<int32_t> candidates;
    for (int32_t p = 0; p < length; ++p)
      if (candidate(m.ids[static_cast<size_t>(begin + p)])) candidates.push_back(p);
    const int64_t n = masked_count(m.ids.data() + begin, length, kSpecial, m.mask_prob, m.max_predictions, m.with_replacement);
    std::vector<int32_t> picked;
    if (m.with_replacement) {
      for (int64_t j = 0; j < n; ++j)
        picked.push_back(candidates[static_cast<size_t>(word_of(m, s, j, 1) / 0x1p32 * static_cast<double>(candidates.size()))]);
    } else {
      const auto key = [&](int32_t p) {  // of the unit
        const int32_t* const id = m.ids.data() + begin;
        while (m.unit != MaskUnit::token && p > 0 && candidate(id[p - 1]) &&
               (m.continues(id[p]) || (m.unit == MaskUnit::span && word_of(m, s, p, 3) / 0x1p32 >= 1 / m.span_words)))
          --p;
        return word_of(m, s, p, 0);
      };
      std::stable_sort(candidates.begin(), candidates.end(), [&](int32_t a, int32_t b) { return key(a) < key(b); });
      picked.assign(candidates.begin(), candidates.begin() + n);
    }
    std::sort(picked.begin(), picked.end());
    INFO("sequence " << s << " of " << length << " tokens");
    std::vector<int32_t> expected_ids(m.ids.begin() + begin, m.ids.begin() + begin + length);
    for (int64_t j = 0; j < m.max_predictions; ++j) {
      const auto slot = static_cast<size_t>(s * m.max_predictions + j);
      if (j >= n) {
        CHECK(m.rows[slot] == 0);
        CHECK(m.weights[slot] == 0);
        CHECK(m.targets[slot] == 0);
        continue;
      }
      const int32_t p = picked[static_cast<size_t>(j)];
      CHECK(m.rows[slot] == begin + p);
      CHECK(m.weights[slot] == 1);
      CHECK(m.targets[slot] == m.ids[static_cast<size_t>(begin + p)]);
      if (word_of(m, s, m.with_replacement ? j : p, 2) < 0.85 * 0x1p32) expected_ids[static_cast<size_t>(p)] = kSpecial.mask;
    }
    CHECK(std::equal(expected_ids.begin(), expected_ids.end(), m.masked_ids.begin() + begin));
  }
}

}  // namespace

TEST_CASE("mask_tokens does what its header says, with and without replacement") {
  for (const bool with_replacement : {false, true}) {
    Masking m({128, 1, 2, 3, 0, 17, 64, 127}, 19);
    m.with_replacement = with_replacement;
    m.state.first_sequence = 9;
    for (const uint32_t step : {0u, 1u, 77u}) {
      m.state.step = step;
      m.run();
      check_against_definition(m);
    }
  }
}

TEST_CASE("mask_tokens of words and spans does what its header says") {
  for (const MaskUnit unit : {MaskUnit::word, MaskUnit::span})
    for (const double span_words : {1.0, 3.0, 20.0}) {
      Masking m({128, 1, 2, 3, 0, 17, 64, 127, 600}, 19);
      m.use(unit);
      m.span_words = span_words;
      m.state.first_sequence = 9;
      for (const uint32_t step : {0u, 1u, 77u}) {
        m.state.step = step;
        m.run();
        check_against_definition(m);
      }
    }
}

TEST_CASE("mask_tokens of words masks whole words, all but one a sequence, and as many tokens as without") {
  Masking m(std::vector<int64_t>(300, 128), 19);
  m.use(MaskUnit::word);
  m.run();
  int64_t whole = 0, cut = 0;
  for (int64_t s = 0; s < 300; ++s) {
    const std::vector<int32_t> rows = m.used(s);
    CHECK(rows.size() == 19);
    const std::set<int32_t> masked(rows.begin(), rows.end());
    int64_t here = 0;
    for (int32_t begin = static_cast<int32_t>(128 * s), end = begin + 128, p = begin; p < end;) {
      int32_t next = p + 1;
      const auto id = [&](int32_t q) { return m.ids[static_cast<size_t>(q)]; };
      while (candidate(id(p)) && next < end && candidate(id(next)) && m.continues(id(next))) ++next;
      int32_t n = 0;
      for (int32_t q = p; q < next; ++q) n += static_cast<int32_t>(masked.count(q));
      whole += n == next - p && next - p > 1;
      if (n > 0 && n < next - p) {
        ++here;
        for (int32_t q = p; q < p + n; ++q) CHECK(masked.count(q) == 1);  // its first pieces
      }
      p = next;
    }
    CHECK(here <= 1);
    cut += here;
  }
  CHECK(whole > 600);
  CHECK(cut > 30);
}

TEST_CASE("mask_tokens of spans masks runs of words, as long as asked on average") {
  for (const double span_words : {1.0, 2.0, 4.0}) {
    Masking m(std::vector<int64_t>(400, 512), 77);
    m.use(MaskUnit::span);
    m.continuations.assign(5000, 0);  // words of one piece
    m.span_words = span_words;
    // The number of masked runs tells their length: those of neighbouring spans join.
    m.run();
    int64_t runs = 0, tokens = 0;
    for (int64_t s = 0; s < 400; ++s) {
      const std::vector<int32_t> rows = m.used(s);
      for (size_t i = 0; i < rows.size(); ++i) runs += i == 0 || rows[i] != rows[i - 1] + 1;
      tokens += static_cast<int64_t>(rows.size());
    }
    INFO(span_words);
    CHECK(static_cast<double>(tokens) / static_cast<double>(runs) == Approx(span_words / 0.85).epsilon(0.08));
  }
}

TEST_CASE("mask_tokens masks distinct positions, never a special one, as many as the original") {
  Masking m({128, 128, 40, 10}, 19);
  for (uint32_t step = 0; step < 50; ++step) {
    m.state.step = step;
    m.run();
    const size_t expected[] = {19, 19, 6, 2};
    for (int64_t s = 0; s < 4; ++s) {
      const std::vector<int32_t> rows = m.used(s);
      CHECK(rows.size() == expected[s]);
      CHECK(std::set<int32_t>(rows.begin(), rows.end()).size() == rows.size());
      CHECK(std::is_sorted(rows.begin(), rows.end()));
      CHECK(std::all_of(rows.begin(), rows.end(), [&](int32_t r) { return candidate(m.ids[static_cast<size_t>(r)]); }));
    }
  }
}

TEST_CASE("masked_count: at least one, at most max_predictions, halves to even, no more than candidates") {
  Random random(4);
  const auto count = [&](int64_t length, double prob, int64_t most, bool replacement = false) {
    const std::vector<int32_t> ids = sentence(length, random);
    return masked_count(ids.data(), length, kSpecial, prob, most, replacement);
  };
  CHECK(count(128, 0.15, 19) == 19);
  CHECK(count(512, 0.15, 79) == 77);   // round(76.8)
  CHECK(count(512, 0.25, 130) == 128);
  CHECK(count(30, 0.15, 19) == 4);     // 4.5
  CHECK(count(10, 0.15, 19) == 2);     // 1.5
  CHECK(count(3, 0.15, 19) == 1);      // 0.45
  CHECK(count(128, 0.15, 7) == 7);
  CHECK(count(2, 0.5, 19) == 0);       // [CLS] [SEP]
  CHECK(count(2, 0.5, 19, true) == 0);
  CHECK(count(3, 1.0, 19) == 1);
  CHECK(count(3, 1.0, 19, true) == 3);
  CHECK(count(6, 0.9, 19) == 4);
  const std::vector<int32_t> masks(5, kSpecial.mask);
  CHECK(masked_count(masks.data(), 5, kSpecial, 0.15, 19, false) == 0);
}

TEST_CASE("mask_tokens: every candidate is as likely, 85 % become [MASK], in either mode") {
  for (const bool with_replacement : {false, true}) {
    const int64_t length = 40, sequences = 400;
    Masking m(std::vector<int64_t>(sequences, length), 6);
    m.with_replacement = with_replacement;
    std::vector<double> hits(length, 0);
    double slots = 0, masked = 0, positions = 0;
    for (uint32_t step = 0; step < 10; ++step) {
      m.state.step = step;
      m.run();
      for (int64_t s = 0; s < sequences; ++s) {
        const std::vector<int32_t> rows = m.used(s);
        for (const int32_t r : rows) hits[static_cast<size_t>(r - s * length)] += 1;
        slots += static_cast<double>(rows.size());
        for (const int32_t r : std::set<int32_t>(rows.begin(), rows.end())) {
          ++positions;
          masked += m.masked_ids[static_cast<size_t>(r)] == kSpecial.mask;
        }
      }
    }
    CHECK(slots == 6 * sequences * 10);
    // 24,000 draws over 37 candidates. Chi-square with 36 degrees of freedom: mean 36, deviation 8.5 (a little less without
    // replacement).
    const double expected = slots / 37;
    double chi_square = 0;
    for (int64_t p = 0; p < length; ++p) {
      if (p == 0 || p == 20 || p == 39) CHECK(hits[static_cast<size_t>(p)] == 0);
      else chi_square += std::pow(hits[static_cast<size_t>(p)] - expected, 2) / expected;
    }
    INFO("with replacement " << with_replacement << ", chi-square " << chi_square);
    CHECK(chi_square < 70);
    CHECK(chi_square > 10);
    CHECK(masked / positions == Approx(0.85).margin(0.012));
    // 37 (1 - (36/37)^6) distinct positions on average with replacement.
    CHECK(positions / (10 * sequences) == Approx(with_replacement ? 37 * (1 - std::pow(36.0 / 37, 6)) : 6).epsilon(0.01));
  }
}

TEST_CASE("mask_tokens: same bits for any number of threads, new draws at each step, sequence and seed") {
  Masking m({50, 50, 50}, 8);
  std::copy_n(m.ids.begin(), 50, m.ids.begin() + 50);
  m.run(1);
  const Masking first = m;
  for (const int threads : {2, 4}) {
    m.run(threads);
    CHECK(m.rows == first.rows);
    CHECK(m.masked_ids == first.masked_ids);
  }
  std::vector<int32_t> second_rows = m.used(1);
  for (int32_t& r : second_rows) r -= 50;
  CHECK(second_rows != m.used(0));
  m.state.step += 1;
  m.run();
  CHECK(m.rows != first.rows);
  m.state.step -= 1;
  m.state.seed += 1;
  m.run();
  CHECK(m.rows != first.rows);

  // Cutting the batch in micro-batches changes nothing.
  Masking tail({50}, 8);
  std::copy_n(first.ids.begin() + 100, 50, tail.ids.begin());
  tail.state.first_sequence = 2;
  tail.run();
  std::vector<int32_t> rows = tail.used(0);
  for (int32_t& r : rows) r += 100;
  CHECK(rows == first.used(2));
}

namespace {

// The same as an op: integers and weights that every backend must write bit for bit.
OpRecord masking_record(const Masking& m) {
  const auto doubles = [](const std::vector<int32_t>& v) { return std::vector<double>(v.begin(), v.end()); };
  const int64_t slots = m.sequences() * m.max_predictions, size = static_cast<int64_t>(m.ids.size());
  OpRecord record{.name = std::string("mask_tokens") + (m.with_replacement ? " with replacement" : m.unit == MaskUnit::word ? " of words" : m.unit == MaskUnit::span ? " of spans" : "")};
  record.inputs = {{"ids", {size}, doubles(m.ids), DType::i32}, {"sequence_offsets", {m.sequences() + 1}, doubles(m.offsets), DType::i32}};
  record.results = {{"masked_ids", {size}, false, DType::i32, Compare::exact},
                    {"masked_rows", {slots}, false, DType::i32, Compare::exact},
                    {"masked_weights", {slots}, false, DType::f32, Compare::exact},
                    {"masked_targets", {slots}, false, DType::i32, Compare::exact}};
  if (m.unit != MaskUnit::token)
    record.inputs.push_back({"continuations", {static_cast<int64_t>(m.continuations.size())}, {m.continuations.begin(), m.continuations.end()}, DType::u8});
  record.state = m.state;
  record.device_dtypes = {DType::f32};
  record.forward = [predictions = m.max_predictions, prob = m.mask_prob, with_replacement = m.with_replacement, unit = m.unit,
                    span_words = m.span_words](const Arguments& a, Stream& stream) {
    dispatch(stream, [&]<Backend B>() {
      mask_tokens<B>({.ids = a["ids"],
                      .sequence_offsets = a["sequence_offsets"],
                      .masked_ids = a["masked_ids"],
                      .masked_rows = a["masked_rows"],
                      .masked_weights = a["masked_weights"],
                      .masked_targets = a["masked_targets"],
                      .special = kSpecial,
                      .max_predictions = predictions,
                      .mask_prob = prob,
                      .with_replacement = with_replacement,
                      .unit = unit,
                      .span_words = span_words,
                      .continuations = unit == MaskUnit::token ? Tensor{} : a["continuations"],
                      .site = kSite,
                      .state = a.state},
                     stream);
    });
  };
  return record;
}

}  // namespace

TEST_CASE("mask_tokens: every backend writes the same bits") {
  for (const bool with_replacement : {false, true})
    for (const int64_t predictions : {1, 19, 80}) {
      // Around four positions a thread and the 512 of a block; [CLS] [SEP] alone; nothing at all.
      Masking m({128, 1, 2, 3, 0, 17, 64, 127, 511, 512, 513, 1100, 0}, predictions);
      m.ids.insert(m.ids.end(), {7, 8, 9});
      m.with_replacement = with_replacement;
      m.state.first_sequence = 5;
      check_everywhere(masking_record(m));
    }
  for (const MaskUnit unit : {MaskUnit::word, MaskUnit::span})
    for (const int64_t predictions : {1, 19, 80}) {
      Masking m({128, 1, 2, 3, 0, 17, 64, 127, 511, 512, 513, 1100, 0}, predictions);
      m.use(unit);
      m.state.first_sequence = 5;
      check_everywhere(masking_record(m));
    }
  Masking all({100, 9, 600}, 700);  // as many as there are candidates
  all.mask_prob = 1;
  check_everywhere(masking_record(all));
  check_everywhere(masking_record(Masking({}, 4)));
}

TEST_CASE("mask_tokens: of equal keys the smaller position wins") {
  Masking m({1000}, 1);
  m.mask_prob = 1;
  // A step, found by trying, in which two candidates have the same key: the last slot is for one of them.
  m.state.step = 5516;
  std::vector<std::pair<uint32_t, int32_t>> keys;
  for (int32_t p = 0; p < 1000; ++p)
    if (candidate(m.ids[static_cast<size_t>(p)])) keys.emplace_back(word_of(m, 0, p, 0), p);
  std::sort(keys.begin(), keys.end());
  size_t tie = 0;
  for (size_t i = 1; i < keys.size(); ++i)
    if (keys[i].first == keys[i - 1].first) tie = i;
  REQUIRE(tie > 0);
  m.max_predictions = static_cast<int64_t>(tie);
  m.run();
  const std::vector<int32_t> rows = m.used(0);
  CHECK(std::count(rows.begin(), rows.end(), keys[tie - 1].second) == 1);
  CHECK(std::count(rows.begin(), rows.end(), keys[tie].second) == 0);
  check_everywhere(masking_record(m));
}

TEST_CASE("mask_tokens: unused capacity is copied") {
  Masking m({20}, 4);
  m.ids.insert(m.ids.end(), {7, 8, 9});
  m.run();
  CHECK(std::vector<int32_t>(m.masked_ids.end() - 3, m.masked_ids.end()) == std::vector<int32_t>{7, 8, 9});
}

TEST_CASE("mask_tokens: bad input is named") {
  ThreadPool pool(1);
  Stream stream(pool);
  const auto with = [&](auto change) {
    Masking m({20, 12}, 4);
    MaskTokens a = m.arguments();
    change(a, m);
    return error_of<Error>([&] { mask_tokens<Backend::cpu>(a, stream); });
  };
  CHECK(with([](MaskTokens& a, Masking&) { a.max_predictions = 0; }) == "[mask_tokens] expected max_predictions of at least 1, got 0");
  CHECK(with([](MaskTokens& a, Masking&) { a.masked_rows.shape = {7}; }) == "[mask_tokens] masked_rows has shape (7), expected (8)");
  CHECK(with([](MaskTokens& a, Masking&) { a.masked_weights.dtype = DType::f64; }) == "[mask_tokens] masked_weights has type f64, expected f32");
  CHECK(with([](MaskTokens& a, Masking&) { a.ids.dtype = DType::i64; }) == "[mask_tokens] ids has type i64, expected i32");
  CHECK(with([](MaskTokens&, Masking& m) { m.offsets[2] = 40; }) == "[mask_tokens] the last offset is 40, expected at most 32");
  CHECK(with([](MaskTokens&, Masking& m) { m.offsets[1] = 33; }) == "[mask_tokens] expected ascending offsets, got 33 before 32");
  CHECK(with([](MaskTokens& a, Masking&) { a.unit = MaskUnit::word; }) == "[mask_tokens] expected the pieces that continue words, got none");
  const auto units = [&](auto change) {
    return with([&](MaskTokens& a, Masking& m) {
      m.use(MaskUnit::span);
      a.unit = MaskUnit::span;
      a.continuations = Masking::tensor(m.continuations);
      change(a);
    });
  };
  CHECK(units([](MaskTokens& a) { a.with_replacement = true; }) == "[mask_tokens] expected words and spans without replacement, got them with it");
  CHECK(units([](MaskTokens& a) { a.span_words = 0.5; }) == "[mask_tokens] expected spans of at least 1 word, got 0.500000");
  CHECK(units([](MaskTokens& a) { a.continuations.dtype = DType::i32; }) == "[mask_tokens] continuations has type i32, expected u8");
  CHECK(with([](MaskTokens& a, Masking&) { a.state = nullptr; }) == "[mask_tokens] expected a step state, got none");
}

TEST_CASE("corrupt_tokens: samples replace, labels say where they differ, repeated rows take the mean") {
  std::vector<int32_t> ids{101, 11, 12, 13, 102, 9}, rows{1, 2, 2, 3, 0, 4}, sampled{11, 20, 25, 14, 999, 999};
  std::vector<float> weights{1, 1, 1, 1, 0, 0}, labels(6, NAN);
  std::vector<int32_t> out(6, -1);
  ThreadPool pool(1);
  Stream stream(pool);
  const auto tensor = [](auto& v) { return Masking::tensor(v); };
  CorruptTokens a{.ids = tensor(ids), .masked_rows = tensor(rows), .masked_weights = tensor(weights), .sampled_ids = tensor(sampled),
                  .out_ids = tensor(out), .labels = tensor(labels)};
  corrupt_tokens<Backend::cpu>(a, stream);
  CHECK(out == std::vector<int32_t>{101, 11, 22, 14, 102, 9});  // (20 + 25) / 2 rounded down
  CHECK(labels == std::vector<float>{0, 0, 1, 1, 0, 0});

  rows[3] = 6;
  CHECK(error_of<DataError>([&] { corrupt_tokens<Backend::cpu>(a, stream); }) == "[corrupt_tokens] row of slot 3 is 6, expected 0 to 5");
  rows[3] = 3;
  a.labels.shape = {5};
  CHECK(error_of<ShapeError>([&] { corrupt_tokens<Backend::cpu>(a, stream); }) == "[corrupt_tokens] labels has shape (5), expected (6)");
}

namespace {

OpRecord corrupt_record(int64_t size, const std::vector<double>& rows, const std::vector<double>& weights, const std::vector<double>& sampled) {
  const auto slots = static_cast<int64_t>(rows.size());
  OpRecord record{.name = "corrupt_tokens"};
  record.inputs = {{"ids", {size}, Random(3).integers(size, 50), DType::i32},
                   {"masked_rows", {slots}, rows, DType::i32},
                   {"masked_weights", {slots}, weights, DType::f32},
                   {"sampled_ids", {slots}, sampled, DType::i32}};
  record.results = {{"out_ids", {size}, false, DType::i32, Compare::exact}, {"labels", {size}, false, DType::f32, Compare::exact}};
  record.device_dtypes = {DType::f32};
  record.forward = [](const Arguments& a, Stream& stream) {
    dispatch(stream, [&]<Backend B>() {
      corrupt_tokens<B>({.ids = a["ids"],
                         .masked_rows = a["masked_rows"],
                         .masked_weights = a["masked_weights"],
                         .sampled_ids = a["sampled_ids"],
                         .out_ids = a["out_ids"],
                         .labels = a["labels"]},
                        stream);
    });
  };
  return record;
}

}  // namespace

TEST_CASE("corrupt_tokens: every backend writes the same bits") {
  check_everywhere(corrupt_record(6, {1, 2, 2, 2, 3, 0, 4}, {1, 1, 1, 1, 1, 0, 0}, {11, 20, 25, 29, 14, 999, 999}));
  // Several blocks; a third of the rows, every eleventh of them three times; ids of 50 kinds, so that some samples are right.
  std::vector<double> rows, weights;
  for (int64_t row = 0; row < 2101; row += 3)
    for (int64_t k = 0; k < (row % 11 == 0 ? 3 : 1); ++k) {
      rows.push_back(static_cast<double>(row));
      weights.push_back(row % 13 == 0 ? 0 : 1);
    }
  check_everywhere(corrupt_record(2101, rows, weights, Random(4).integers(static_cast<int64_t>(rows.size()), 50)));
}

namespace {

OpRecord gather_record(int64_t cols, int64_t size, const std::vector<double>& rows, const std::vector<double>& weights) {
  const auto slots = static_cast<int64_t>(rows.size());
  OpRecord record{.name = "gather_rows of " + std::to_string(cols)};
  record.inputs = {{"x", {size, cols}, Random(2).normals(size * cols)}, {"rows", {slots}, rows, DType::i32}, {"weights", {slots}, weights, DType::f32}};
  record.results = {{"y", {slots, cols}}};
  record.gradients = {{"x"}};
  record.device_dtypes = {DType::f32, DType::bf16};
  record.forward = [](const Arguments& a, Stream& stream) {
    dispatch(stream, [&]<Backend B>() { gather_rows<B>({.x = a["x"], .rows = a["rows"], .weights = a["weights"], .y = a["y"]}, stream); });
  };
  record.backward = [](const Arguments& a, Stream& stream) {
    if (a.mode("dx") == GradMode::none) return;  // the engine does not call it then
    dispatch(stream, [&]<Backend B>() {
      gather_rows_backward<B>({.rows = a["rows"],
                               .weights = a["weights"],
                               .dy = a["dy"],
                               .dx = a["dx"],
                               .accumulate = a.mode("dx") == GradMode::accumulate},
                              stream);
    });
  };
  return record;
}

// The same seven (rows, weights) as masking makes them, with a row that repeats, again and again: the gradients of a row add up in
// the order of its slots.
OpRecord gather_record(int64_t cols, int64_t slots = 7) {
  const std::vector<double> rows{1, 4, 4, 0, 8, 6, 0}, weights{1, 1, 1, 0, 1, 1, 0};
  std::vector<double> all_rows, all_weights;
  for (size_t i = 0; i < static_cast<size_t>(slots); ++i) {
    all_rows.push_back(rows[i % 7]);
    all_weights.push_back(weights[i % 7]);
  }
  return gather_record(cols, 9, all_rows, all_weights);
}

}  // namespace

TEST_CASE("gather_rows: gradients, kernel, modes, determinism") {
  for (const int64_t cols : {1, 5, 64}) check_op(gather_record(cols));
  for (const int64_t slots : {63, 64, 65, 200}) {
    OpRecord record = gather_record(5, slots);
    record.ulps = static_cast<double>(slots);  // a sum of up to 57 cotangents without a naive form
    record.device_dtypes = {};  // rounds between slots that are not neighbours: "over many rows and slots"
    check_op(record);
  }
}

// More rows and slots than a block of the CUDA kernel takes at a time; rows in any order, some of them several times, next to each
// other and far apart.
TEST_CASE("gather_rows: over many rows and slots") {
  Random random(8);
  for (const auto& [cols, size, slots] : {std::array<int64_t, 3>{8, 700, 2600}, {256, 130, 40}, {20, 128, 1025}, {33, 1, 3}}) {
    std::vector<double> rows = random.integers(slots, size), weights(static_cast<size_t>(slots), 1);
    for (size_t i = 1; i < rows.size(); i += 3) rows[i] = rows[i - 1];
    for (size_t i = 0; i < weights.size(); i += 5) weights[i] = rows[i] = 0;
    OpRecord record = gather_record(cols, size, rows, weights);
    record.bf16_ulps = 8;  // a row that stands far apart several times is rounded as often
    check_everywhere(record);
  }
}

TEST_CASE("gather_rows: unused slots read nothing and repeated rows add up") {
  const OpRecord record = gather_record(3);
  Run run(record, DType::f32);
  run.forward();
  run.backward();
  const std::vector<double> x = run.values("x"), y = run.values("y"), dy = run.values("dy"), dx = run.values("dx");
  for (size_t c = 0; c < 3; ++c) {
    CHECK(y[3 * 3 + c] == 0);
    CHECK(y[1 * 3 + c] == x[4 * 3 + c]);
    CHECK(dx[0 * 3 + c] == 0);
    CHECK(dx[4 * 3 + c] == Approx(dy[1 * 3 + c] + dy[2 * 3 + c]));
  }
}

TEST_CASE("gather_rows: bad input is named") {
  const OpRecord record = gather_record(3);
  Run run(record, DType::f32);
  run.set("rows", {1, 4, 9, 0, 8, 6, 0});
  CHECK(error_of<DataError>([&] { run.forward(); }) == "[gather_rows] row of slot 2 is 9, expected 0 to 8");
  CHECK(error_of<DataError>([&] { run.backward(); }) == "[gather_rows] row of slot 2 is 9, expected 0 to 8");
  const auto with = [&](const char* name, auto change, bool backward = false) {
    Run wrong(record, DType::f32);
    change(wrong.arguments().tensors[name]);
    return error_of<ShapeError>([&] { backward ? wrong.backward() : wrong.forward(); });
  };
  const auto retype = [](DType type) { return [=](Tensor& t) { t.dtype = type; }; };
  for (const bool backward : {false, true}) {
    CHECK(with("rows", retype(DType::i64), backward) == "[gather_rows] rows has type i64, expected i32");
    CHECK(with("weights", retype(DType::i32), backward) == "[gather_rows] weights has type i32, expected f32");
    CHECK(with("weights", [](Tensor& t) { t.shape = {6}; }, backward) == "[gather_rows] weights has shape (6), expected (7)");
  }
  CHECK(with("y", retype(DType::f64)) == "[gather_rows] y has type f64, expected f32");
  CHECK(with("dx", retype(DType::f64), true) == "[gather_rows] dx has type f64, expected f32");
  CHECK(with("dy", [](Tensor& t) { t.shape = {7, 4}; }, true) == "[gather_rows] dy has shape (7, 4), expected (7, 3)");
  run.arguments().tensors["y"].shape = {6, 3};
  CHECK(error_of<ShapeError>([&] { run.forward(); }) == "[gather_rows] y has shape (6, 3), expected (7, 3)");
}

// ids are read six times (candidates, four digits of the keys, the pass that places), five of them from the cache; every output is written
// once. Each warp of a block reads the sequence's offsets, and of the state seed, step and first sequence. Where two keys' digits share a
// bank of the histogram is chance, but always the same.
TEST_CASE("mask_tokens on the device: traffic", traffic_tag()) {
  if constexpr (kGpuBuild == GpuBuild::SIMT) {
    constexpr uint64_t kSequences = 6, kLength = 128, kSlots = 19, kTokens = kSequences * kLength, kWarps = 4;
    Run run(masking_record(Masking(std::vector<int64_t>(kSequences, kLength), kSlots)), DType::f32, {}, Backend::cuda);
    const simt::Traffic traffic = moved([&] { run.forward(); });
    CHECK(traffic.read_bytes == 6 * 4 * kTokens + kSequences * kWarps * (2 * 4 + 16) + kWarps * 4);
    CHECK(traffic.write_bytes == 4 * kTokens + 12 * kSequences * kSlots);
    CHECK(traffic.shared_read_conflicts == 49);
    CHECK(traffic.shared_write_conflicts == 0);
  }
}

// ids copied; a slot looks at its own row and weight (twice), at those of the slots before and after, at its sample and the original id.
TEST_CASE("corrupt_tokens on the device: traffic", traffic_tag()) {
  if constexpr (kGpuBuild == GpuBuild::SIMT) {
    constexpr uint64_t kTokens = 4096, kSlots = 608;
    std::vector<double> rows;
    for (uint64_t i = 0; i < kSlots; ++i) rows.push_back(static_cast<double>(6 * i));
    Run run(corrupt_record(kTokens, rows, std::vector<double>(kSlots, 1), Random(4).integers(kSlots, 50)), DType::f32, {}, Backend::cuda);
    check_moved(moved([&] { run.forward(); }), 4 * kTokens + 40 * kSlots - 2 * 8, 8 * kTokens + 8 * kSlots);
  }
}

// A used row once each way; dx once, or of those in use when it accumulates. A slot's row is read once, backward once a block of 128 rows of
// dx, its weight once, backward by the block that has the row.
TEST_CASE("gather_rows on the device: traffic", traffic_tag()) {
  if constexpr (kGpuBuild == GpuBuild::SIMT)
    for (const bool accumulate : {false, true}) {
      constexpr uint64_t kRows = 1024, kSlots = 160, kCols = 256, kUsed = 152, kBlocks = kRows / 128;
      std::vector<double> rows, weights;
      for (uint64_t i = 0; i < kSlots; ++i) {
        weights.push_back(i % 20 == 19 ? 0 : 1);
        rows.push_back(i % 20 == 19 ? 0 : static_cast<double>(6 * i + 1));
      }
      Run run(gather_record(kCols, kRows, rows, weights), DType::bf16, {{"dx", accumulate ? GradMode::accumulate : GradMode::write}}, Backend::cuda);
      check_moved(moved([&] { run.forward(); }), 2 * kCols * kUsed + 4 * (kSlots + kUsed), 2 * kCols * kSlots);
      run.set("dx", std::vector<double>(kRows * kCols, 1));
      check_moved(moved([&] { run.backward(); }), (accumulate ? 4 : 2) * kCols * kUsed + kBlocks * 4 * kSlots + 4 * kSlots,
                  2 * kCols * (accumulate ? kUsed : kRows));
    }
}

TEST_CASE("masking on the device: a sweep of lengths, rows and slots", kDeviceSweep) {
  Random random(17);
  for (int i = 0; i < 150; ++i) {
    Masking m(random.parts(random.extent(2500), 1100), random.extent(100), random.bits());
    m.with_replacement = i % 2;
    m.state.step = static_cast<uint32_t>(i);
    check_device(masking_record(m));
    // Few slots share a row, and stand side by side; a third of the rows is not used.
    const int64_t slots = random.extent(1500), size = slots + random.extent(1000);
    std::vector<double> rows = random.integers(slots, size), weights;
    std::sort(rows.begin(), rows.end());
    for (const double row : rows) weights.push_back(static_cast<int64_t>(row) % 3 != 0);
    check_device(corrupt_record(size, rows, weights, random.integers(slots, 50)));
    OpRecord gather = gather_record(random.extent(200), size, rows, weights);
    gather.ulps = gather.bf16_ulps = kSweepUlps;
    check_device(gather);
  }
}
