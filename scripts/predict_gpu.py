#!/usr/bin/env python3
"""What a step should take on a GPU before it has run on one: a table for docs/performance-gpu.md from the plan's figures.

    electra plan small --nodes --device simt | scripts/predict_gpu.py --copy 4.3 --product 780

The floor of a pass is the larger of its FLOPs over the product's rate and its bytes over the copy's. The prediction takes what our
launches move instead (MOVED), a share of each ceiling that such a kernel should reach (SHARES), at least LEAST microseconds a launch and
GAP between two of them.
"""
import argparse
import re
import sys

LEAST, GAP = 2.5, 0.7  # microseconds

# Launches of a pass: forward, backward (docs/ops). Products by cuBLASLt.
LAUNCHES = {"mask_tokens": (1, 0), "corrupt_tokens": (2, 0), "embedding": (1, 10), "linear": (1, 4), "linear_gelu": (2, 4), "attention": (1, 2),
            "add_layer_norm": (1, 2), "layer_norm": (1, 2), "gather_rows": (1, 1), "masked_lm": (4, 4), "binary_classifier": (3, 6), "weighted_sum": (1, 1)}
# Shares expected of (copy, product): in forward, in backward.
SHARES = {"linear": ((0.8, 0.75), (0.8, 0.75)), "linear_gelu": ((0.8, 0.75), (0.8, 0.75)),
          "attention": ((0.7, 0.25), (0.55, 0.17)),   # mma.sync at head_dim 64; the draws of dropout
          "masked_lm": ((0.8, 0.12), (0.8, 0.16)),    # the noise: 60 instructions a logit; logits computed twice
          "binary_classifier": ((0.8, 0.4), (0.7, 0.4)),
          "embedding": ((0.6, 1), (0.4, 1))}
OTHERS = ((0.8, 1), (0.75, 1))
UNITS = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "FLOP": 1, "kFLOP": 1e3, "MFLOP": 1e6, "GFLOP": 1e9, "TFLOP": 1e12}


def moved(op, rows, out, flops, bytes_, backward):
    """Bytes of our launches (bf16), each operand once a launch, where they are not the plan's."""
    if op not in ("linear", "linear_gelu"):
        return bytes_
    inner = flops / (4 if backward else 2) / rows / out
    x, y, w = rows * inner, rows * out, out * inner
    gelu = op == "linear_gelu"
    if not backward:
        return 2 * (x + w + y) + (4 * y if gelu else 0)             # GELU: reads u, writes y
    return 2 * y * (3 if gelu else 1) + 2 * (y + w + x) + 2 * (y + x) + 4 * w  # columns; dx; dweight


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copy", type=float, required=True, help="TB/s, read and written")
    parser.add_argument("--product", type=float, required=True, help="TFLOP/s")
    args = parser.parse_args()
    copy, product = args.copy * 1e12, args.product * 1e12
    nodes = {}
    for line in sys.stdin:
        match = re.match(r"(\S+)\s+(\S+)\s+\(([^)]*)\)\s+(.*)", line)
        figures = [float(a) * UNITS[u] for a, u in re.findall(r"([\d.]+) (\w+)", match[4]) if u in UNITS] if match else []
        if len(figures) != 6 or match[2] not in LAUNCHES:
            continue
        shape = [int(n) for n in match[3].split(",")]
        name = re.sub(r"layer_\d+", "layer", match[1])
        nodes.setdefault(name, (match[2], shape, figures[2:], []))[3].append(match[1])
    if not nodes:
        sys.exit("predict_gpu: expected the output of `electra plan CONFIG --nodes`, found no node")
    print(f"| op | times | forward: FLOP, bytes | floor, us | predicted, us | backward: FLOP, bytes | floor, us | predicted, us |\n| {' | '.join(['---'] * 8)} |")
    floor_sum = predicted_sum = launches_sum = 0
    for name, (op, shape, figures, which) in nodes.items():
        cells = []
        for backward in (0, 1):
            flops, bytes_ = figures[2 * backward], figures[2 * backward + 1]
            launches = LAUNCHES[op][backward]
            if launches == 0:
                cells.append("| | ")
                continue
            of_copy, of_product = SHARES.get(op, OTHERS)[backward]
            floor = max(flops / product, bytes_ / copy) * 1e6
            real = moved(op, shape[0], shape[-1], flops, bytes_, backward)
            predicted = max(LEAST * launches, 1e6 * flops / (of_product * product), 1e6 * real / (of_copy * copy)) + GAP * launches
            floor_sum += floor * len(which)
            predicted_sum += predicted * len(which)
            launches_sum += launches * len(which)
            cells.append(f"{flops / 1e9:.3g} G, {bytes_ / 1e6:.3g} MB | {floor:.1f} | {predicted:.1f}")
        print(f"| {name} | {len(which)} | {cells[0]} | {cells[1]} |")
    print(f"\nfloor {floor_sum / 1e3:.2f} ms, predicted {predicted_sum / 1e3:.2f} ms in {launches_sum} launches, without the optimizer")


if __name__ == "__main__":
    main()
