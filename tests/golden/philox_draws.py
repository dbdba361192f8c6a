"""Writes tests/golden/philox_draws.h: Philox4x32-10 by the paper's definition (Salmon et al., SC'11), in plain Python."""

import pathlib

MASK32 = 0xFFFFFFFF


def philox(key, counter):
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


if __name__ == "__main__":
    key = 20200323 ^ fnv1a64("discriminator/layer_3/attention/dropout")
    rows = [philox(key, (1000 + i // 8, i % 8, 3 * i, i * 65536 + i)) for i in range(16)]
    lines = ["    {" + ", ".join(f"0x{word:08x}" for word in row) + "}," for row in rows]
    pathlib.Path(__file__).with_suffix(".h").write_text(
        "// Written by tests/golden/philox_draws.py: seed 20200323, site \"discriminator/layer_3/attention/dropout\", call i at\n"
        "// step 1000 + i / 8, sequence i % 8, position 3 i, group 65537 i.\n"
        "#pragma once\n#include <cstdint>\n\n"
        "inline constexpr uint32_t kPhiloxDraws[16][4] = {\n" + "\n".join(lines) + "\n};\n")
