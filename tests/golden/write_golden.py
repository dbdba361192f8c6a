#!/usr/bin/env python3
"""Writes whole-model golden files (docs/golden.md): an ELECTRA of its own in PyTorch float64, from the paper and the original
code, run on random weights and a random batch. The tests read the files and need no Python.

    pip install torch numpy safetensors transformers
    tests/golden/write_golden.py            writes every file below beside this script
    tests/golden/write_golden.py --check    compares this model with transformers' instead
"""
import argparse
import json
import math
import pathlib

import numpy as np
import torch
from safetensors.torch import save_file

F64, BF16 = torch.float64, torch.bfloat16


def sizes(hidden, layers, intermediate):
    return {"hidden_size": hidden, "num_layers": layers, "num_heads": max(1, hidden // 64), "intermediate_size": intermediate}


# name -> model, batch. Between them: sequences longer than 128 and of length 1, unequal ones, no projection, several layers in either half.
# eps is far larger than in training: with 1e-6 an update is nearly the sign of its gradient, so a gradient that is all rounding (key
# biases; in bf16 many more) moves a weight by a whole learning rate in either direction, and no two implementations agree.
FILES = {
    "layers": dict(vocab=40, embedding=32, disc=sizes(64, 2, 32), gen=sizes(64, 1, 32), lengths=[9, 1, 14], masked=3, steps=20, bias_correction=False, lr=2e-5, eps=3e-4),
    "long": dict(vocab=40, embedding=16, disc=sizes(128, 1, 32), gen=sizes(64, 1, 32), lengths=[150, 131], masked=20, steps=4, bias_correction=True, lr=1e-4, eps=1e-4),
    "no_projection": dict(vocab=40, embedding=64, disc=sizes(64, 1, 48), gen=sizes(64, 2, 32), lengths=[5, 33, 17, 2], masked=5, steps=2, bias_correction=False, lr=1e-4, eps=1e-4),
}


def parameter_shapes(cfg):
    """Names and shapes, transformers' names under 'discriminator/' and 'generator/'; shared embeddings under the former."""
    E, shapes = cfg["embedding_size"], {}
    shapes["discriminator/electra.embeddings.word_embeddings.weight"] = (cfg["vocab_size"], E)
    shapes["discriminator/electra.embeddings.position_embeddings.weight"] = (cfg["max_position_embeddings"], E)
    shapes["discriminator/electra.embeddings.token_type_embeddings.weight"] = (cfg["type_vocab_size"], E)
    for part in ("weight", "bias"):
        shapes[f"discriminator/electra.embeddings.LayerNorm.{part}"] = (E,)
    for half in ("discriminator", "generator"):
        H, I = cfg[half]["hidden_size"], cfg[half]["intermediate_size"]

        def dense(name, out, inp):
            shapes[f"{half}/{name}.weight"], shapes[f"{half}/{name}.bias"] = (out, inp), (out,)

        def norm(name, width):
            shapes[f"{half}/{name}.weight"], shapes[f"{half}/{name}.bias"] = (width,), (width,)

        if E != H:
            dense("electra.embeddings_project", H, E)
        for i in range(cfg[half]["num_layers"]):
            layer = f"electra.encoder.layer.{i}."
            for part in ("query", "key", "value"):
                dense(f"{layer}attention.self.{part}", H, H)
            dense(f"{layer}attention.output.dense", H, H)
            norm(f"{layer}attention.output.LayerNorm", H)
            dense(f"{layer}intermediate.dense", I, H)
            dense(f"{layer}output.dense", H, I)
            norm(f"{layer}output.LayerNorm", H)
        if half == "discriminator":
            dense("discriminator_predictions.dense", H, H)
            dense("discriminator_predictions.dense_prediction", 1, H)
        else:
            dense("generator_predictions.dense", E, H)
            norm("generator_predictions.LayerNorm", E)
            shapes["generator/generator_lm_head.bias"] = (cfg["vocab_size"],)
    return shapes


def fused(f):
    """f computed in fp32 and rounded once where its operands are bf16, as PyTorch's own bf16 operators do."""
    def run(x, *operands):
        if x.dtype != BF16:
            return f(x, *operands)
        return f(x.float(), *(o.float() if torch.is_tensor(o) else o for o in operands)).to(BF16)
    return run


@fused
def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


@fused
def normalised(x, weight, bias, eps):
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + eps) * weight + bias


def layer_norm(x, w, name, eps):
    return normalised(x, w[name + ".weight"], w[name + ".bias"], eps)


def linear(x, w, name):
    return x @ w[name + ".weight"].T + w[name + ".bias"]


def encoder(w, cfg, half, ids, segments):
    """One sequence: ids, segments (T) -> hidden states (T, H)."""
    p, eps, c = f"{half}/", cfg["layer_norm_eps"], cfg[half]
    table = "discriminator/electra.embeddings."
    x = (w[table + "word_embeddings.weight"][ids] + w[table + "position_embeddings.weight"][: len(ids)]
         + w[table + "token_type_embeddings.weight"][segments])
    x = layer_norm(x, w, table + "LayerNorm", eps)
    if p + "electra.embeddings_project.weight" in w:
        x = linear(x, w, p + "electra.embeddings_project")
    heads, T = c["num_heads"], len(ids)
    D = c["hidden_size"] // heads
    for i in range(c["num_layers"]):
        n = f"{p}electra.encoder.layer.{i}."
        q, k, v = (linear(x, w, f"{n}attention.self.{part}").view(T, heads, D).transpose(0, 1) for part in ("query", "key", "value"))
        attended = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(D), -1) @ v
        attended = linear(attended.transpose(0, 1).reshape(T, -1), w, n + "attention.output.dense")
        x = layer_norm(attended + x, w, n + "attention.output.LayerNorm", eps)
        fed = linear(gelu(linear(x, w, n + "intermediate.dense")), w, n + "output.dense")
        x = layer_norm(fed + x, w, n + "output.LayerNorm", eps)
    return x


def masked_lm_logits(w, cfg, hidden):
    x = layer_norm(gelu(linear(hidden, w, "generator/generator_predictions.dense")), w, "generator/generator_predictions.LayerNorm", cfg["layer_norm_eps"])
    return x @ w["discriminator/electra.embeddings.word_embeddings.weight"].T + w["generator/generator_lm_head.bias"]


def disc_logits(w, hidden):
    h = gelu(linear(hidden, w, "discriminator/discriminator_predictions.dense"))
    return linear(h, w, "discriminator/discriminator_predictions.dense_prediction")[:, 0]


def forward(w, cfg, batch):
    """Total, masked-LM and discriminator loss, and both logits (in the type of w)."""
    dtype = w["generator/generator_lm_head.bias"].dtype
    wide = F64 if dtype == F64 else torch.float32  # of losses
    B, T, P, V = *batch["ids"].shape, batch["masked_positions"].shape[1], cfg["vocab_size"]
    all_disc, all_lm = torch.zeros(B, T, dtype=dtype), torch.zeros(B, P, V, dtype=dtype)
    lm_sum, lm_weight, disc_sum, tokens = 0.0, 0.0, 0.0, 0
    for b in range(B):
        n = int(batch["lengths"][b])
        ids, segments = batch["ids"][b, :n], batch["segments"][b, :n]
        used = batch["masked_weights"][b] > 0
        positions = batch["masked_positions"][b][used].long()
        hidden = encoder(w, cfg, "generator", batch["masked_ids"][b, :n].long(), segments.long())
        logits = masked_lm_logits(w, cfg, hidden[positions])
        all_lm[b, used] = logits
        logits = logits.to(wide)
        weights = batch["masked_weights"][b][used].to(wide)
        losses = torch.logsumexp(logits, -1) - logits[torch.arange(len(positions)), ids[positions].long()]
        lm_sum, lm_weight = lm_sum + (weights * losses).sum(), lm_weight + weights.sum()
        corrupted = ids.clone()
        corrupted[positions] = batch["sampled_ids"][b][used]
        labels = (corrupted != ids).to(wide)
        x = disc_logits(w, encoder(w, cfg, "discriminator", corrupted.long(), segments.long()))
        all_disc[b, :n] = x
        x = x.to(wide)
        disc_sum = disc_sum + (torch.nn.functional.softplus(x) - x * labels).sum()
        tokens += n
    lm, disc = lm_sum / lm_weight, disc_sum / tokens
    return cfg["gen_weight"] * lm + cfg["disc_weight"] * disc, lm, disc, all_disc, all_lm


def decays(name):
    return not any(part in name for part in ("LayerNorm", "layer_norm", "bias"))


def adamw(w, grads, m, v, step, o):
    norm = torch.sqrt(sum((g ** 2).sum() for g in grads.values()))
    factor = min(1.0, o["clip_norm"] / float(norm))
    c1, c2 = (1 - o["beta1"] ** step, 1 - o["beta2"] ** step) if o["bias_correction"] else (1.0, 1.0)
    for name, p in w.items():
        g = grads[name] * factor
        m[name] = o["beta1"] * m[name] + (1 - o["beta1"]) * g
        v[name] = o["beta2"] * v[name] + (1 - o["beta2"]) * g * g
        update = m[name] / c1 / (torch.sqrt(v[name] / c2) + o["eps"])
        if decays(name):
            update = update + o["weight_decay"] * p.detach()
        p.data = p.data - o["lr"] * update
    return norm


def random_model(spec, rng):
    cfg = {"vocab_size": spec["vocab"], "embedding_size": spec["embedding"], "max_position_embeddings": max(spec["lengths"]) + 2, "type_vocab_size": 2,
           "layer_norm_eps": 1e-12, "discriminator": spec["disc"], "generator": spec["gen"], "gen_weight": 1.0, "disc_weight": 50.0,
           "optimizer": {"lr": spec["lr"], "beta1": 0.9, "beta2": 0.999, "eps": spec["eps"], "weight_decay": 0.01, "clip_norm": 1.0,
                         "bias_correction": spec["bias_correction"], "steps": spec["steps"]}}
    w = {}
    for name, shape in parameter_shapes(cfg).items():
        center, spread = (0.6, 0.1) if name.endswith("LayerNorm.weight") else (0.0, 0.1 if "bias" in name else 0.15)
        w[name] = torch.tensor(rng.normal(center, spread, shape).astype(np.float32)).to(F64).requires_grad_()
    return cfg, w


def random_batch(spec, rng):
    lengths, P, V = spec["lengths"], spec["masked"], spec["vocab"]
    B, T = len(lengths), max(lengths)
    batch = {"ids": np.zeros((B, T)), "segments": np.zeros((B, T)), "masked_positions": np.zeros((B, P)), "masked_weights": np.zeros((B, P)),
             "masked_ids": np.zeros((B, T)), "sampled_ids": np.zeros((B, P))}
    for b, n in enumerate(lengths):
        batch["ids"][b, :n] = rng.integers(5, V, n)
        batch["segments"][b, n // 2 : n] = 1
        batch["masked_ids"][b, :n] = batch["ids"][b, :n]
        used = min(n, P) if b % 2 == 0 else max(1, min(n, P - 1))  # some slots stay unused
        positions = np.sort(rng.choice(n, used, replace=False))
        batch["masked_positions"][b, :used], batch["masked_weights"][b, :used] = positions, 1
        batch["masked_ids"][b, positions] = 4
        samples = rng.integers(5, V, used)
        samples[0] = batch["ids"][b, positions[0]]  # a sample that is the original
        batch["sampled_ids"][b, :used] = samples
    batch = {k: torch.tensor(x.astype(np.float32 if k == "masked_weights" else np.int32)) for k, x in batch.items()}
    batch["lengths"] = torch.tensor(np.array(lengths, dtype=np.int32))
    return batch


def train(cfg, w, batch, cast):
    """Every tensor under expect/, grad/ and after/: steps on one batch, forward and backward of cast(weights)."""
    m, v = ({k: torch.zeros_like(x) for k, x in w.items()} for _ in range(2))
    out, step_losses = {}, []
    for step in range(1, cfg["optimizer"]["steps"] + 1):
        loss, lm, disc, logits, lm_logits = forward({k: cast(x) for k, x in w.items()}, cfg, batch)
        grads = dict(zip(w, torch.autograd.grad(loss, list(w.values()))))
        norm = adamw(w, grads, m, v, step, cfg["optimizer"])
        step_losses.append(loss.item())
        if step == 1:
            one = lambda x: x.detach().reshape(1).clone()
            out |= {"expect/loss": one(loss), "expect/masked_lm_loss": one(lm), "expect/disc_loss": one(disc), "expect/grad_norm": one(norm),
                    "expect/disc_logits": logits.detach(), "expect/masked_lm_logits": lm_logits.detach()}
            out |= {f"grad/{k}": g.clone() for k, g in grads.items()}
    out["expect/step_losses"] = torch.tensor(step_losses, dtype=F64)
    out |= {f"after/{k}": x.detach().clone() for k, x in w.items()}
    return {k: x.to(F64) for k, x in out.items()}


def write(name, spec, folder):
    rng = np.random.default_rng(sum(map(ord, name)))
    cfg, w = random_model(spec, rng)
    batch = random_batch(spec, rng)
    out = {f"input/{k}": x for k, x in batch.items()}
    out |= {f"weight/{k}": x.detach().to(torch.float32).clone() for k, x in w.items()}
    masters = {k: x.detach().to(torch.float32).requires_grad_() for k, x in w.items()}
    exact = train(cfg, w, batch, lambda x: x)
    bf16 = train(cfg, masters, batch, lambda x: x.to(BF16))
    out |= exact | {f"bf16_error/{k}": (bf16[k] - x).abs().max().reshape(1) for k, x in exact.items()}
    path = folder / f"{name}.safetensors"
    save_file({k: x.contiguous() for k, x in out.items()}, path, {"format": "electra-golden", "version": "1", "config": json.dumps(cfg)})
    losses = exact["expect/step_losses"]
    print(f"{path.name}: {path.stat().st_size} bytes, loss {losses[0]:.6f} -> {losses[-1]:.6f}")


def check(name, spec):
    """This file's model against transformers', in float64."""
    from transformers import ElectraConfig, ElectraForMaskedLM, ElectraForPreTraining
    rng = np.random.default_rng(7)
    cfg, w = random_model(spec, rng)
    n, worst = max(spec["lengths"]), 0.0
    ids, segments = torch.tensor(rng.integers(5, spec["vocab"], n)), torch.tensor(rng.integers(0, 2, n))
    for half, cls in (("discriminator", ElectraForPreTraining), ("generator", ElectraForMaskedLM)):
        c = cfg[half]
        model = cls(ElectraConfig(vocab_size=cfg["vocab_size"], embedding_size=cfg["embedding_size"], hidden_size=c["hidden_size"], num_hidden_layers=c["num_layers"],
                                  num_attention_heads=c["num_heads"], intermediate_size=c["intermediate_size"], max_position_embeddings=cfg["max_position_embeddings"])).double().eval()
        state = {k.split("/", 1)[1]: x.detach() for k, x in w.items() if k.startswith(half) or "electra.embeddings." in k}
        missing = model.load_state_dict(state, strict=False)
        assert not missing.unexpected_keys and set(missing.missing_keys) <= {"generator_lm_head.weight"}, missing
        if half == "generator":
            model.tie_weights()
        with torch.no_grad():
            theirs = model(input_ids=ids[None], token_type_ids=segments[None]).logits[0]
            hidden = encoder(w, cfg, half, ids, segments)
            ours = disc_logits(w, hidden) if half == "discriminator" else masked_lm_logits(w, cfg, hidden)
        worst = max(worst, (theirs - ours).abs().max().item())
    print(f"{name}: largest difference from transformers {worst:.2e}")
    assert worst < 1e-10


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with transformers, write nothing")
    arguments = parser.parse_args()
    for file_name, file_spec in FILES.items():
        check(file_name, file_spec) if arguments.check else write(file_name, file_spec, pathlib.Path(__file__).parent)
