"""Writes embedding.json: dropout of LayerNorm of word, position and segment embeddings, and its gradients."""

import torch
from golden import case, normal, row_keep_factors, write


def embedding(vocab, positions, segments, cols, offsets, capacity, drop_p):
    rows = offsets[-1]
    word, position, segment = normal(vocab, cols), normal(positions, cols), normal(segments, cols)
    gamma, beta = normal(cols, scale=0.5, mean=1), normal(cols)
    tables = [t.requires_grad_() for t in (word, position, segment, gamma, beta)]
    ids, kinds = torch.randint(vocab, (capacity,)), torch.randint(segments, (capacity,))
    ids[: rows // 2] = ids[0]  # one id in many rows
    # Unused capacity stands at position 0.
    place = torch.tensor([r - b for b, e in zip(offsets, offsets[1:]) for r in range(b, e)] + [0] * (capacity - rows))
    total = word[ids] + position[place] + segment[kinds]
    y = torch.nn.functional.layer_norm(total, (cols,), gamma, beta, 1e-12)
    y = y * row_keep_factors(drop_p, "test/embedding", offsets, capacity, cols)
    dy = normal(capacity, cols)
    dy[rows:] = 0
    gradients = torch.autograd.grad(y, tables, dy)
    names = ("dword", "dposition", "dsegment", "dgamma", "dbeta")
    return case(
        f"{capacity} rows in {len(offsets) - 1} sequences, dropout {drop_p}",
        {"drop_p": drop_p},
        {
            "ids": ids, "segments": kinds, "sequence_offsets": torch.tensor(offsets), "word": word, "position": position,
            "segment": segment, "gamma": gamma, "beta": beta, "y": y, "mean": total.mean(-1),
            "rstd": (total.var(-1, unbiased=False) + 1e-12).rsqrt(), "dy": dy, **dict(zip(names, gradients)),
        },
    )


torch.manual_seed(4)
write(__file__, [embedding(13, 6, 2, 9, [0, 5, 8], 8, 0.0), embedding(11, 5, 3, 17, [0, 1, 1, 6, 9], 11, 0.2)])
