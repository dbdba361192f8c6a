#!/usr/bin/env python3
"""`electra tokenize` and the PyPI package `tokenizers` on one text, alternately, on one machine: the ratio of their speeds.

    pip install tokenizers
    bench/compare_tokenizers.py build/release --vocab vocab.txt text.txt      --cased for a cased vocabulary

Single-threaded; the processor's time is what counts, so that a busy machine disturbs less. The package: encode_batch and
encode_batch_fast of 1,000 lines at a time, lines already in memory. electra: `electra tokenize --output ids --threads 1 FILE`, reading,
checking UTF-8 and writing numbers included, less the time it takes for an empty file. Medians of seven alternating runs. The comparison is
void, and says so, unless the ids of all three are the same for every line. Beside it, by the wall: one thread against two, which means
something only with two idle cores and a text that takes a second.
"""
import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def package(vocab_file, cased):
    with open(vocab_file, encoding="utf-8", newline="\n") as lines:
        vocab = {line.rstrip(): i for i, line in enumerate(lines)}
    t = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    t.add_special_tokens(SPECIAL)
    t.normalizer = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=not cased)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return t


def batches(encode, lines, size=1000):
    for begin in range(0, len(lines), size):
        yield encode(lines[begin:begin + size], add_special_tokens=False)


def time_package(encode, lines):
    begin = time.process_time()
    for _ in batches(encode, lines):
        pass
    return time.process_time() - begin


def run(command, out=subprocess.DEVNULL):
    """Seconds of the processor, and on the wall."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=out)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with status {process.returncode}")
    return usage.ru_utime + usage.ru_stime, wall


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", help="a build directory with electra")
    parser.add_argument("text", help="UTF-8, a document a line")
    parser.add_argument("--vocab", required=True)
    parser.add_argument("--cased", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    with open(args.text, "rb") as f:
        raw = f.read()
    lines = [line.removesuffix(b"\r").decode() for line in raw.removesuffix(b"\n").split(b"\n")]
    t = package(args.vocab, args.cased)
    command = [os.path.join(args.build, "electra"), "tokenize", "--vocab", args.vocab, "--output", "ids", *(["--cased"] if args.cased else [])]

    with tempfile.TemporaryFile() as out:
        run([*command, "--threads", "1", args.text], out)
        out.seek(0)
        ours = out.read().removesuffix(b"\n").split(b"\n")
    differing = 0 if len(ours) == len(lines) else len(lines)
    tokens = at = 0
    for slow, fast in zip(batches(t.encode_batch, lines), batches(t.encode_batch_fast, lines)):
        for a, b in zip(slow, fast):
            mine = [int(i) for i in ours[at].split()] if at < len(ours) else None
            differing += not a.ids == b.ids == mine
            tokens += len(a.ids)
            at += 1

    mb = len(raw) / 1e6
    figures = {"encode_batch": [], "encode_batch_fast": [], "electra": [], "two": []}
    for n in range(args.rounds):
        figures["encode_batch"].append(time_package(t.encode_batch, lines))
        figures["encode_batch_fast"].append(time_package(t.encode_batch_fast, lines))
        start, start_wall = run([*command, "--threads", "1", os.devnull])
        cpu, wall = run([*command, "--threads", "1", args.text])
        _, start_wall_2 = run([*command, "--threads", "2", os.devnull])
        _, wall_2 = run([*command, "--threads", "2", args.text])
        figures["electra"].append(cpu - start)
        figures["two"].append((wall - start_wall) / (wall_2 - start_wall_2))
        print(f"round {n + 1}: encode_batch {mb / figures['encode_batch'][-1]:.2f}, encode_batch_fast {mb / figures['encode_batch_fast'][-1]:.2f}, electra "
              f"{mb / figures['electra'][-1]:.1f} MB/s (start-up {start * 1e3:.0f} ms subtracted)", flush=True)
    median = {name: statistics.median(values) for name, values in figures.items()}
    print(f"tokenizers {tokenizers.__version__}, {mb:.1f} MB, {len(lines)} lines, {tokens} tokens; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for name in ("encode_batch", "encode_batch_fast"):
        ratios = [a / b for a, b in zip(figures[name], figures["electra"])]
        print(f"electra {mb / median['electra']:.1f} MB/s, {name} {mb / median[name]:.2f} MB/s: {median[name] / median['electra']:.1f} times as fast (rounds {min(ratios):.1f} to {max(ratios):.1f})")
    print(f"two threads {median['two']:.2f} times as fast as one, by the wall (rounds {min(figures['two']):.2f} to {max(figures['two']):.2f})")
    if differing:
        print(f"VOID: {differing} of {len(lines)} lines differ")
        sys.exit(1)


if __name__ == "__main__":
    main()
