"""Greedy selection that lowers the neighbours of what it picks, as docs/family.md defines it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..methods import SuppressOptions
from .greedy import BLOCKED, FREE, PICKED, candidate_classes, first_best, row, selection
from .normalise import finite_scores, unit_keys


@selection
def select_suppress(
    scores: Tensor,
    keys: Tensor | None,
    k: int,
    positions: Tensor | None = None,
    must_keep: Tensor | None = None,
    valid: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """The best score, whose neighbours each pick lowers, k times; ``options`` are those of
    :class:`SuppressOptions`."""
    how = SuppressOptions(**options)
    score = finite_scores(scores)
    classes = candidate_classes(scores, must_keep, valid)
    z = None if keys is None else unit_keys(keys).to(score.dtype)
    place = None if positions is None else positions.to(score.dtype)
    picks = torch.empty(k, dtype=torch.int64, device=scores.device)
    for step in range(k):
        pick = first_best(classes, score)
        picks[step] = pick
        classes = classes.index_fill(0, pick, PICKED)
        cosine = torch.ones_like(score) if z is None else (z @ row(z, pick)).clamp(-1, 1)
        distance2 = torch.zeros_like(score)
        if place is not None:
            distance2 = (place - row(place, pick)).square().sum(-1)
        near = distance2 <= how.radius * how.radius  # False for a position that is NaN
        if how.rule == "hard":
            close = near if z is None else near & (cosine > how.threshold)
            classes = classes.masked_fill(close & (classes == FREE), BLOCKED)
            continue
        closeness = torch.exp(-distance2 / (2 * how.sigma_space**2))
        if how.rule == "soft":
            closeness = closeness * torch.exp(-((1 - cosine) ** 2) / (2 * how.sigma_similarity**2))
            lowered = score - closeness * score.abs()
        else:
            closeness = closeness * torch.exp(-(1 - cosine) / how.sigma_similarity)
            lowered = score - how.strength * closeness
        score = torch.where(near & (closeness > 0), lowered, score)
    return picks
