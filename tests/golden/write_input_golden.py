#!/usr/bin/env python3
"""What the PyPI package `tokenizers` makes of single texts and pairs that are cut to a length, with overflow, as hashes.

    pip install tokenizers numpy
    tests/golden/write_input_golden.py             writes tests/golden/input_hashes.txt
    tests/golden/write_input_golden.py --show N    shows the inputs of case N

One hash for 1,024 cases: the first 16 hexadecimal digits of the SHA-256 of little-endian 32-bit words, for each case the number of inputs, 0
where the package refuses it, and for each of these the number of tokens and then id, segment, sequence, word, begin and end of each;
2^32 - 1 stands for None, offsets are in code points. Texts are those of write_tokenizer_golden.py. tests/test_model_input.cc makes the same
cases; what is changed here must be changed there, too.
"""
import argparse
import hashlib
import itertools
import pathlib

import numpy as np
from tokenizers import processors

import write_tokenizer_golden as texts
from philox_draws import fnv1a64, philox

CASES, BLOCK = 16384, 1024
NONE = 0xFFFFFFFF
STRATEGIES = ["longest_first", "only_first", "only_second"]


def case(number):
    """Number of the first text; of the second or None; strategy; length; stride."""
    a, b, c, d = philox(20200323 ^ fnv1a64("tokenizer/model_inputs"), (number, 0, 0, 0))
    pair = a % 4 != 0
    length = 5 + b % 36
    stride = c % (length - 3) if c >> 16 & 1 else c % 3
    return a >> 8 & 0x3FFF, (b >> 8 & 0x3FFF) if pair else None, STRATEGIES[d % (3 if pair else 2)], length, stride


def encode(t, strings, number):
    first, second, strategy, length, stride = case(number)
    try:
        t.enable_truncation(length, stride=stride, strategy=strategy)
        e = t.encode(strings[first], strings[second] if second is not None else None)
    except BaseException as error:  # a panic of the package is no Exception
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        return []
    return [e, *e.overflowing]


def words(encodings):
    none = lambda x: NONE if x is None else x
    out = [len(encodings)]
    for e in encodings:
        out.append(len(e.ids))
        for token in zip(e.ids, e.type_ids, map(none, e.sequence_ids), map(none, e.word_ids), e.offsets):
            out += (*token[:4], *token[4])
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", type=int, metavar="N")
    args = parser.parse_args()
    t = texts.make("uncased", texts.vocabulary())
    t.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    strings = list(itertools.chain(*(texts.random_strings(i, 4096, texts.exceptions()) for i in range(0, 0x4000, 4096))))
    if args.show is not None:
        print(case(args.show))
        for e in encode(t, strings, args.show):
            print(*(f"{i}/{s}/{w}/{o[0]}-{o[1]}" for i, s, w, o in zip(e.ids, e.sequence_ids, e.word_ids, e.offsets)))
    else:
        lines = []
        refused = inputs = 0
        for begin in range(0, CASES, BLOCK):
            stream = []
            for n in range(begin, begin + BLOCK):
                encodings = encode(t, strings, n)
                refused += not encodings
                inputs += len(encodings)
                stream += words(encodings)
            lines.append(hashlib.sha256(np.array(stream, dtype="<u4").tobytes()).hexdigest()[:16])
        print(f"{refused} of {CASES} cases refused, {inputs} inputs")
        (pathlib.Path(__file__).parent / "input_hashes.txt").write_text("".join(f"{line}\n" for line in lines))
