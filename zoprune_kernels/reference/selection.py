"""Plain greedy selection, as docs/selection.md defines it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import philox
from .greedy import BLOCKED, FREE, PICKED, by_image, candidate_classes, first_best, row


def select(
    scores: Tensor,
    keys: Tensor | None,
    k: int,
    must_keep: Tensor | None = None,
    valid: Tensor | None = None,
    *,
    method: str = "sads",
    max_similarity: float = 1.0,
    sort: bool = True,
    seed: int = 0,
) -> Tensor:
    """Plain greedy selection, one image at a time; scores [N] or [B, N], result [..., k]."""

    def select_image(
        scores: Tensor, keys: Tensor | None, must_keep: Tensor | None, valid: Tensor | None
    ) -> Tensor:
        picks = _greedy(scores, keys, k, must_keep, valid, method, max_similarity, seed)
        return picks.sort().values if sort else picks

    return by_image(select_image, scores, keys, must_keep, valid)


def _greedy(
    scores: Tensor,
    keys: Tensor | None,
    k: int,
    must_keep: Tensor | None,
    valid: Tensor | None,
    method: str,
    max_similarity: float,
    seed: int,
) -> Tensor:
    """Indices [k] in pick order: the best remaining candidate, k times."""
    tokens = scores.shape[0]
    weight = normalised_scores(scores, valid)
    if method == "topk":  # normalising would merge close scores
        weight = finite_scores(scores)
    if method == "random":
        weight = philox.uniform(tokens, seed, scores.device)
    z = None if keys is None else unit_keys(keys)
    # The largest cosine to the selected tokens; nothing is selected yet.
    similarity = torch.full_like(weight, -math.inf)
    classes = candidate_classes(scores, must_keep, valid)

    picks = torch.empty(k, dtype=torch.int64, device=scores.device)
    for step in range(k):
        if max_similarity < 1:
            too_close = (similarity > max_similarity) & (classes == FREE)
            classes = classes.masked_fill(too_close, BLOCKED)
        gain = weight if step == 0 else _gain(weight, similarity, method)
        pick = first_best(classes, gain)
        picks[step] = pick
        classes = classes.index_fill(0, pick, PICKED)
        if z is not None:
            cosine = (z @ row(z, pick)).clamp(-1, 1).to(similarity.dtype)
            similarity = torch.maximum(similarity, cosine)
    return picks


def _gain(weight: Tensor, similarity: Tensor, method: str) -> Tensor:
    if method == "sads":
        return weight * (1 - similarity)
    if method == "maxmin":
        return 1 - similarity
    return weight  # topk, random


def normalised_scores(scores: Tensor, valid: Tensor | None = None) -> Tensor:
    """w = (S - min S) / (max S - min S + 1e-8) over the valid tokens, ones where all are equal."""
    s = finite_scores(scores).double()
    usable = ~s.isnan() if valid is None else ~s.isnan() & valid
    low = torch.where(usable, s, math.inf).min()
    high = torch.where(usable, s, -math.inf).max()
    weight = torch.where(high > low, (s - low) / (high - low + 1e-8), 1.0)
    return torch.where(usable, weight, 0.0).to(torch.promote_types(scores.dtype, torch.float32))


def finite_scores(scores: Tensor) -> Tensor:
    """Scores in float32 or more, infinities as the largest finite float32; NaN stays."""
    largest = torch.finfo(torch.float32).max
    return scores.to(torch.promote_types(scores.dtype, torch.float32)).clamp(-largest, largest)


def unit_keys(keys: Tensor) -> Tensor:
    """Keys divided by their norms; a key whose norm is zero or not finite becomes zero."""
    norm = keys.double().norm(dim=-1, keepdim=True)
    usable = (norm > 0) & norm.isfinite()
    unit = torch.where(usable, keys.double() / norm, 0.0)
    return unit.to(torch.promote_types(keys.dtype, torch.float32))
