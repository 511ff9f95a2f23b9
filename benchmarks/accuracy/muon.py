"""Muon for many matrices at once: what torch.optim.Muon computes, in a tenth of the launches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

MOMENTUM, DECAY = 0.95, 0.02
QUINTIC = (3.4445, -4.775, 2.0315)


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal by five Newton-Schulz steps (Jordan et al., 2024), Nesterov's form.

    Updates are scaled to the size of AdamW's (Liu et al., 2025), so that both share a rate.
    """

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": 1e-3})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes.setdefault(parameter.shape, []).append(parameter)
            for shape, same in shapes.items():
                gradient = torch.stack([p.grad for p in same])
                state = self.state[same[0]]
                if "momentum" not in state or state["momentum"].shape != gradient.shape:
                    state["momentum"] = torch.zeros_like(gradient)
                state["momentum"].lerp_(gradient, 1 - MOMENTUM)
                update = orthogonal(gradient.lerp(state["momentum"], MOMENTUM)).float()
                torch._foreach_mul_(same, 1 - group["lr"] * DECAY)
                scale = -group["lr"] * 0.2 * max(shape) ** 0.5
                torch._foreach_add_(same, list(update.unbind(0)), alpha=scale)


def orthogonal(matrices: Tensor) -> Tensor:
    """[n, rows, columns] -> bfloat16, all singular values about 1."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.bfloat16()
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    a, b, c = QUINTIC
    for _ in range(5):
        square = x @ x.mT
        square = torch.baddbmm(square, square, square, beta=b, alpha=c)
        x = torch.baddbmm(x, square, x, beta=a)
    return x.mT if tall else x
