"""What each operator does on a GPU: checks, then kernels. ``register`` puts them in place."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import contracts
from ..fallback.scoring import warn_if_linear
from . import directions as random
from . import scoring
from .pruning import (
    project_and_select,
    project_and_select_varlen,
    score_and_select,
    score_and_select_varlen,
)
from .scoring import Projector

__all__ = [
    "directions",
    "expected_sensitivity",
    "project_and_select",
    "project_and_select_varlen",
    "score_and_select",
    "score_and_select_varlen",
    "sensitivity",
]


def directions(
    num: int,
    dim: int,
    *,
    distribution: str = "sphere",
    seed: int = 0,
    dtype: torch.dtype | None = None,
    device: torch.device,
) -> Tensor:
    contracts.directions(num, dim, distribution, dtype)
    return random.directions(num, dim, distribution, seed, dtype or torch.float32, device)


def sensitivity(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    directions: Tensor,
    *,
    step: float = 0.01,
    activation: str = "gelu",
) -> Tensor:
    contracts.sensitivity(x, w1, b1, w2, directions, step, activation)
    warn_if_linear(activation)
    projector = Projector(w1, b1, w2, None, activation)
    scored = scoring.directional(x.flatten(0, -2), projector, directions, step)
    return scored.scores.view(x.shape[:-1])


def expected_sensitivity(
    x: Tensor, w1: Tensor, b1: Tensor | None, metric: Tensor, *, activation: str = "gelu"
) -> Tensor:
    contracts.expected_sensitivity(x, w1, b1, metric, activation)
    warn_if_linear(activation)
    projector = Projector(w1, b1, None, None, activation)
    return scoring.closed_form(x.flatten(0, -2), projector, metric).scores.view(x.shape[:-1])
