"""Writes layer_norm.json: torch.nn.functional.layer_norm of dropout(x) + residual, and its gradients."""

import torch
from golden import case, normal, row_keep_factors, write


def layer_norm(rows, cols, residual, drop_p, offsets, eps):
    x, gamma, beta = normal(rows, cols, scale=2, mean=0.5), normal(cols, scale=0.5, mean=1), normal(cols)
    add = normal(rows, cols) if residual else None
    leaves = [t.requires_grad_() for t in (x, gamma, beta, add) if t is not None]
    total = x * row_keep_factors(drop_p, "test/layer_norm", offsets, rows, cols)
    if residual:
        total = total + add
    y = torch.nn.functional.layer_norm(total, (cols,), gamma, beta, eps)
    dy = normal(rows, cols)
    gradients = torch.autograd.grad(y, leaves, dy)
    mean = total.mean(-1)
    return case(
        f"{rows}x{cols}, residual {residual}, dropout {drop_p}",
        {"drop_p": drop_p, "eps": eps},
        {
            "x": x, "gamma": gamma, "beta": beta, "residual": add, "sequence_offsets": torch.tensor(offsets),
            "y": y, "mean": mean, "rstd": (total.var(-1, unbiased=False) + eps).rsqrt(),
            "sum": total if residual or drop_p else None,
            "dy": dy, "dx": gradients[0], "dgamma": gradients[1], "dbeta": gradients[2],
            "dresidual": gradients[3] if residual else None,
        },
    )


torch.manual_seed(1)
write(__file__, [
    layer_norm(4, 19, False, 0.0, [0], 1e-12),
    layer_norm(3, 32, True, 0.0, [0], 1e-5),
    layer_norm(7, 21, True, 0.25, [0, 2, 2, 6], 1e-12),
])
