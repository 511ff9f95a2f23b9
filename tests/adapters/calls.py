"""What the adapters' tests share: plain greedy loops in fp64, and inputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from zoprune_kernels.testing import clustered

SIZES = [(1, 1), (63, 20), (577, 60)]
HALVES = [torch.float16, torch.bfloat16]


def inputs(tokens: int, dim: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Scores [tokens] in [0, 1] and keys [tokens, dim]."""
    return torch.rand(tokens).to(dtype), clustered(tokens, dim, dtype)


def cosines(x: Tensor, y: Tensor | None = None) -> Tensor:
    """All cosines in fp64 [N, M]."""
    x, y = x.double(), (x if y is None else y).double()
    return (x / x.norm(dim=-1, keepdim=True)) @ (y / y.norm(dim=-1, keepdim=True)).T


def normalised(scores: Tensor) -> Tensor:
    s = scores.double()
    return (s - s.min()) / (s.max() - s.min() + 1e-8) if s.max() > s.min() else torch.ones_like(s)


def check_greedy(picks: Tensor, gains: Callable[[list[int]], Tensor], tolerance: float) -> None:
    """Each pick is new and has the highest gain; ``gains(picked)`` are those of all tokens."""
    picked: list[int] = []
    for pick in picks.tolist():
        gain = gains(picked)
        assert pick not in picked
        gain[picked] = -torch.inf
        assert gain[pick] >= gain.max() - tolerance, f"pick {len(picked)}"
        picked.append(pick)


def max_similarity(similarity: Tensor, picked: list[int]) -> Tensor:
    return similarity[:, picked].amax(1)
