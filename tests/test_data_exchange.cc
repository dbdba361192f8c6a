// Import of other programs' token data, and export.
#include <catch2/catch.hpp>
#include <algorithm>
#include <set>

#include "kernels/core/error.h"
#include "tests/error_of.h"
#include "tests/foreign_files.h"
#include "tests/temporary_directory.h"
#include "trainer/data/data_build.h"
#include "trainer/data/data_exchange.h"
#include "trainer/data/data_set.h"
#include "trainer/data/foreign_data.h"
#include "trainer/tfrecord.h"

using namespace electra;
using test::error_of;
using test::append;
using test::indexed_files;
using test::read_file;
using test::TemporaryDirectory;
using test::write_file;

namespace {

namespace fs = std::filesystem;

// [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, [MASK] 4, then words w5 to w(size - 1).
std::string vocabulary_text(int size) {
  std::string text = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n";
  for (int i = 5; i < size; ++i) text += "w" + std::to_string(i) + "\n";
  return text;
}

Vocabulary vocabulary_of(const TemporaryDirectory& dir, int size) {
  write_file(dir / "v.txt", vocabulary_text(size));
  return Vocabulary::load(dir / "v.txt");
}

using Sentences = std::vector<std::vector<int32_t>>;

Sentences sentences_of(const TokenDocument& d) {
  Sentences sentences;
  for (size_t begin = 0; const size_t end : d.ends) {
    sentences.emplace_back(d.ids.begin() + static_cast<ptrdiff_t>(begin), d.ids.begin() + static_cast<ptrdiff_t>(end));
    begin = end;
  }
  return sentences;
}

std::vector<Sentences> documents_of(const std::string& path, const Vocabulary& vocabulary, const std::optional<fs::path>& dictionary = {}) {
  const auto data = open_foreign_data(path, vocabulary, dictionary);
  std::vector<Sentences> documents;
  for (TokenDocument d; data->next(d);)
    if (!d.ends.empty()) documents.push_back(sentences_of(d));
  return documents;
}

// A feature of a tf.Example with its values packed or one by one.
std::string feature(const std::string& name, const std::vector<int64_t>& values, bool packed = true) {
  using namespace protobuf;
  std::string list, all, kind, entry, map;
  for (const int64_t v : values) {
    if (packed) append_varint(all, static_cast<uint64_t>(v));
    else append_tag(list, 1, kVarint), append_varint(list, static_cast<uint64_t>(v));
  }
  if (packed) append_bytes(list, 1, all);
  append_bytes(kind, 3, list);
  append_bytes(entry, 1, name);
  append_bytes(entry, 2, kind);
  append_bytes(map, 1, entry);
  return map;
}

std::string example(const std::string& features) {
  std::string out;
  protobuf::append_bytes(out, 1, features);
  return out;
}

std::string example_of(const std::vector<int64_t>& ids, const std::vector<int64_t>& mask, const std::vector<int64_t>& segments) {
  return example(feature("input_ids", ids) + feature("input_mask", mask) + feature("segment_ids", segments));
}

const std::string kGood = example_of({2, 5, 6, 3, 7, 3, 0, 0}, {1, 1, 1, 1, 1, 1, 0, 0}, {0, 0, 0, 0, 1, 1, 0, 0});

}  // namespace

TEST_CASE("checksums are CRC-32C, masked") {
  CHECK(masked_crc32c("123456789") == 0xc78ab0e5);
  // Against the definition, bit by bit, for every length around the words that are taken at once.
  std::string bytes;
  for (int n = 0; n < 40; ++n) {
    uint32_t crc = ~0u;
    for (const char c : bytes)
      for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ ((crc ^ static_cast<unsigned char>(c) >> bit) & 1 ? 0x82f63b78u : 0);
    CHECK(masked_crc32c(bytes) == (~crc >> 15 | ~crc << 17) + 0xa282ead8u);
    bytes.push_back(static_cast<char>(n * 89 + 200));
  }
}

TEST_CASE("an example is written as the original writes it, byte for byte") {
  CHECK(tfrecord(to_tf_example({101, 7592, 102}, {0, 0, 0}, 4)) == test::kTfRecord);
}

TEST_CASE("an example of the original is read") {
  const TemporaryDirectory dir;
  std::vector<std::string> tokens;
  for (int i = 0; i < 7600; ++i) tokens.push_back(i == 0 ? "[PAD]" : i == 100 ? "[UNK]" : i == 101 ? "[CLS]" : i == 102 ? "[SEP]" : i == 103 ? "[MASK]" : "t" + std::to_string(i));
  write_file(dir / "t", test::kTfRecord + test::kTfRecord);
  CHECK(documents_of(dir / "t", Vocabulary::from_tokens(tokens, "test")) == std::vector<Sentences>{{{7592}}, {{7592}}});
  // Values one by one, features in any order, and others beside them.
  const Vocabulary vocabulary = vocabulary_of(dir, 10);
  std::string strange;
  protobuf::append_tag(strange, 9, protobuf::kFixed64);
  append<uint64_t>(strange, 7);
  write_file(dir / "t", tfrecord(kGood) + tfrecord(strange + example(feature("segment_ids", {0, 0, 0, 0, 1, 1, 0, 0}, false) + feature("next_sentence_labels", {1}) +
                                                                     feature("input_mask", {1, 1, 1, 1, 1, 1, 0, 0}, false) + feature("input_ids", {2, 5, 6, 3, 7, 3, 0, 0}, false))));
  CHECK(documents_of(dir / "t", vocabulary) == std::vector<Sentences>{{{5, 6}, {7}}, {{5, 6}, {7}}});
}

TEST_CASE("a TFRecord file that is not as it should be is refused with record and byte") {
  const TemporaryDirectory dir;
  const Vocabulary vocabulary = vocabulary_of(dir, 10);
  const std::string first = tfrecord(kGood);
  const auto error = [&](const std::string& bytes) {
    write_file(dir / "t", bytes);
    return error_of<DataError>([&] { documents_of(dir / "t", vocabulary); });
  };
  const std::string second = "[" + dir.path() + "/t: record 1 at byte " + std::to_string(first.size()) + "] expected ";
  const auto damaged = [&](size_t at) {
    std::string bytes = first;
    bytes[at] = static_cast<char>(bytes[at] ^ 4);
    return error(first + bytes);
  };
  CHECK(error("") == "[" + dir.path() + "/t] expected TFRecords, got an empty file");
  CHECK(error_of<IoError>([&] { documents_of(dir.path(), vocabulary); }) == "[" + dir.path() + "] expected a file, got a folder");
  CHECK_THAT(damaged(0), Catch::StartsWith(second + "checksum ") && Catch::Contains(" of its length, got "));
  CHECK_THAT(damaged(9), Catch::StartsWith(second + "checksum ") && Catch::Contains(" of its length, got "));
  CHECK_THAT(damaged(20), Catch::StartsWith(second + "checksum ") && Catch::Contains(" of its data, got "));
  CHECK_THAT(damaged(first.size() - 1), Catch::StartsWith(second + "checksum ") && Catch::Contains(" of its data, got "));
  CHECK(error(first + first.substr(0, 7)) == second + "12 bytes of a record's header, got the end of the file after 7");
  for (const size_t left : {size_t{0}, size_t{5}, first.size() - 13})
    CHECK(error(first + first.substr(0, 12 + left)) == second + std::to_string(first.size() - 16) + " bytes of data and 4 of checksum, got the end of the file after " + std::to_string(left));
  std::string huge;
  append<uint64_t>(huge, ~uint64_t{0});
  append(huge, masked_crc32c(huge));
  CHECK_THAT(error(first + huge + "more"), Catch::StartsWith(second + "18446744073709551615 bytes of data"));
  CHECK(error("\x1f\x8b\x08" + std::string(30, '\0')) == "[" + dir.path() + "/t: record 0 at byte 0] expected a TFRecord file that is not compressed, got gzip");

  const auto record_error = [&](const std::string& data) { return error(first + tfrecord(data)); };
  CHECK(record_error("") == second + "a tf.Example with input_ids, got one without");
  CHECK(record_error("\x0a\x7f") == second + "a tf.Example, got field 1 of 127 bytes where 0 are left");
  CHECK(record_error("\x0b") == second + "a tf.Example, got field 1 of wire type 3");
  CHECK(record_error(std::string(1, '\0')) == second + "a tf.Example, got a field numbered 0");
  CHECK(record_error("\xff\xff") == second + "a tf.Example, got a number that is cut short");
  CHECK(record_error(std::string(11, '\xff')) == second + "a tf.Example, got a number of more than ten bytes");
  const std::vector<int64_t> ids = {2, 5, 6, 3, 7, 3, 0, 0}, mask = {1, 1, 1, 1, 1, 1, 0, 0}, segments = {0, 0, 0, 0, 1, 1, 0, 0};
  const auto changed = [](std::vector<int64_t> values, size_t at, int64_t value) {
    values[at] = value;
    return values;
  };
  CHECK(record_error(example(feature("input_ids", ids) + feature("input_mask", mask))) == second + "8 values of segment_ids, as of input_ids, got 0");
  CHECK(record_error(example_of(ids, {1}, segments)) == second + "8 values of input_mask, as of input_ids, got 1");
  CHECK(record_error(example_of(changed(ids, 2, 10), mask, segments)) == second + "ids 0 to 9, the vocabulary's, got 10 in input_ids[2]");
  CHECK(record_error(example_of(changed(ids, 2, -1), mask, segments)) == second + "ids 0 to 9, the vocabulary's, got -1 in input_ids[2]");
  CHECK(record_error(example_of(changed(ids, 0, 5), mask, segments)) == second + "[CLS] (2), got 5 in input_ids[0]");
  CHECK(record_error(example_of(changed(ids, 3, 5), mask, segments)) == second + "[SEP] (3), got 5 in input_ids[3]");
  CHECK(record_error(example_of(changed(ids, 5, 5), mask, segments)) == second + "[SEP] (3), got 5 in input_ids[5]");
  CHECK(record_error(example_of(changed(ids, 7, 5), mask, segments)) == second + "zeros behind the example, got 5 in input_ids[7]");
  CHECK(record_error(example_of(ids, changed(mask, 2, 0), changed(changed(segments, 4, 0), 5, 0))) == second + "zeros behind the example, got 6 in input_ids[2]");
  CHECK(record_error(example_of(ids, changed(mask, 2, 2), segments)) == second + "ones and then zeros, got 2 in input_mask[2]");
  CHECK(record_error(example_of(ids, changed(mask, 7, 1), segments)) == second + "ones and then zeros, got 1 in input_mask[7]");
  CHECK(record_error(example_of(ids, mask, changed(segments, 4, 2))) == second + "segment 0 or 1, got 2 in segment_ids[4]");
  CHECK(record_error(example_of(ids, mask, changed(segments, 6, 1))) == second + "zeros behind the example, got 1 in segment_ids[6]");
  CHECK(record_error(example_of(ids, mask, changed(segments, 5, 0))) == second + "one behind ones, got 0 in segment_ids[5]");
  CHECK(record_error(example_of(ids, mask, changed(changed(changed(segments, 1, 1), 2, 1), 3, 1))) == second + "segments of at least one token, got an empty one");
  CHECK(record_error(example_of({2, 3, 0}, {1, 1, 0}, {0, 0, 0})) == second + "an example of at least three tokens, got 2");
}

TEST_CASE("what is exported is what is imported, and the order of files is the original's") {
  const TemporaryDirectory dir;
  write_file(dir / "v.txt", vocabulary_text(30));
  std::string text;
  for (int d = 0; d < 300; ++d) {
    for (int s = 0; s < 1 + d % 5; ++s) {
      for (int w = 0; w < 3 + (d + s) % 11; ++w) text += "w" + std::to_string(5 + (d * 7 + s * 3 + w) % 25) + " ";
      text += "\n";
    }
    text += "\n";
  }
  write_file(dir / "t.txt", text);
  DataBuildOptions build;
  build.texts = {dir / "t.txt"};
  build.vocabulary = dir / "v.txt";
  build.out = dir / "data";
  build_data(build);

  DataExportOptions o;
  o.data = dir / "data";
  o.out = dir / "google";
  o.examples.seq_len = 24;
  o.files = 7;
  const DataExportReport report = export_tfrecords(o);
  const DataSet data(dir / "data");
  const ExampleIndex index(data.train(), o.examples, data.special());
  CHECK(report.examples == index.size());
  CHECK(read_file(dir / "google/vocab.txt") == vocabulary_text(30));
  std::vector<int32_t> ids(24), segments(24);
  int64_t tokens = 0;
  for (int64_t f = 0; f < o.files; ++f) {
    const auto documents = documents_of(dir / ("google/pretrain_tfrecords/pretrain_data.tfrecord-" + std::to_string(f) + "-of-7"), data.vocabulary());
    REQUIRE(static_cast<int64_t>(documents.size()) == (index.size() - f + 6) / 7);
    for (size_t k = 0; k < documents.size(); ++k) {
      const int64_t i = f + 7 * static_cast<int64_t>(k);
      index.build(i, ids.data(), segments.data());
      Sentences expected(1, {ids.begin() + 1, ids.begin() + 1 + index[i].first});
      if (index[i].second > 0) expected.emplace_back(ids.begin() + 2 + index[i].first, ids.begin() + 2 + index[i].first + index[i].second);
      REQUIRE(documents[k] == expected);
      tokens += index.length(i);
    }
  }
  CHECK(report.tokens == tokens);

  DataImportOptions in;
  in.files = {dir / "google/pretrain_tfrecords/pretrain_data.tfrecord*"};
  in.vocabulary = dir / "google/vocab.txt";
  in.out = dir / "back";
  in.heldout = 0.1;
  in.tokenizer.lowercase = false;
  const DataImportReport back = import_data(in);
  CHECK(back.files == 7);
  CHECK(back.formats == std::vector<std::string>{"TFRecord"});
  CHECK(back.train.documents + back.heldout.documents == index.size());
  CHECK(back.heldout.documents > 0.05 * static_cast<double>(index.size()));
  CHECK(back.heldout.documents < 0.2 * static_cast<double>(index.size()));
  CHECK(back.heldout.split_unit == "document");
  CHECK(back.train.tokens + back.heldout.tokens == data.train().tokens());
  CHECK(!back.train.lowercase);
  CHECK(DataSet(dir / "back").vocabulary().size() == 30);
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(dir / "back")) names.insert(entry.path().filename().string());
  CHECK(names == std::set<std::string>{"train.bin", "train.idx", "train.json", "heldout.bin", "heldout.idx", "heldout.json", "vocab.txt", "tokenizer_config.json"});

  // The other part, and the original's way with what overflows.
  o.heldout = true;
  o.examples.overflow = Overflow::google;
  o.files = 1;
  CHECK_THROWS_AS(export_tfrecords(o), IoError);  // the folder is there
  o.out = dir / "google2";
  CHECK(export_tfrecords(o).examples == ExampleIndex(data.heldout(), o.examples, data.special()).size());
  o.files = 0;
  CHECK(error_of<ConfigError>([&] { export_tfrecords(o); }) == "[--files] expected 1 to 10000, got 0");
}

TEST_CASE("an indexed dataset of Megatron or fairseq is read, whatever its type of ids") {
  const TemporaryDirectory dir;
  const Vocabulary vocabulary = vocabulary_of(dir, 20);
  write_file(dir / "m.idx", test::kMegatronIndex);
  std::string bin;
  for (uint16_t id = 5; id < 14; ++id) append(bin, id);
  write_file(dir / "m.bin", bin);
  const std::vector<Sentences> expected = {{{5, 6, 7}, {8, 9}}, {{10, 11, 12, 13}}};
  for (const char* name : {"m", "m.bin", "m.idx"}) CHECK(documents_of(dir / name, vocabulary) == expected);
  // With the modes of a multimodal file, all of them text.
  write_file(dir / "m.idx", test::kMegatronIndex + std::string(3, '\0'));
  CHECK(documents_of(dir / "m", vocabulary) == expected);

  const std::vector<std::vector<int64_t>> sequences = {{5, 6, 7}, {8, 9}, {}, {10, 11, 12, 13}};
  const auto check = [&](const test::IndexedFiles& files, const std::string& format) {
    write_file(dir / "x.idx", files.idx);
    write_file(dir / "x.bin", files.bin);
    CHECK(open_foreign_data(dir / "x", vocabulary, {})->format() == format);
    CHECK(documents_of(dir / "x", vocabulary) == expected);
  };
  const std::vector<int64_t> documents = {0, 0, 3, 3, 4};  // two of them empty
  check(indexed_files<uint8_t>(1, sequences, documents), "Megatron");
  check(indexed_files<int8_t>(2, sequences, documents), "Megatron");
  check(indexed_files<int16_t>(3, sequences, documents), "Megatron");
  check(indexed_files<int32_t>(4, sequences, documents), "Megatron");
  check(indexed_files<int64_t>(5, sequences, documents), "Megatron");
  check(indexed_files<uint16_t>(8, sequences, documents), "Megatron");
  check(indexed_files<uint8_t>(1, sequences), "fairseq");
  check(indexed_files<int32_t>(4, sequences), "fairseq");
  check(indexed_files<uint16_t>(8, sequences), "fairseq");
  check(indexed_files<uint32_t>(9, sequences), "fairseq");
  check(indexed_files<uint64_t>(10, sequences), "fairseq");
}

TEST_CASE("fairseq's ids are looked up by name with its dictionary") {
  const TemporaryDirectory dir;
  const Vocabulary vocabulary = vocabulary_of(dir, 20);
  write_file(dir / "dict.txt", "w7 100\nw5 90 #fairseq:overwrite\nmissing 3\nw19 1\n");
  // <s> 0, <pad> 1, </s> 2, <unk> 3, then the dictionary's.
  const auto write = [&](const std::vector<std::vector<int64_t>>& sequences) {
    const auto files = indexed_files<uint16_t>(8, sequences);
    write_file(dir / "x.idx", files.idx);
    write_file(dir / "x.bin", files.bin);
  };
  write({{0, 4, 5, 2}, {7, 3, 2}, {2}, {5, 2}, {2}, {2}});
  CHECK(documents_of(dir / "x", vocabulary, dir / "dict.txt") == std::vector<Sentences>{{{7, 5}, {19, 1}}, {{5}}});
  const auto error = [&](const std::vector<std::vector<int64_t>>& sequences) {
    write(sequences);
    return error_of<DataError>([&] { documents_of(dir / "x", vocabulary, dir / "dict.txt"); });
  };
  const std::string where = "[" + dir.path() + "/x.bin: sequence 1, element 0] expected ids 0 to 7, the dictionary's, ";
  CHECK(error({{4}, {6}}) == where + "of tokens that the vocabulary has, got 'missing'");
  CHECK(error({{4}, {1}}) == where + "without padding, got 1");
  CHECK(error({{4}, {8}}) == where + "without padding, got 8");
  write_file(dir / "dict.txt", "w7 100\nw5\n");
  CHECK(error({{4}}) == "[" + dir.path() + "/dict.txt:2] expected 'token count', got 'w5'");
  const auto files = indexed_files<uint16_t>(8, {{5}}, {0, 1});
  write_file(dir / "x.idx", files.idx);
  CHECK(error_of<ConfigError>([&] { open_foreign_data(dir / "x", vocabulary, dir / "dict.txt"); }).find("which Megatron wrote") != std::string::npos);
  write_file(dir / "t", tfrecord(kGood));
  CHECK(error_of<ConfigError>([&] { open_foreign_data(dir / "t", vocabulary, dir / "dict.txt"); }).find("no indexed dataset") != std::string::npos);
}

TEST_CASE("an index that is not as it should be is refused with its place") {
  const TemporaryDirectory dir;
  const Vocabulary vocabulary = vocabulary_of(dir, 20);
  const auto good = indexed_files<uint16_t>(8, {{5, 6, 7}, {8, 9}, {10}}, {0, 2, 3});
  const auto error = [&](const std::string& idx, const std::string& bin) {
    write_file(dir / "x.idx", idx);
    write_file(dir / "x.bin", bin);
    return error_of<DataError>([&] { documents_of(dir / "x", vocabulary); });
  };
  const std::string idx = "[" + dir.path() + "/x.idx] expected ", bin = "[" + dir.path() + "/x.bin";
  const auto changed = [&](size_t at, auto value) {
    std::string bytes = good.idx;
    bytes.replace(at, sizeof value, reinterpret_cast<const char*>(&value), sizeof value);
    return error(bytes, good.bin);
  };
  CHECK(error(good.idx, good.bin) == "no error");
  CHECK(error("", good.bin) == idx + "the index of a Megatron or fairseq dataset, got a file of 0 bytes without its magic number");
  CHECK(error(std::string("TNTIDX\0\0", 8) + good.idx, good.bin) == idx + "a memory-mapped index (MMIDIDX; fairseq: --dataset-impl mmap), got the older format TNTIDX");
  CHECK(changed(9, uint64_t{2}) == idx + "version 1, got 2");
  CHECK(changed(17, uint8_t{7}) == idx + "ids of an integer type, got type code 7");
  CHECK(changed(17, uint8_t{9}) == idx + "ids of an integer type, got type code 9");  // fairseq's
  const std::string size = std::to_string(good.idx.size());
  CHECK(changed(18, uint64_t{2}) == idx + "the size of a Megatron index of 2 sequences and 3 document boundaries, or of a fairseq index of 2 sequences, got " + size + " bytes");
  for (const uint64_t n : {~uint64_t{0}, uint64_t{good.idx.size()}, uint64_t{good.idx.size()} + 1, ~uint64_t{0} / 12 + 2, uint64_t{1} << 61}) {
    CHECK_THAT(changed(18, n), Catch::StartsWith(idx + "the size of a Megatron index of " + std::to_string(n) + " sequences"));
    CHECK_THAT(changed(26, n), Catch::Contains(" and " + std::to_string(n) + " document boundaries"));
  }
  const std::string place = "[" + dir.path() + "/x.idx: ";
  const std::string inside = "] expected ids in order within the 12 bytes of " + dir.path() + "/x.bin, got ";
  CHECK(changed(34, int32_t{7}) == place + "sequence 0" + inside + "7 of 2 bytes from byte 0 on");
  CHECK(changed(34, int32_t{-1}) == place + "sequence 0" + inside + "-1 of 2 bytes from byte 0 on");
  CHECK(changed(34 + 12 + 8, int64_t{-2}) == place + "sequence 1" + inside + "2 of 2 bytes from byte -2 on");
  CHECK(changed(34 + 12 + 8, int64_t{1} << 62) == place + "sequence 1" + inside + "2 of 2 bytes from byte 4611686018427387904 on");
  CHECK(changed(34 + 12 + 8, int64_t{5}) == place + "sequence 1" + inside + "2 of 2 bytes from byte 5 on");
  CHECK(changed(34 + 12 + 16, int64_t{4}) == place + "sequence 2" + inside + "1 of 2 bytes from byte 4 on");  // before the one before
  CHECK(error(good.idx, good.bin.substr(0, 11)).find("sequence 2] expected ids in order within the 11 bytes") != std::string::npos);
  const std::string rising = "] expected boundaries rising from 0 to 3, got ";
  CHECK(changed(70, int64_t{1}) == place + "document boundary 0" + rising + "1");
  CHECK(changed(78, int64_t{-1}) == place + "document boundary 1" + rising + "-1");
  CHECK(changed(78, int64_t{4}) == place + "document boundary 2" + rising + "3");
  CHECK(changed(86, int64_t{2}) == place + "document boundary 2" + rising + "2");
  CHECK(error(good.idx + std::string("\0\1\0", 3), good.bin) == place + "sequence 1] expected text (mode 0), got mode 1");
  CHECK(error(indexed_files<uint16_t>(8, {}, {0}).idx.substr(0, 26) + std::string(8, '\0'), "") == idx + "at least one document boundary, got none");
  std::string ids = good.bin;
  ids[8] = 20;
  CHECK(error(good.idx, ids) == bin + ": sequence 1, element 1] expected ids 0 to 19, the vocabulary's, got 20");
  fs::remove(dir / "x.bin");
  CHECK_THROWS_AS(open_foreign_data(dir / "x", vocabulary, {}), IoError);
}

TEST_CASE("an import is a function of its files, and is complete or leaves nothing") {
  const TemporaryDirectory dir;
  write_file(dir / "v.txt", vocabulary_text(100));
  std::vector<std::vector<int64_t>> sequences;
  std::vector<int64_t> documents = {0};
  for (int d = 0; d < 2000; ++d) {
    for (int s = 0; s < 1 + d % 4; ++s) sequences.push_back({5 + (d * 31 + s) % 95, 5 + d % 91, 5 + (d / 7 + s) % 93});
    documents.push_back(static_cast<int64_t>(sequences.size()));
  }
  const auto files = indexed_files<uint16_t>(8, sequences, documents);
  write_file(dir / "x.idx", files.idx);
  write_file(dir / "x.bin", files.bin);
  DataImportOptions o;
  o.files = {dir / "x.*"};
  o.vocabulary = dir / "v.txt";
  o.out = dir / "d";
  const DataImportReport report = import_data(o);
  CHECK(report.files == 1);
  CHECK(report.train.documents + report.heldout.documents == 2000);
  CHECK(report.heldout.documents > 5);
  CHECK(report.heldout.documents < 60);
  CHECK(report.train.sentences + report.heldout.sentences == static_cast<int64_t>(sequences.size()));
  const std::string bin = read_file(dir / "d/train.bin"), heldout = read_file(dir / "d/heldout.idx");
  int asked = 0;
  o.stop = [&] { return ++asked == 3500; };
  CHECK(import_data(o).stopped);
  CHECK(read_file(dir / "d/train.bin") == bin);
  CHECK(std::distance(fs::directory_iterator(dir.path()), {}) == 4);
  o.stop = nullptr;
  import_data(o);  // replaces it
  CHECK(read_file(dir / "d/train.bin") == bin);
  CHECK(read_file(dir / "d/heldout.idx") == heldout);

  // Not over what is read.
  o.files = {dir / "d/train"};
  CHECK(error_of<ConfigError>([&] { import_data(o); }) == "[--out] expected another folder than that of " + dir.path() + "/d/train.idx, which would be replaced, got " + dir.path() + "/d");
  CHECK(read_file(dir / "d/train.bin") == bin);
  o.files = {dir / "x.*"};

  // One document: split in blocks of sentences, which stand in order on either side.
  const auto one = indexed_files<uint16_t>(8, sequences, {0, static_cast<int64_t>(sequences.size())});
  write_file(dir / "x.idx", one.idx);
  const DataImportReport blocks = import_data(o);
  CHECK(blocks.heldout.split_unit == "block of 16 sentences");
  CHECK(blocks.heldout.sentences >= 16);
  CHECK(blocks.train.documents <= blocks.heldout.documents + 1);
  CHECK(blocks.train.sentences + blocks.heldout.sentences == static_cast<int64_t>(sequences.size()));

  std::string damaged = files.bin;
  damaged[damaged.size() - 2] = 100;
  write_file(dir / "x.bin", damaged);
  const std::string before = read_file(dir / "d/train.bin");
  CHECK_THROWS_AS(import_data(o), DataError);
  CHECK(read_file(dir / "d/train.bin") == before);
  o.files = {dir / "none*"};
  CHECK_THROWS_AS(import_data(o), IoError);
  write_file(dir / "d/notes.txt", "mine");
  o.files = {dir / "x.idx"};
  CHECK_THROWS_AS(import_data(o), IoError);
  CHECK(read_file(dir / "d/notes.txt") == "mine");
}
