#!/usr/bin/env python3
"""`electra vocab train` and the WordPiece trainer of the PyPI package `tokenizers` on one text: the vocabularies as sets, and the speed.

    pip install tokenizers
    bench/compare_vocabulary_trainers.py build/release text.txt more.txt.xz --megabytes 60

Sets. The package leaves two things to the order of a hash table, which changes from run to run: which characters are kept where several at
the alphabet's limit are equally frequent, and the numbers of continuing characters, by which it breaks ties of pairs. So one run is compared
as it comes, one with an alphabet limit that no tie crosses, where only ties of pairs are left, and one ("pinned") that is also given the
alphabet in the order of electra's vocabulary, as special tokens. What differs in the first two and not in the third comes of that order and
of nothing else; the third must be the same list, or the script fails.

Speed. Alternating runs of both on the same files with as many threads, by the wall and by the processor; reading, counting and merging.
"""
import argparse
import collections
import lzma
import os
import statistics
import subprocess
import sys
import tempfile
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("build", help="a build directory with electra")
parser.add_argument("text", nargs="+", help="UTF-8, plain or .xz; parts of it are joined in this order")
parser.add_argument("--megabytes", type=float, help="of text for the comparison of speed, repeated where there is less; without it no comparison of speed")
parser.add_argument("--size", type=int, default=30000)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--rounds", type=int, default=3)
args = parser.parse_args()
os.environ["RAYON_NUM_THREADS"] = str(args.threads)

import tokenizers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LIMIT = 1000  # of the alphabet, electra's default
NORMALIZER = normalizers.BertNormalizer(lowercase=True)


def package(file, limit, special):
    t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer = NORMALIZER
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=args.size, min_frequency=2, limit_alphabet=limit, special_tokens=special, show_progress=False)
    t.train([file], trainer)
    vocab = t.get_vocab()
    return sorted(vocab, key=vocab.get)


def electra(file, out, limit):
    command = [os.path.join(args.build, "electra"), "vocab", "train", file, "--size", str(args.size), "--alphabet-limit", str(limit),
               "--threads", str(args.threads), "--out", out, "--quiet"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def lines_of(file):
    with open(file, encoding="utf-8", newline="\n") as f:
        return f.read().split("\n")[:-1]


def difference(name, theirs, ours):
    only_theirs, only_ours = sorted(set(theirs) - set(ours)), sorted(set(ours) - set(theirs))
    print(f"{name}: {len(theirs)} and {len(ours)} entries, {len(only_theirs)} only the package's, {len(only_ours)} only electra's")
    if only_theirs or only_ours:
        print(f"  package: {' '.join(only_theirs[:20])}\n  electra: {' '.join(only_ours[:20])}")


def compare_sets(file, out):
    electra(file, out, LIMIT)
    difference("as it comes", package(file, LIMIT, SPECIAL), lines_of(out))
    characters = collections.Counter()
    with open(file, encoding="utf-8", newline="\n") as f:
        for line in f:
            characters.update(NORMALIZER.normalize_str(line))
    counts = sorted((n for c, n in characters.items() if not c.isspace()), reverse=True)
    limit = min(LIMIT, len(counts))
    while 0 < limit < len(counts) and counts[limit - 1] == counts[limit]:
        limit -= 1
    electra(file, out, limit)
    ours = lines_of(out)
    difference(f"alphabet of {limit}", package(file, limit, SPECIAL), ours)
    end = len(SPECIAL)
    while end < len(ours) and len(ours[end]) == (3 if ours[end].startswith("##") else 1):
        end += 1
    pinned = package(file, limit, ours[:end])
    difference("pinned", pinned, ours)
    if pinned != ours:
        sys.exit(f"DIFFERENT: pinned, the lists part at entry {next(i for i, (a, b) in enumerate(zip(pinned, ours)) if a != b)}")
    print("pinned: the same list")


def timed(run):
    """Seconds on the wall and of the processor."""
    before, begin = os.times(), time.perf_counter()
    run()
    wall, after = time.perf_counter() - begin, os.times()
    return wall, sum(after[:4]) - sum(before[:4])


def compare_speed(file, out):
    mb = os.path.getsize(file) / 1e6
    theirs, ours = [], []
    for n in range(args.rounds):
        theirs.append(timed(lambda: package(file, LIMIT, SPECIAL)))
        ours.append(timed(lambda: electra(file, out, LIMIT)))
        print(f"round {n + 1}: package {theirs[-1][0]:.2f} s (processor {theirs[-1][1]:.2f}), electra {ours[-1][0]:.2f} s ({ours[-1][1]:.2f})", flush=True)
    print(f"tokenizers {tokenizers.__version__}, {mb:.1f} MB, size {args.size}, {args.threads} threads; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for k, name in enumerate(("wall", "processor")):
        a, b = statistics.median(t[k] for t in theirs), statistics.median(t[k] for t in ours)
        print(f"{name}: package {a:.2f} s, electra {b:.2f} s ({mb / b:.0f} MB/s): {a / b:.1f} times as fast")


def main():
    with tempfile.TemporaryDirectory() as folder:
        file, out = os.path.join(folder, "text.txt"), os.path.join(folder, "vocab.txt")
        content = b"".join((lzma.open if name.endswith(".xz") else open)(name, "rb").read() for name in args.text)
        with open(file, "wb") as f:
            f.write(content)
        compare_sets(file, out)
        if args.megabytes:
            size = int(args.megabytes * 1e6)
            content = (content * (size // len(content) + 1))[:size]
            with open(file, "wb") as f:
                f.write(content[:content.rindex(b"\n") + 1])
            compare_speed(file, out)


if __name__ == "__main__":
    main()
