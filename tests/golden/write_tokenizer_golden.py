#!/usr/bin/env python3
"""What the PyPI package `tokenizers` makes of every code point in context, 300,000 random strings and adversarial texts, as hashes.

    pip install tokenizers numpy
    tests/golden/write_tokenizer_golden.py                 writes tests/golden/tokenizer_hashes.txt
    tests/golden/write_tokenizer_golden.py --compare FILE  FILE: the block that a failing test_tokenizer_exact left; shows what differs
    tests/golden/write_tokenizer_golden.py --corpora DIR   writes tests/golden/tokenizer_corpora.txt: DIR/corpus/{multi,ru} with the
                                                           vocabularies of DIR/vocab, a hash for each file

One hash for 4,096 cases: the first 16 hexadecimal digits of the SHA-256 of little-endian 32-bit words, for each case the number of
tokens and then id, begin and end of each, offsets in code points. tests/test_tokenizer_exact.cc makes the same strings; what is made
here must be changed there, too. Code points of tests/golden/tokenizer_exceptions.txt are left out of every string.
"""
import argparse
import hashlib
import json
import lzma
import os
import pathlib

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from philox_draws import fnv1a64

HERE = pathlib.Path(__file__).parent
BLOCK = 4096
RANDOM = 300_000
MAX_DRAWS = 24
# name: lower case, strip accents, split Chinese characters
CONFIGURATIONS = {
    "uncased": (True, None, True),
    "cased": (False, None, True),
    "accents_kept": (True, False, False),
    "accents_stripped": (False, True, True),
}
TYPED = ["[MASK]", "[UNK]", "[CLS]", "[SEP]", "[PAD]", "[mask]", "[", "]", "##a", "\t", "\r\n", "'", ".", "\u00a0", "\u2028", "\u03a3"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def surrogate(c):
    return 0xD800 <= c < 0xE000


def vocabulary():
    """The special tokens, then each code point of these ranges as a word's beginning and as its continuation."""
    tokens = list(SPECIAL)
    for begin, end in ((1, 0x32400), (0xE0000, 0xE0200), (0xF0000, 0xF0100)):
        for c in range(begin, end):
            if not surrogate(c):
                tokens += [chr(c), "##" + chr(c)]
    return {token: i for i, token in enumerate(tokens)}


def make(name, vocab):
    lower, strip, chinese = CONFIGURATIONS[name]
    t = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    t.add_special_tokens(SPECIAL)
    t.normalizer = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=chinese, strip_accents=strip, lowercase=lower)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return t


def exceptions():
    lines = (HERE / "tokenizer_exceptions.txt").read_text().splitlines()
    return {int(line.split()[0], 16) for line in lines if line and not line.startswith("#")}


def in_context(c):
    s = chr(c)
    return f"x{s}Y {s} \u00c9{s}\u0316"


def philox(key, step, position):
    """Philox4x32-10 at (step, 0, position, 0): arrays in, four arrays out."""
    mask, u = np.uint64(0xFFFFFFFF), np.uint64
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    c0, c1 = step.astype(u), np.zeros_like(step, dtype=u)
    c2, c3 = position.astype(u), np.zeros_like(step, dtype=u)
    for _ in range(10):
        p0, p1 = u(0xD2511F53) * c0, u(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (p1 >> u(32)) ^ c1 ^ u(k0), p1 & mask, (p0 >> u(32)) ^ c3 ^ u(k1), p0 & mask
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0, c1, c2, c3


def random_strings(first, count, left_out):
    key = 20200323 ^ fnv1a64("tokenizer/random_strings")
    cases = np.arange(first, first + count)
    length, where, long_character, long_length = (w.tolist() for w in philox(key, cases, np.zeros_like(cases)))
    draws = [[w.tolist() for w in philox(key, cases, np.full_like(cases, 1 + j))] for j in range(MAX_DRAWS)]
    for i in range(count):
        # A block of 128 code points for each string: every other time below U+3400, else below U+30400.
        block = where[i] % 104 if where[i] >> 16 & 1 else (where[i] >> 8) % 1544
        points = []
        if (first + i) % 64 == 0:
            points += [block * 128 + long_character[i] % 128] * (90 + long_length[i] % 120)
        for j in range(length[i] % (MAX_DRAWS + 1)):
            kind, value = draws[j][0][i] % 16, draws[j][1][i]
            if kind == 0:
                points += [ord(c) for c in TYPED[value % len(TYPED)]]
            elif kind <= 2:
                points.append(0x20)
            elif kind <= 5:
                points.append(0x300 + value % 0x70)
            elif kind <= 8:
                points.append(value % 128)
            elif kind == 9:
                points.append(value % 0x110000)
            else:
                points.append(block * 128 + value % 128)
        yield "".join(chr(c) for c in points if not surrogate(c) and c not in left_out)


def adversarial_texts():
    """adversarial_texts.json, what it says to repeat, and all pairs of the short ones (fewer than 30 bytes together)."""
    made = json.loads((HERE / "adversarial_texts.json").read_text())
    single = made["texts"]
    texts = list(single)
    for times in made["times"]:
        for letters in made["repeated"]:
            texts += [letters * times, "x" + letters * times + "y z"]
    size = {text: len(text.encode()) for text in single}
    return texts + [left + right for left in single for right in single if size[left] + size[right] < 30]


def blocks(left_out):
    """(name, strings) of every block."""
    points = [c for c in range(0x110000) if not surrogate(c) and c not in left_out]
    for begin in range(0, len(points), BLOCK):
        yield f"point_{begin // BLOCK}", [in_context(c) for c in points[begin:begin + BLOCK]]
    yield "adversarial_0", adversarial_texts()
    for begin in range(0, RANDOM, BLOCK):
        yield f"random_{begin // BLOCK}", list(random_strings(begin, min(BLOCK, RANDOM - begin), left_out))


def words(encodings):
    out = []
    for e in encodings:
        ids = e.ids
        out.append(len(ids))
        for i, (begin, end) in zip(ids, e.offsets):
            out += (i, begin, end)
    return np.array(out, dtype="<u4")


def write():
    vocab, left_out = vocabulary(), exceptions()
    made = {name: make(name, vocab) for name in CONFIGURATIONS}
    lines = [f"# Written by write_tokenizer_golden.py with tokenizers {tokenizers.__version__}: configuration, block, hash."]
    for block, strings in blocks(left_out):
        for name, t in made.items():
            stream = words(t.encode_batch(strings, add_special_tokens=False))
            lines.append(f"{name} {block} {hashlib.sha256(stream.tobytes()).hexdigest()[:16]}")
    (HERE / "tokenizer_hashes.txt").write_text("\n".join(lines) + "\n")


def write_corpora(data):
    left_out = {chr(c) for c in exceptions()}
    files = sorted(p for folder in ("multi", "ru") for p in (data / "corpus" / folder).rglob("*.txt*"))
    lines = [f"# Written by write_tokenizer_golden.py --corpora with tokenizers {tokenizers.__version__}: vocabulary, text, hash."]
    for name in ("bert-base-uncased", "bert-base-cased", "bert-base-chinese", "bert-base-multilingual-cased"):
        pieces = (data / "vocab" / f"{name}-vocab.txt").read_text().split("\n")
        t = make("cased" if "-cased" in name else "uncased", {piece: i for i, piece in enumerate(pieces) if piece})
        for file in files:
            text = (lzma.open(file).read() if file.suffix == ".xz" else file.read_bytes()).decode()
            paragraphs = [p for p in text.removesuffix("\n").split("\n") if left_out.isdisjoint(p)] if text else []
            stream = words(t.encode_batch(paragraphs, add_special_tokens=False))
            lines.append(f"{name} {file.relative_to(data / 'corpus')} {hashlib.sha256(stream.tobytes()).hexdigest()[:16]}")
    (HERE / "tokenizer_corpora.txt").write_text("\n".join(lines) + "\n")


def compare(file, most=20):
    """FILE: a line with configuration and block, then the words that electra got."""
    with open(file, "rb") as f:
        name, wanted = f.readline().decode().split()
        actual = np.frombuffer(f.read(), dtype="<u4").tolist()
    vocab = vocabulary()
    token = {i: t for t, i in vocab.items()}
    t = make(name, vocab)
    strings = next(strings for block, strings in blocks(exceptions()) if block == wanted)
    at = differing = 0
    for case, (text, e) in enumerate(zip(strings, t.encode_batch(strings, add_special_tokens=False))):
        n = actual[at]
        ours = [tuple(actual[at + 1 + 3 * k:at + 4 + 3 * k]) for k in range(n)]
        theirs = [(i, *o) for i, o in zip(e.ids, e.offsets)]
        at += 1 + 3 * n
        if ours == theirs:
            continue
        differing += 1
        if differing <= most:
            shown = [" ".join(f"{ascii(token[i])[1:-1]}:{b}-{e}" for i, b, e in side) for side in (ours, theirs)]
            print(f"{name} {wanted} case {case}: {ascii(text)}\n  electra    {shown[0]}\n  tokenizers {shown[1]}")
    print(f"{differing} of {len(strings)} cases differ")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compare", metavar="FILE")
    parser.add_argument("--corpora", metavar="DIR", type=pathlib.Path)
    arguments = parser.parse_args()
    if arguments.compare:
        compare(arguments.compare)
    elif arguments.corpora:
        write_corpora(arguments.corpora)
    else:
        write()
