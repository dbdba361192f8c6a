"""Writes gelu.json: torch.nn.functional.gelu, the erf form, and its gradient."""

import torch
from golden import case, normal, write

torch.manual_seed(2)
x = torch.cat([torch.tensor([0.0, -0.0, 1e-30, -1e-6, 1.0, -1.0, 3.5, -5.0, -9.0, -13.0, 20.0, -40.0]).float().double(), normal(40, scale=2)])
x.requires_grad_()
y, dy = torch.nn.functional.gelu(x), normal(*x.shape)
write(__file__, [case("both tails and the middle", {}, {"x": x, "y": y, "dy": dy, "dx": torch.autograd.grad(y, x, dy)[0]})])
