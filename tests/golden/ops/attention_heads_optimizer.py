#!/usr/bin/env python3
"""Writes attention.json, masked_lm.json, binary_classifier.json and optimizer.json beside itself.

PyTorch in float64 and its autograd, Philox4x32-10 written again from the paper (Salmon et al., SC'11) on Python integers.
Not needed to run the tests.  usage: attention_heads_optimizer.py
"""
import json
import math
import pathlib

import numpy as np
import torch

torch.set_default_dtype(torch.float64)
HERE = pathlib.Path(__file__).parent
# The state of the tests' records (tests/op_test.h).
SEED, STEP, FIRST_SEQUENCE = 0x9E3779B97F4A7C15, 7, 3
rng = np.random.default_rng(20200323)


def normal(*shape, scale=1.0):
    """Float64 tensor of numbers that float32 has."""
    return torch.tensor((rng.standard_normal(shape) * scale).astype(np.float32).astype(np.float64))


def philox(key, counter):
    """The four 32-bit words of a call."""
    k = [key & 0xFFFFFFFF, key >> 32]
    c = list(counter)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & 0xFFFFFFFF, (p0 >> 32) ^ c[3] ^ k[1], p0 & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def case(name, attributes, **tensors):
    def entry(t):
        t = torch.as_tensor(t).detach().to(torch.float64)
        t = t.reshape(-1) if t.dim() == 0 else t
        return {"shape": list(t.shape), "values": [float(x) for x in t.reshape(-1)]}

    return {"name": name, "attributes": attributes, "tensors": {k: entry(v) for k, v in tensors.items()}}


def write(op, cases):
    def number(text):
        return int(text) if float(text).is_integer() and abs(float(text)) < 2**53 else float(text)

    lines = []
    for c in cases:
        for t in c["tensors"].values():
            t["values"] = [number(v) if math.isfinite(v) else v for v in t["values"]]
        lines.append(json.dumps(c, separators=(",", ":")))
    (HERE / f"{op}.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")


def offsets_of(lengths):
    return torch.tensor(np.concatenate([[0], np.cumsum(lengths)]))


# ---- attention ----
def attention(name, lengths, spare, heads, dim, drop_p, site, scale=1.0):
    rows, hidden = sum(lengths) + spare, heads * dim
    qkv, dcontext = normal(rows, 3 * hidden, scale=scale).requires_grad_(), normal(rows, hidden)
    threshold = round(65536 * (1 - drop_p))
    context, lse = [], torch.zeros(heads, rows)
    begin = 0
    for s, n in enumerate(lengths):
        q, k, v = (qkv[begin:begin + n, i * hidden:(i + 1) * hidden].reshape(n, heads, dim).transpose(0, 1) for i in range(3))
        scores = q @ k.transpose(1, 2) / math.sqrt(dim)
        lse[:, begin:begin + n] = torch.logsumexp(scores, -1)
        factor = torch.ones(heads, n, n)
        if drop_p > 0:
            for h in range(heads):
                for i in range(n):
                    for j in range(n):
                        word = philox(SEED ^ site, (STEP, FIRST_SEQUENCE + s, i, h * 65536 + j // 8))[j % 8 // 2]
                        factor[h, i, j] = 65536 / threshold if (word >> (j % 2 * 16)) & 0xFFFF < threshold else 0
        context.append((torch.softmax(scores, -1) * factor @ v).transpose(0, 1).reshape(n, hidden))
        begin += n
    context = torch.cat(context + [torch.zeros(spare, hidden)])
    context.backward(dcontext)
    return case(name, {"num_heads": heads, "max_seq_len": max(lengths), "drop_p": drop_p, "site": site}, qkv=qkv,
                sequence_offsets=offsets_of(lengths), context=context, lse=lse, dcontext=dcontext, dqkv=qkv.grad)


write("attention", [
    attention("plain", [5, 1, 9], 2, 2, 4, 0.0, 0),
    attention("dropout", [3, 12, 1], 1, 2, 3, 0.25, 12345),
    attention("peaked scores", [7], 0, 1, 8, 0.0, 0, scale=6.0),
])


# ---- masked LM ----
def masked_lm(name, vocab, cols, lengths, rows, targets, weights, temperature=1.0, disallow_correct=False, uniform=False, site=77):
    slots = len(rows)
    denominator = 5.0
    hidden, word, bias = (normal(*shape).requires_grad_() for shape in ((slots, cols), (vocab, cols), (vocab,)))
    logits = torch.zeros(slots, vocab) if uniform else hidden @ word.T + bias
    target, weight = torch.tensor(targets), torch.tensor(weights)
    lse = torch.logsumexp(logits, -1)
    losses = lse - logits[torch.arange(slots), target]
    loss = (weight * losses).sum() / denominator
    offsets = offsets_of(lengths).tolist()
    sampled, seen = [], {}
    for i in range(slots):
        if weights[i] == 0:
            sampled.append(0)
            continue
        sequence = max(s for s in range(len(lengths)) if offsets[s] <= rows[i])
        repeat = seen.get(rows[i], 0)
        seen[rows[i]] = repeat + 1
        best, best_id = -math.inf, 0
        for v in range(vocab):
            draw = philox(SEED ^ site, (STEP, FIRST_SEQUENCE + sequence, rows[i] - offsets[sequence], repeat * 2**28 + v // 4))[v % 4]
            u = ((draw >> 9) + 0.5) * 2.0**-23
            z = logits[i, v].item() / temperature - math.log(-math.log(u)) - (1000 if disallow_correct and v == targets[i] else 0)
            if z > best:
                best, best_id = z, v
        sampled.append(best_id)
    argmax = logits.argmax(-1)
    sums = [(weight * losses).sum(), (weight * (argmax == target)).sum(), (weight * (torch.tensor(sampled) == target)).sum(), weight.sum()]
    tensors = {}
    dloss = 1.75
    if not uniform:
        loss.backward(torch.tensor(dloss))
        tensors = dict(hidden=hidden, word=word, bias=bias, dhidden=hidden.grad, dword=word.grad, dbias=bias.grad, logits=logits * (weight != 0)[:, None])
    return case(name, {"vocab_size": vocab, "temperature": temperature, "disallow_correct": int(disallow_correct), "uniform": int(uniform),
                       "site": site, "denominator": denominator}, targets=target, rows=torch.tensor(rows), weights=weight,
                sequence_offsets=offsets_of(lengths), loss=loss, lse=lse * (weight != 0), sampled_ids=torch.tensor(sampled),
                sums=torch.stack(sums), dloss=torch.tensor(dloss), **tensors)


ROWS, TARGETS, WEIGHTS = [2, 2, 4, 0, 6, 8, 0], [3, 3, 60, 5, 0, 33, 2], [1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0]
write("masked_lm", [
    masked_lm("plain, a repeated row, unused slots", 67, 5, [5, 1, 4], ROWS, TARGETS, WEIGHTS),
    masked_lm("temperature, correct disallowed", 67, 5, [5, 1, 4], ROWS, TARGETS, WEIGHTS, temperature=0.5, disallow_correct=True),
    masked_lm("uniform", 67, 5, [5, 1, 4], ROWS, TARGETS, WEIGHTS, uniform=True),
])


# ---- binary classifier ----
def binary_classifier(name, rows, used, cols, scale=1.0, bins=1024):
    x, weight, bias, out_weight, out_bias = (normal(*shape, scale=scale).requires_grad_() for shape in
                                             ((rows, cols), (cols, cols), (cols,), (1, cols), (1,)))
    labels = torch.tensor((rng.random(rows) < 0.3).astype(np.float64))
    denominator, dloss = 11.0, 0.5
    h = torch.nn.functional.gelu(x @ weight.T + bias)
    logits = (h @ out_weight.T + out_bias)[:, 0]
    losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")[:used]
    loss = losses.sum() / denominator
    loss.backward(torch.tensor(dloss))
    real, predicted = labels[:used] > 0.5, logits[:used] > 0
    histogram = torch.zeros(2, bins)
    for r in range(used):
        histogram[int(real[r]), min(bins - 1, int(torch.sigmoid(logits[r]).item() * bins))] += 1
    counts = [torch.tensor(float(used)), real.sum(), (real == predicted).sum(), predicted.sum(), (real & predicted).sum()]
    counts = torch.cat([torch.stack([c.to(torch.float64) for c in counts]), histogram.reshape(-1)])
    return case(name, {"denominator": denominator}, x=x, weight=weight, bias=bias, out_weight=out_weight, out_bias=out_bias, labels=labels,
                sequence_offsets=torch.tensor([0, used // 2, used]), loss=loss, loss_sum=losses.sum(),
                logits=logits * (torch.arange(rows) < used), counts=counts, dloss=torch.tensor(dloss), dx=x.grad, dweight=weight.grad,
                dbias=bias.grad, dout_weight=out_weight.grad, dout_bias=out_bias.grad)


write("binary_classifier", [binary_classifier("plain", 13, 11, 6), binary_classifier("large logits", 6, 6, 5, scale=4.0)])


# ---- optimizer ----
def optimizer(name, n, group, bias_correction, adam_step, clip_norm):
    param, grad, m = normal(n), normal(n, scale=0.3), normal(n, scale=0.1)
    v = normal(n, scale=0.1).abs()
    decays, scales, lr, beta1, beta2, eps = [0.01, 0.0], [1.0, 0.5], 0.125, 0.9, 0.98, 1e-6
    ids = [i % 2 for i in range((n + group - 1) // group)]
    norm = grad.norm().item()
    factor = min(1.0, clip_norm / norm)
    out = [torch.empty(0)] * 3
    results = []
    for g, i in zip(ids, range(0, n, group)):
        p = param[i:i + group].clone().requires_grad_()
        # float32 of the decay, as the group table holds it
        decay = float(np.float32(decays[g]))
        if bias_correction:
            adam = torch.optim.AdamW([p], lr=lr * scales[g], betas=(beta1, beta2), eps=eps, weight_decay=decay, foreach=False)
            adam.state[p] = {"step": torch.tensor(float(adam_step - 1)), "exp_avg": m[i:i + group].clone(), "exp_avg_sq": v[i:i + group].clone()}
            p.grad = grad[i:i + group] * factor
            adam.step()
            results.append((p.detach(), adam.state[p]["exp_avg"], adam.state[p]["exp_avg_sq"]))
        else:  # the original's AdamWeightDecayOptimizer
            g_ = grad[i:i + group] * factor
            m_, v_ = beta1 * m[i:i + group] + (1 - beta1) * g_, beta2 * v[i:i + group] + (1 - beta2) * g_ * g_
            update = m_ / (v_.sqrt() + eps) + decay * p.detach()
            results.append((p.detach() - lr * scales[g] * update, m_, v_))
    out = [torch.cat(parts) for parts in zip(*results)]
    return case(name, {"bias_correction": int(bias_correction), "adam_step": adam_step, "clip_norm": clip_norm, "learning_rate": lr, "beta1": beta1,
                       "beta2": beta2, "eps": eps, "norm": norm, "factor": factor}, grad=grad, param_before=param, m_before=m, v_before=v,
                param=out[0], m=out[1], v=out[2])


write("optimizer", [
    optimizer("torch.optim.AdamW, clipped", 300, 256, True, 3, 1.0),
    optimizer("the original, not clipped", 300, 256, False, 1, 100.0),
])
