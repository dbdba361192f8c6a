"""What the scripts of this folder share: random inputs, dropout factors from Philox, and the file format.

A file is a list of cases {"name", "attributes", "tensors"}; a tensor is {"shape", "values"}. Inputs are rounded to float, results
are PyTorch's float64. The scripts need PyTorch; the tests need only the files.
"""

import json
import pathlib

import torch

SEED, STEP, FIRST_SEQUENCE = 20200323, 11, 5
MASK32 = 0xFFFFFFFF


def philox(key, counter):
    """Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11)."""
    k0, k1 = key & MASK32, key >> 32
    c0, c1, c2, c3 = counter
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & MASK32, (p0 >> 32) ^ c3 ^ k1, p0 & MASK32
        k0, k1 = (k0 + 0x9E3779B9) & MASK32, (k1 + 0xBB67AE85) & MASK32
    return c0, c1, c2, c3


def fnv1a64(text):
    h = 0xCBF29CE484222325
    for byte in text.encode():
        h = (h ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return h


def keep_factor(drop_p, site, sequence, position, element):
    """0 or the scale of an element: eight 16-bit draws a call, kept below the threshold."""
    threshold = round(65536 * (1 - drop_p))
    word = philox(SEED ^ fnv1a64(site), (STEP, sequence, position, element // 8))[element % 8 // 2]
    return 65536 / threshold if (word >> element % 2 * 16 & 0xFFFF) < threshold else 0.0


def row_keep_factors(drop_p, site, offsets, rows, cols):
    factors = torch.ones(rows, cols, dtype=torch.float64)
    if drop_p == 0:
        return factors
    for row in range(rows):
        sequence, position = MASK32, row
        for s, (begin, end) in enumerate(zip(offsets, offsets[1:])):
            if begin <= row < end:
                sequence, position = FIRST_SEQUENCE + s, row - begin
        for col in range(cols):
            factors[row, col] = keep_factor(drop_p, site, sequence, position, col)
    return factors


def normal(*shape, scale=1.0, mean=0.0):
    return (torch.randn(*shape, dtype=torch.float64) * scale + mean).float().double()


def case(name, attributes, tensors):
    def packed(t):
        t = torch.as_tensor(t).detach()
        return {"shape": list(t.shape), "values": t.flatten().tolist()}

    return {"name": name, "attributes": attributes, "tensors": {k: packed(t) for k, t in tensors.items() if t is not None}}


def write(script, cases):
    path = pathlib.Path(script).with_suffix(".json")
    path.write_text("[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]\n")
    print(path.name, path.stat().st_size, "bytes")
