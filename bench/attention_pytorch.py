#!/usr/bin/env python3
"""PyTorch's scaled_dot_product_attention at the shapes of bench_attention, on a GPU: another rival of our kernels.

    bench/attention_pytorch.py [--json FILE]

Timed as bench_attention does: by events, with the second-level cache overwritten before each run; the median of 60. FLOPs: forward
4 T^2 D a head and sequence, backward 10 T^2 D. Which of its implementations PyTorch uses is forced, one after the other.
"""
import argparse
import json
import sys

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

HEAD_DIM, RUNS, WARM_UPS = 64, 60, 5
# Tokens of the batch, of a sequence, heads: bench_attention's.
SHAPES = [(16384, 128, 1), (16384, 128, 4), (32768, 128, 12), (32768, 256, 12), (32768, 512, 4), (32768, 512, 12), (32768, 512, 16), (32768, 1024, 12)]
BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}


def median_us(run, flush):
    for _ in range(WARM_UPS):
        run()
    times = []
    for i in range(RUNS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        flush.fill_(i)
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3)
    return sorted(times)[RUNS // 2]


def measure(tokens, length, heads, drop, backend, flush):
    """Median microseconds of forward and of backward alone."""
    qkv = torch.randn(tokens // length, length, 3, heads, HEAD_DIM, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    with sdpa_kernel(backend):
        q, k, v = (qkv[:, :, i].transpose(1, 2) for i in range(3))
        with torch.no_grad():
            forward = median_us(lambda: F.scaled_dot_product_attention(q, k, v, dropout_p=drop), flush)
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=drop)
        dout = torch.randn_like(out)
        backward = median_us(lambda: torch.autograd.grad(out, (q, k, v), dout, retain_graph=True), flush)
    return forward, backward


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="also write the figures to this file")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("attention_pytorch: expected PyTorch with a GPU, it finds none")
    flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    rows = []
    for name, backend in BACKENDS.items():
        for tokens, length, heads in SHAPES:
            for drop in (0.0, 0.1):
                try:
                    times = measure(tokens, length, heads, drop, backend, flush)
                except RuntimeError as error:
                    print(f"{name} {tokens} x {length}, {heads} heads, dropout {drop}: {str(error).splitlines()[0]}", flush=True)
                    continue
                for what, us, products in zip(("forward", "backward"), times, (2, 5)):
                    rate = 2 * products * tokens * length * heads * HEAD_DIM / us * 1e6
                    rows.append({"backend": name, "pass": what, "tokens": tokens, "length": length, "heads": heads, "dropout": drop, "median_us": us, "flops": rate})
                    print(f"{name} {what} {tokens} x {length}, {heads} heads, dropout {drop}: {us:.1f} us, {rate / 1e12:.1f} TFLOP/s", flush=True)
    if not rows:
        sys.exit("attention_pytorch: nothing could be measured")
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"device": torch.cuda.get_device_name(), "torch": torch.__version__, "figures": rows}, file, indent=1)


if __name__ == "__main__":
    main()
