// electra data build | inspect | import | export
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "trainer/cli/cli.h"
#include "trainer/cli/text_arguments.h"
#include "trainer/cli/tokenizer_arguments.h"
#include "trainer/data/data_build.h"
#include "trainer/data/data_exchange.h"
#include "trainer/data/data_set.h"
#include "trainer/data/examples.h"
#include "trainer/data/loader.h"
#include "trainer/data/masked_view.h"
#include "trainer/log.h"
#include "trainer/pretrain_setup.h"
#include "trainer/progress.h"
#include "trainer/signals.h"
#include "trainer/terminal.h"

namespace electra::cli {
namespace {

struct BuildArguments {
  TextArguments text;
  std::string vocabulary, out;
  double heldout = 0.01;
  std::string sentences = "unicode";
  bool json = false;
  TokenizerArguments tokenizer;
};

int build(const BuildArguments& args, int threads, bool quiet) {
  const SignalGuard signals;
  WorkProgress progress("data build", quiet ? Progress::Mode::quiet : Progress::Mode::automatic, true);
  const DataBuildReport report = build_data({.texts = args.text.texts,
                                             .corpus = args.text.options(),
                                             .vocabulary = args.vocabulary,
                                             .out = args.out,
                                             .tokenizer = args.tokenizer.options(),
                                             .split_sentences = args.sentences == "unicode",
                                             .heldout = args.heldout,
                                             .threads = threads,
                                             .notice = [](const std::string& text, bool starts_over) { starts_over ? log::warning("[data build] " + text) : log::info("data build: " + text); },
                                             .progress = [&](const char* stage, double share, double bytes) { progress.update(stage, share, bytes); },
                                             .stop = [&] { return signals.received() != 0; }});
  if (report.stopped) {
    log::info("data build: stopped; the same command goes on from here");
    return signals.exit_status();
  }
  warn_of_skipped_lines("data build", report.skipped_lines);
  if (report.heldout.split_unit != "document")
    log::info(fmt::format("data build: few documents, so the held-out split is by {}", report.heldout.split_unit));
  if (args.json)
    fmt::print("{}", report_json(report));
  else
    fmt::print("{}: {}", args.out, report_text(report));
  return 0;
}

struct ImportArguments {
  std::vector<std::string> files;
  std::string vocabulary, dictionary, out;
  double heldout = 0.01;
  bool json = false;
  TokenizerArguments tokenizer;
};

int import_files(const ImportArguments& args, bool quiet) {
  const SignalGuard signals;
  WorkProgress progress("data import", quiet ? Progress::Mode::quiet : Progress::Mode::automatic, false);
  DataImportOptions options{.files = args.files, .vocabulary = args.vocabulary, .dictionary = {}, .out = args.out, .tokenizer = args.tokenizer.options(), .heldout = args.heldout,
                            .progress = [&](const char* stage, double share) { progress.update(stage, share); }, .stop = [&] { return signals.received() != 0; }};
  if (!args.dictionary.empty()) options.dictionary = args.dictionary;
  const DataImportReport r = import_data(options);
  if (r.stopped) return signals.exit_status();
  std::string formats;
  for (const std::string& format : r.formats) formats += (formats.empty() ? "" : ", ") + format;
  if (args.json)
    fmt::print("{}\n", nlohmann::ordered_json({{"files", r.files}, {"formats", r.formats}, {"train_tokens", r.train.tokens}, {"train_sentences", r.train.sentences}, {"train_documents", r.train.documents},
                                               {"heldout_tokens", r.heldout.tokens}, {"heldout_sentences", r.heldout.sentences}, {"heldout_documents", r.heldout.documents}, {"split_unit", r.heldout.split_unit}}).dump());
  else
    fmt::print("{}: {} files ({}), {} training pieces in {} sentences of {} documents, {} held out (split by {})\n", args.out, r.files, formats, r.train.tokens, r.train.sentences, r.train.documents,
               r.heldout.tokens, r.heldout.split_unit);
  return 0;
}

struct ExportArguments {
  std::string directory, format, out, part = "train", overflow = "fixed";
  int64_t seq_len = 128, files = 10;
  uint64_t seed = 0;
};

int export_data(const ExportArguments& args, bool quiet) {
  const SignalGuard signals;
  WorkProgress progress("data export", quiet ? Progress::Mode::quiet : Progress::Mode::automatic, false);
  const DataExportOptions options{.data = args.directory,
                                  .out = args.out,
                                  .heldout = args.part == "heldout",
                                  .examples = {.seq_len = args.seq_len, .overflow = args.overflow == "google" ? Overflow::google : Overflow::fixed, .seed = args.seed},
                                  .files = args.files,
                                  .progress = [&](const char* stage, double share) { progress.update(stage, share); },
                                  .stop = [&] { return signals.received() != 0; }};
  const DataExportReport r = export_tfrecords(options);
  if (r.stopped) return signals.exit_status();
  fmt::print("{}: {} examples of {} tokens in {} files, {:.1f} % of it padding\n", args.out, r.examples, args.seq_len, args.files,
             100 - 100 * static_cast<double>(r.tokens) / static_cast<double>(std::max<int64_t>(r.examples * args.seq_len, 1)));
  return 0;
}

struct InspectArguments {
  std::string directory;
  int64_t example = -1, seq_len = 128, batch_tokens = 16384, batch_sequences = 0;
  uint64_t seed = 0;
  double mask_prob = 0.15;
  bool json = false;
};

struct ShownExample {
  std::vector<int32_t> ids, segments;
  MaskedView masks;
  bool is_masked(size_t i) const { return std::binary_search(masks.positions.begin(), masks.positions.end(), static_cast<int64_t>(i)); }
};

ShownExample shown_example(const ExampleIndex& index, const DataSet& data, int64_t i, const InspectArguments& args) {
  ShownExample e;
  e.ids.resize(static_cast<size_t>(index.length(i)));
  e.segments.resize(e.ids.size());
  index.build(i, e.ids.data(), e.segments.data());
  // Examples of one inspection get different masks, and an example the same in each.
  e.masks = masked_view(e.ids, data.special(), args.mask_prob, args.seed ^ static_cast<uint64_t>(i) * 0x9E3779B97F4A7C15u);
  return e;
}

std::vector<std::string> tokens_of(const std::vector<int32_t>& ids, const Vocabulary& vocabulary) {
  std::vector<std::string> tokens;
  for (const int32_t id : ids) tokens.push_back(vocabulary.token(id));
  return tokens;
}

// Tokens joined by spaces, those of masked positions put into brackets, or coloured.
std::string line_of(const std::vector<std::string>& tokens, const ShownExample& e, std::string_view colour, bool marked) {
  std::string line;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (i > 0) line += ' ';
    if (marked && e.is_masked(i)) line += colour.empty() ? "<" + tokens[i] + ">" : fmt::format("{}{}{}", colour, tokens[i], ansi::kReset);
    else line += tokens[i];
  }
  return line;
}

int inspect(const InspectArguments& args) {
  const DataSet data(args.directory);
  const ExampleOptions options{.seq_len = args.seq_len, .seed = args.seed};
  const ExampleIndex index(data.train(), options, data.special());
  if (args.example >= index.size() || args.example < -1)
    throw DataError("--example", fmt::format("expected 0 to {}, got {}", index.size() - 1, args.example));
  double share_google = 0;
  {
    ExampleOptions google = options;
    google.overflow = Overflow::google;
    share_google = ExampleIndex(data.train(), google, data.special()).share_kept();
  }
  const ShardInfo &train = data.train().info(), &heldout = data.heldout().info();
  int64_t unknown = 0;
  SentenceLengths lengths;
  for (int64_t s = 0; s < data.train().sentences(); ++s) lengths.add(data.train().start(s + 1) - data.train().start(s));
  for (int64_t i = 0; i < data.train().tokens(); ++i) unknown += data.train().token(i) == data.vocabulary().unk();
  const double entropy = data.heldout_unigram_entropy();
  // As batch.tokens and batch.sequences make micro-batches.
  PretrainConfig batches;
  batches.seq_len = args.seq_len;
  batches.batch.sequences = args.batch_sequences;
  batches.batch.tokens = args.batch_sequences > 0 ? 0 : args.batch_tokens;
  const BatchShape shape = micro_batch_shape(batches);
  if (shape.tokens < args.seq_len) throw ConfigError("--batch-tokens", fmt::format("expected at least --seq-len ({}), got {}", args.seq_len, args.batch_tokens));
  const int64_t looked_at = std::clamp<int64_t>(index.tokens() / shape.tokens, 1, 256);
  const double packing = packing_efficiency(index, shape, args.seed, looked_at);
  if (args.json) {
    nlohmann::ordered_json json = {{"vocab_size", data.vocabulary().size()}, {"train_tokens", train.tokens}, {"train_sentences", train.sentences},
                                   {"train_documents", train.documents}, {"heldout_tokens", heldout.tokens}, {"heldout_documents", heldout.documents},
                                   {"split_unit", train.split_unit}, {"unknown", unknown}, {"seq_len", args.seq_len}, {"examples", index.size()},
                                   {"share_kept", index.share_kept()}, {"share_kept_google", share_google}, {"batch_tokens", shape.tokens}, {"batch_sequences", shape.sequences},
                                   {"packing_efficiency", packing}, {"heldout_unigram_entropy", entropy}};
    if (args.example >= 0) {
      const ShownExample e = shown_example(index, data, args.example, args);
      const std::vector<std::string> tokens = tokens_of(e.ids, data.vocabulary());
      json["example"] = line_of(tokens, e, "", false);
      json["tokens"] = tokens;
      json["ids"] = e.ids;
      json["segments"] = e.segments;
      json["generator"] = tokens_of(e.masks.generator_ids, data.vocabulary());
      json["masked"] = e.masks.positions;
    }
    fmt::print("{}\n", json.dump());
    return 0;
  }
  fmt::print("vocabulary        {} entries, {}, mode {}\n", data.vocabulary().size(), train.lowercase ? "lower case" : "cased", train.mode);
  fmt::print("training          {} pieces in {} sentences of {} documents, {} [UNK]\n", train.tokens, train.sentences, train.documents, unknown);
  fmt::print("held out          {} pieces in {} sentences, split by {}; unigram entropy {:.4f} nats\n", heldout.tokens, heldout.sentences, train.split_unit, entropy);
  fmt::print("sentence lengths  {}\n", lengths.text());
  fmt::print("at length {:<8}{} examples, {:.2f} % of the pieces kept (the original's rule: {:.2f} %)\n", args.seq_len, index.size(), 100 * index.share_kept(), 100 * share_google);
  fmt::print("packing           {:.2f} % of batches of {} tokens in at most {} sequences are used (the first {} batches)\n", 100 * packing, shape.tokens, shape.sequences, looked_at);
  const int64_t first = args.example >= 0 ? args.example : 0, last = args.example >= 0 ? first + 1 : std::min<int64_t>(3, index.size());
  const std::string_view colour = colours_allowed(STDOUT_FILENO) ? ansi::kYellow : "";
  for (int64_t i = first; i < last; ++i) {
    const ShownExample e = shown_example(index, data, i, args);
    const std::vector<std::string> tokens = tokens_of(e.ids, data.vocabulary());
    fmt::print("example {:<10}document {}, number {}: {}\n", i, index[i].document, index[i].number, line_of(tokens, e, colour, false));
    fmt::print("  generator       {}\n", line_of(tokens_of(e.masks.generator_ids, data.vocabulary()), e, colour, true));
    fmt::print("  discriminator   {}\n", line_of(tokens, e, colour, true));
  }
  fmt::print("{} masked: there the generator predicts, and the discriminator sees what the generator samples; every training step draws other masks\n", colour.empty() ? "in <>:" : "coloured:");
  return 0;
}

}  // namespace

void register_data(CLI::App& root, Invocation& invocation) {
  CLI::App* group = add_group(root, "data", "turn text into token shards, look at them", "electra data build corpus.txt --vocab vocab.txt --out data");

  const auto build_args = std::make_shared<BuildArguments>();
  CLI::App* command = add_command(*group, "build", "tokenize text into a data directory with a held-out part", "electra data build corpus.txt --vocab vocab.txt --out data\nzstdcat dump.zst | electra data build - --format jsonl --vocab vocab.txt --out data", invocation);
  add_text_arguments(*command, build_args->text)->required();
  command->add_option("--vocab", build_args->vocabulary, "the vocabulary")->required()->option_text("FILE");
  command->add_option("--out", build_args->out, "the directory to make; an earlier build there is replaced once the new one is complete")->required()->option_text("DIR");
  command->add_option("--sentences", build_args->sentences, "unicode: split paragraphs by Unicode's rules for any language (ICU); line: each line is one")->check(CLI::IsMember({"unicode", "line"}))->capture_default_str()->option_text("unicode|line");
  command->add_option("--heldout", build_args->heldout, "share of the text kept out of training")->check(CLI::Range(0.0001, 0.9))->capture_default_str();
  command->add_flag("--json", build_args->json, "the report as one JSON object");
  add_tokenizer_arguments(*command, build_args->tokenizer);
  command->callback([build_args, &invocation] {
    invocation.action = [build_args, &invocation] { return build(*build_args, thread_count(invocation), invocation.quiet); };
  });

  const auto import_args = std::make_shared<ImportArguments>();
  command = add_command(*group, "import", "a data directory from TFRecords of the original, or from Megatron's or fairseq's indexed datasets",
                        "electra data import 'pretrain_tfrecords/pretrain_data.tfrecord*' --vocab vocab.txt --out data\nelectra data import corpus_text_sentence.idx --vocab vocab.txt --cased --out data", invocation);
  command->add_option("file", import_args->files, "TFRecord files; indexed datasets, by their .idx, their .bin or what these have in common; patterns")->required()->option_text("FILE…");
  command->add_option("--vocab", import_args->vocabulary, "the vocabulary that the ids are of")->required()->option_text("FILE");
  command->add_option("--dictionary", import_args->dictionary, "fairseq's dict.txt, whose tokens are looked up in the vocabulary; without it ids are the vocabulary's lines")->option_text("FILE");
  command->add_option("--out", import_args->out, "the directory to make; an earlier one there is replaced")->required()->option_text("DIR");
  command->add_option("--heldout", import_args->heldout, "share of the documents kept out of training")->check(CLI::Range(0.0001, 0.9))->capture_default_str();
  command->add_flag("--json", import_args->json, "the report as one JSON object");
  add_tokenizer_arguments(*command, import_args->tokenizer);
  command->callback([import_args, &invocation] { invocation.action = [import_args, &invocation] { return import_files(*import_args, invocation.quiet); }; });

  const auto export_args = std::make_shared<ExportArguments>();
  command = add_command(*group, "export", "examples as the original's code reads them", "electra data export data --format tfrecord --out google --seq-len 128", invocation);
  command->add_option("dir", export_args->directory, "a data directory")->required()->option_text("DIR");
  command->add_option("--format", export_args->format, "what to write")->required()->check(CLI::IsMember({"tfrecord"}))->option_text("tfrecord");
  command->add_option("--out", export_args->out, "the folder to make, a --data-dir of run_pretraining.py")->required()->option_text("DIR");
  command->add_option("--part", export_args->part, "which part of the data")->check(CLI::IsMember({"train", "heldout"}))->capture_default_str()->option_text("train|heldout");
  command->add_option("--seq-len", export_args->seq_len, "length in tokens, with padding")->capture_default_str()->option_text("N");
  command->add_option("--overflow", export_args->overflow, "fixed: what overflows an example starts the next; google: it is thrown away")->check(CLI::IsMember({"fixed", "google"}))->capture_default_str()->option_text("fixed|google");
  command->add_option("--seed", export_args->seed, "of the example builder's draws")->capture_default_str()->option_text("N");
  command->add_option("--files", export_args->files, "that the examples are dealt out to in turn")->capture_default_str()->option_text("N");
  command->callback([export_args, &invocation] { invocation.action = [export_args, &invocation] { return export_data(*export_args, invocation.quiet); }; });

  const auto inspect_args = std::make_shared<InspectArguments>();
  command = add_command(*group, "inspect", "counts, share of pieces kept, and examples as generator and discriminator see them", "electra data inspect data --seq-len 64 --example 12", invocation);
  command->add_option("dir", inspect_args->directory, "a data directory")->required()->option_text("DIR");
  command->add_option("--example", inspect_args->example, "show this example alone")->option_text("N");
  command->add_option("--seq-len", inspect_args->seq_len, "length in tokens")->capture_default_str()->option_text("N");
  command->add_option("--batch-tokens", inspect_args->batch_tokens, "room of a batch, whose use is reported")->check(CLI::Range(int64_t{1}, int64_t{1} << 24))->capture_default_str()->option_text("N");
  command->add_option("--batch-sequences", inspect_args->batch_sequences, "or its number of sequences")->check(CLI::Range(int64_t{1}, int64_t{1} << 20))->excludes("--batch-tokens")->option_text("N");
  command->add_option("--seed", inspect_args->seed, "of the example builder's draws, and of the masks")->capture_default_str()->option_text("N");
  command->add_option("--mask-prob", inspect_args->mask_prob, "share of an example's tokens that is masked")->check(CLI::Range(0.0, 1.0))->capture_default_str();
  command->add_flag("--json", inspect_args->json, "one JSON object");
  command->callback([inspect_args, &invocation] { invocation.action = [inspect_args] { return inspect(*inspect_args); }; });
}

}  // namespace electra::cli
