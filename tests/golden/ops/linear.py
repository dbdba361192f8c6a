"""Writes linear.json: torch.nn.functional.linear with no bias, bias, and bias and GELU, and its gradients."""

import torch
from golden import case, normal, write


def linear(rows, inputs, outputs, epilogue):
    x, weight, bias = normal(rows, inputs), normal(outputs, inputs, scale=0.4), normal(outputs) if epilogue else None
    leaves = [t.requires_grad_() for t in (x, weight, bias) if t is not None]
    u = torch.nn.functional.linear(x, weight, bias)
    y = torch.nn.functional.gelu(u) if epilogue == 2 else u
    dy = normal(rows, outputs)
    gradients = torch.autograd.grad(y, leaves, dy)
    return case(
        f"{rows}x{inputs} to {outputs}, {['none', 'bias', 'bias and GELU'][epilogue]}",
        {"epilogue": epilogue},
        {
            "x": x, "weight": weight, "bias": bias, "y": y, "u": u if epilogue == 2 else None, "dy": dy,
            "dx": gradients[0], "dweight": gradients[1], "dbias": gradients[2] if epilogue else None,
        },
    )


torch.manual_seed(3)
write(__file__, [linear(5, 7, 3, 0), linear(4, 6, 9, 1), linear(6, 5, 8, 2)])
