#!/usr/bin/env python3
"""The vocabulary that the WordPiece trainer of the PyPI package `tokenizers` makes of a generated text.

    pip install tokenizers
    tests/golden/write_vocabulary_golden.py        writes tests/golden/vocabulary.txt

The package numbers continuing characters in the order of a hash table, which changes from run to run, and breaks ties of pairs by these
numbers. Here the alphabet is given as special tokens, in the order of electra's vocabularies, so that there is one result.
tests/test_vocabulary_trainer.cc makes the same text; what is changed here must be changed there, too.
"""
import pathlib

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from philox_draws import fnv1a64, philox

SIZE = 1500
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SYLLABLES = ["ka", "ru", "e", "to", "mi", "sa", "n", "Lo", "\u00e9", "pre", "d\u00e4", "sch", "\u0438\u044f", "\u0441\u0442", "\u6771", "th", "ing", "q", "0", "19",
             "\u0e01", "ss", "aa", "bab"]


def generated_text():
    key = 20200323 ^ fnv1a64("vocabulary/generated_text")
    text = []
    for word in range(30000):
        head = philox(key, (word, 0, 0, 0))
        for k in range(1 + head[0] % 5):
            draw = philox(key, (word, 0, 1 + k, 0))
            text.append(SYLLABLES[draw[0] % len(SYLLABLES) * (draw[1] % len(SYLLABLES)) // len(SYLLABLES)])
        text.append(", " if head[1] % 8 == 0 else " ")
        if head[2] % 16 == 0:
            text.append("\n")
    return "".join(text)


def main():
    lines = generated_text().split("\n")
    t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer(lowercase=True)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words = [w for line in lines for w, _ in t.pre_tokenizer.pre_tokenize_str(t.normalizer.normalize_str(line))]
    alphabet = sorted({c for w in words for c in w}) + sorted({"##" + c for w in words for c in w[1:]})
    trainer = trainers.WordPieceTrainer(vocab_size=SIZE, min_frequency=2, limit_alphabet=1000, special_tokens=SPECIAL + alphabet, show_progress=False)
    t.train_from_iterator(lines, trainer)
    vocab = t.get_vocab()
    assert sorted(vocab.values()) == list(range(SIZE))
    (pathlib.Path(__file__).parent / "vocabulary.txt").write_text("".join(f"{token}\n" for token in sorted(vocab, key=vocab.get)))


if __name__ == "__main__":
    main()
