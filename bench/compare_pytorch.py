#!/usr/bin/env python3
"""The same ELECTRA training step in PyTorch and in electra, alternately, on one machine: the ratio of their speeds.

    pip install torch numpy safetensors
    bench/compare_pytorch.py build/release            ELECTRA-Small, 16 sequences of 128 tokens, fp32, 2 threads

The comparison is void, and says so, unless PyTorch reaches 35 % of the GEMM peak it is measured against in the same run, both
sides do the same FLOPs (PyTorch's counted by its own FlopCounterMode during a step), and with dropout off PyTorch's losses,
logits, gradients and updated weights are electra's, on the model that is measured, all of its layers, through a golden file and
`electra check golden`: in double within 1e-9, and in fp32 as it is measured, within the bounds of docs/golden.md.
"""
import argparse
import json
import math
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode


class Layer(nn.Module):
    """Post-norm Transformer layer; attribute names are transformers' so that state_dict names are, too."""

    def __init__(self, hidden, heads, intermediate, dropout):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.attention = nn.Module()
        self.attention.self = nn.ModuleDict({k: nn.Linear(hidden, hidden) for k in ("query", "key", "value")})
        self.attention.output = nn.ModuleDict({"dense": nn.Linear(hidden, hidden), "LayerNorm": nn.LayerNorm(hidden, 1e-12)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(hidden, intermediate)})
        self.output = nn.ModuleDict({"dense": nn.Linear(intermediate, hidden), "LayerNorm": nn.LayerNorm(hidden, 1e-12)})

    def forward(self, x):
        B, T, H = x.shape
        p = self.dropout if self.training else 0.0
        q, k, v = (self.attention.self[n](x).view(B, T, self.heads, H // self.heads).transpose(1, 2) for n in ("query", "key", "value"))
        a = F.scaled_dot_product_attention(q, k, v, dropout_p=p).transpose(1, 2).reshape(B, T, H)
        x = self.attention.output["LayerNorm"](F.dropout(self.attention.output["dense"](a), p) + x)
        h = self.output["dense"](F.gelu(self.intermediate["dense"](x)))
        return self.output["LayerNorm"](F.dropout(h, p) + x)


class Embeddings(nn.Module):
    def __init__(self, vocab, width, positions, dropout):
        super().__init__()
        self.dropout = dropout
        self.word_embeddings = nn.Embedding(vocab, width)
        self.position_embeddings = nn.Embedding(positions, width)
        self.token_type_embeddings = nn.Embedding(2, width)
        self.LayerNorm = nn.LayerNorm(width, 1e-12)

    def forward(self, ids, segments):
        x = self.word_embeddings(ids) + self.position_embeddings.weight[: ids.shape[1]] + self.token_type_embeddings(segments)
        return F.dropout(self.LayerNorm(x), self.dropout if self.training else 0.0)


class Body(nn.Module):
    def __init__(self, width, size, dropout):
        super().__init__()
        self.embeddings_project = nn.Linear(width, size["hidden_size"]) if width != size["hidden_size"] else nn.Identity()
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(
            Layer(size["hidden_size"], size["num_heads"], size["intermediate_size"], dropout) for _ in range(size["num_layers"]))

    def forward(self, x):
        x = self.embeddings_project(x)
        for layer in self.encoder.layer:
            x = layer(x)
        return x


class Electra(nn.Module):
    def __init__(self, cfg, dropout):
        super().__init__()
        E, G, D = cfg["embedding_size"], cfg["generator"]["hidden_size"], cfg["discriminator"]["hidden_size"]
        self.cfg = cfg
        self.embeddings = Embeddings(cfg["vocab_size"], E, cfg["max_position_embeddings"], dropout)
        self.generator, self.discriminator = Body(E, cfg["generator"], dropout), Body(E, cfg["discriminator"], dropout)
        self.gen_dense, self.gen_norm = nn.Linear(G, E), nn.LayerNorm(E, 1e-12)
        self.lm_bias = nn.Parameter(torch.zeros(cfg["vocab_size"]))
        self.disc_dense, self.disc_out = nn.Linear(D, D), nn.Linear(D, 1)

    def forward(self, ids, segments, masked_ids, rows, samples=None):
        """ids (B, T); rows: masked positions in the flattened batch. Returns total, masked-LM and replaced-token loss."""
        hidden = self.generator(self.embeddings(masked_ids, segments)).flatten(0, 1)[rows]
        logits = F.linear(self.gen_norm(F.gelu(self.gen_dense(hidden))), self.embeddings.word_embeddings.weight, self.lm_bias)
        lm = F.cross_entropy(logits, ids.flatten()[rows])
        if samples is None:
            with torch.no_grad():
                noise = -torch.log(-torch.log(torch.rand_like(logits) + 1e-9) + 1e-9)
                samples = (logits + noise).argmax(-1)
        corrupted = ids.flatten().clone()
        corrupted[rows] = samples
        corrupted = corrupted.view_as(ids)
        x = self.discriminator(self.embeddings(corrupted, segments))
        disc = F.binary_cross_entropy_with_logits(self.disc_out(F.gelu(self.disc_dense(x)))[..., 0], (corrupted != ids).to(x.dtype))
        return self.cfg["gen_weight"] * lm + self.cfg["disc_weight"] * disc, lm, disc

    def published(self):
        """Parameters under transformers' names, as golden files have them."""
        rename = {"embeddings.": "discriminator/electra.embeddings.", "generator.": "generator/electra.", "discriminator.": "discriminator/electra.",
                  "gen_dense.": "generator/generator_predictions.dense.", "gen_norm.": "generator/generator_predictions.LayerNorm.",
                  "lm_bias": "generator/generator_lm_head.bias", "disc_dense.": "discriminator/discriminator_predictions.dense.",
                  "disc_out.": "discriminator/discriminator_predictions.dense_prediction."}
        out = {}
        for name, p in self.named_parameters():
            old = next(k for k in rename if name.startswith(k))
            out[rename[old] + name[len(old):]] = p
        return out


def size(hidden, layers):
    return {"hidden_size": hidden, "num_layers": layers, "num_heads": max(1, hidden // 64), "intermediate_size": 4 * hidden}


def config(vocab, layers):
    return {"vocab_size": vocab, "embedding_size": 128, "max_position_embeddings": 512, "type_vocab_size": 2, "layer_norm_eps": 1e-12,
            "discriminator": size(256, layers), "generator": size(64, layers), "gen_weight": 1.0, "disc_weight": 50.0}


def optimizer(model, lr, eps=1e-6):
    """AdamW as the original's, but with PyTorch's bias correction: the work is the same."""
    decay = [p for n, p in model.published().items() if not any(k in n for k in ("LayerNorm", "layer_norm", "bias"))]
    rest = [p for n, p in model.published().items() if any(k in n for k in ("LayerNorm", "layer_norm", "bias"))]
    return torch.optim.AdamW([{"params": decay, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}], lr=lr, betas=(0.9, 0.999), eps=eps, fused=True)


def batch(B, T, P, vocab, rng):
    ids = torch.tensor(rng.integers(5, vocab, (B, T)))
    segments = (torch.arange(T) > T // 2).long().expand(B, T).contiguous()
    positions = np.sort(np.stack([rng.choice(T, P, replace=False) for _ in range(B)]), 1)
    rows = torch.tensor((positions + np.arange(B)[:, None] * T).ravel())
    masked = ids.flatten().clone()
    masked[rows] = 4
    return ids, segments, masked.view_as(ids), rows, positions


def flops(step):
    """FLOPs that PyTorch counts in a step: of the matrix products and of attention, forward and backward, as it dispatched them."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def same_results(program, cfg, threads):
    """The model cfg, dropout off, on two short sequences: electra must find what PyTorch does in double: losses, logits, gradients
    and updated weights. Returns for each type whether it did, and what `electra check golden` said."""
    torch.manual_seed(1)
    # A first Adam step is lr g / (|g| + eps). In fp32 the rounding of the smallest gradients must be small against eps, and that
    # of weights about 1 small against lr.
    cfg, B, T, P, lr, eps = dict(cfg), 2, 32, 4, 1e-3, 1e-4
    model = Electra(cfg, 0.0).double().eval()
    with torch.no_grad():
        for name, p in model.published().items():
            p.copy_((p + 0.05 * torch.randn_like(p)).float().double())
    ids, segments, masked, rows, positions = batch(B, T, P, cfg["vocab_size"], np.random.default_rng(1))
    samples = torch.randint(5, cfg["vocab_size"], (B * P,))
    i32 = lambda x: torch.as_tensor(x).int().contiguous()
    out = {"input/ids": i32(ids), "input/segments": i32(segments), "input/lengths": i32([T] * B), "input/masked_positions": i32(positions),
           "input/masked_weights": torch.ones(B, P), "input/masked_ids": i32(masked), "input/sampled_ids": i32(samples.view(B, P))}
    out |= {"weight/" + n: p.detach().float().clone() for n, p in model.published().items()}
    total, lm, disc = model(ids, segments, masked, rows, samples)
    names, parameters = zip(*model.published().items())
    grads = dict(zip(names, torch.autograd.grad(total, parameters)))
    norm = torch.sqrt(sum((g ** 2).sum() for g in grads.values()))
    hidden = model.discriminator(model.embeddings(ids.flatten().index_put((rows,), samples).view_as(ids), segments))
    logits = model.disc_out(F.gelu(model.disc_dense(hidden)))[..., 0]
    for name, p in model.published().items():
        p.grad = grads[name] * min(1.0, 1.0 / float(norm))
    optimizer(model, lr, eps).step()
    one = lambda x: x.detach().double().reshape(1).clone()
    out |= {"expect/loss": one(total), "expect/masked_lm_loss": one(lm), "expect/disc_loss": one(disc), "expect/grad_norm": one(norm), "expect/disc_logits": logits.detach()}
    out |= {"grad/" + n: g.clone() for n, g in grads.items()} | {"after/" + n: p.detach().clone() for n, p in model.published().items()}
    cfg["optimizer"] = {"lr": lr, "beta1": 0.9, "beta2": 0.999, "eps": eps, "weight_decay": 0.01, "clip_norm": 1.0, "bias_correction": True, "steps": 1}
    verdicts = {}
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "compare.safetensors"
        save_file({k: x.contiguous() for k, x in out.items()}, path, {"format": "electra-golden", "version": "1", "config": json.dumps(cfg)})
        for dtype in ("f64", "f32"):
            result = subprocess.run([program, "check", "golden", str(path), "--dtype", dtype, "--threads", str(threads)], capture_output=True, text=True)
            lines = [line for line in result.stdout.splitlines() if line.endswith("FAILED") or "passed" in line] + result.stderr.splitlines()
            verdicts[dtype] = result.returncode == 0, "; ".join(lines[-3:])
    return verdicts


def gemm_peak(seconds=0.3):
    """Best rate of a (2048, 768) x (768, 768) product in FLOP/s, as electra measures its own."""
    a, b, best, start = torch.randn(2048, 768), torch.randn(768, 768), 0.0, time.perf_counter()
    out = torch.empty(2048, 768)
    while time.perf_counter() - start < seconds:
        begin = time.perf_counter()
        torch.mm(a, b.T, out=out)
        best = max(best, 2 * 2048 * 768 * 768 / (time.perf_counter() - begin))
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", help="a build directory with electra and bench/bench_step")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5, help="alternations")
    parser.add_argument("--steps", type=int, default=5, help="steps a round")
    args = parser.parse_args()
    build = pathlib.Path(args.build)
    torch.set_num_threads(args.threads)
    B, T, cfg = 16, 128, config(30522, 12)
    P = int((0.15 + 0.005) * T)
    verdicts = same_results(str(build / "electra"), cfg, args.threads)
    for dtype, (_, said) in verdicts.items():
        print(f"dropout off, all {cfg['discriminator']['num_layers']} layers: electra check golden --dtype {dtype}: {said}", flush=True)

    torch.manual_seed(0)
    model = Electra(cfg, 0.1).train()
    step_optimizer = optimizer(model, 1e-5)
    ids, segments, masked, rows, _ = batch(B, T, P, cfg["vocab_size"], np.random.default_rng(0))

    def torch_step():
        step_optimizer.zero_grad(set_to_none=True)
        loss, _, _ = model(ids, segments, masked, rows)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        step_optimizer.step()

    for _ in range(2):
        torch_step()
    torch_seconds, peaks, ratios, ours, theirs_flops = [], [], [], None, flops(torch_step)
    for round_number in range(args.rounds):
        peaks.append(gemm_peak())
        times = []
        for _ in range(args.steps):
            begin = time.perf_counter()
            torch_step()
            times.append(time.perf_counter() - begin)
        torch_seconds += times
        result = subprocess.run([str(build / "bench" / "bench_step"), "--config", "small", "--sequences", str(B), "--seq-len", str(T), "--threads",
                                 str(args.threads), "--rounds", str(args.steps), "--json"], capture_output=True, text=True, check=True)
        ours = json.loads(result.stdout)
        peaks.append(ours["gemm_peak_gflops"] * 1e9)
        ratios.append(float(np.median(times)) / (ours["step_ms"] / 1e3))
        print(f"round {round_number + 1}: PyTorch {np.median(times) * 1e3:.0f} ms, electra {ours['step_ms']:.0f} ms, ratio {ratios[-1]:.2f}", flush=True)
    best, peak = min(torch_seconds), max(peaks)
    share, flop_ratio = theirs_flops / best / peak, theirs_flops / ours["flops_per_step"]
    print(f"PyTorch {torch.__version__}: best {best * 1e3:.0f} ms, {B * T / best:.0f} tokens/s, {theirs_flops / best / 1e9:.1f} GFLOP/s, {100 * share:.0f} % of the GEMM peak {peak / 1e9:.0f} GFLOP/s")
    print(f"FLOPs a step: PyTorch {theirs_flops / 1e9:.1f}, electra {ours['flops_per_step'] / 1e9:.1f} GFLOP")
    print(f"electra is {np.median(ratios):.2f} times as fast (median of {len(ratios)} alternating rounds; {min(ratios):.2f} to {max(ratios):.2f})")
    reasons = []
    if share < 0.35:
        reasons.append(f"PyTorch reached {100 * share:.0f} % of the GEMM peak, expected at least 35 %")
    if abs(flop_ratio - 1) > 0.02:
        reasons.append(f"the FLOPs differ by {100 * abs(flop_ratio - 1):.1f} %, expected at most 2 %")
    reasons += [f"with dropout off the results differ in {dtype}" for dtype, (same, _) in verdicts.items() if not same]
    if reasons:
        print("VOID: " + "; ".join(reasons))
        sys.exit(1)


if __name__ == "__main__":
    main()
