"""Plain greedy selection, as docs/selection.md defines it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .. import philox
from ..rules import SelectRule
from .greedy import (
    BLOCKED,
    FREE,
    MUST_KEEP,
    PICKED,
    by_image,
    candidate_classes,
    first_best,
    row,
)


def select(
    scores: Tensor,
    keys: Tensor | None,
    k: int,
    must_keep: Tensor | None = None,
    valid: Tensor | None = None,
    *,
    sort: bool = True,
    seed: int = 0,
    **options: Any,
) -> Tensor:
    """Plain greedy selection, one image at a time; scores [N] or [B, N], result [..., k].

    ``options`` are those of :class:`SelectRule`.
    """
    rule = SelectRule(**options)

    def select_image(
        scores: Tensor, keys: Tensor | None, must_keep: Tensor | None, valid: Tensor | None
    ) -> Tensor:
        picks = _greedy(scores, keys, k, must_keep, valid, rule, seed)
        return picks.sort().values if sort else picks

    return by_image(select_image, scores, keys, must_keep, valid)


def _greedy(
    scores: Tensor,
    keys: Tensor | None,
    k: int,
    must_keep: Tensor | None,
    valid: Tensor | None,
    rule: SelectRule,
    seed: int,
) -> Tensor:
    """Indices [k] in pick order: the best remaining candidate, k times."""
    weight = _weights(scores, valid, rule.method, seed)
    z = None if keys is None else unit_keys(_centred(keys, valid) if rule.centre else keys)
    # The largest cosine to the selected tokens; nothing is selected yet.
    similarity = torch.full_like(weight, -math.inf)
    classes = candidate_classes(scores, must_keep, valid)
    kept = (classes == MUST_KEEP).sum()

    picks = torch.empty(k, dtype=torch.int64, device=scores.device)
    gain, shown = weight, similarity
    for step in range(k):
        seeds = kept + max(min(rule.num_seed, k), 1)  # the picks until here go by weight
        seeds = torch.where((kept > 0) & (rule.num_seed == 0), kept, seeds)
        update = (step < seeds) | ((step - seeds) % rule.picks_per_step == 0)
        shown = torch.where(update, similarity, shown)
        if rule.max_similarity < 1:
            free = (classes == FREE) | (classes == BLOCKED)
            too_close = shown > rule.max_similarity
            classes = torch.where(free, torch.where(too_close, BLOCKED, FREE), classes)
        gain = torch.where(step < seeds, weight, _gain(weight, shown, rule))
        if step == 0 and rule.first == "isolated" and z is not None:
            gain = torch.where(kept > 0, gain, _isolation(z, classes == FREE))
        pick = first_best(classes, gain)
        picks[step] = pick
        classes = classes.index_fill(0, pick, PICKED)
        if z is not None:
            cosine = (z @ row(z, pick)).clamp(-1, 1).to(similarity.dtype)
            similarity = torch.maximum(similarity, cosine)
    return picks


def _gain(weight: Tensor, similarity: Tensor, rule: SelectRule) -> Tensor:
    if rule.method == "sads":
        return weight * (1 - similarity)
    if rule.method == "maxmin":
        return 1 - similarity
    if rule.method == "mmr":
        return rule.tradeoff * weight - (1 - rule.tradeoff) * similarity
    return weight  # topk, random


def _isolation(z: Tensor, candidates: Tensor) -> Tensor:
    """1 - the cosine [N] to the nearest other candidate, a few rows of the N x N at a time."""
    rows = []
    for first in range(0, len(z), 256):
        cosine = (z[first : first + 256] @ z.T).clamp(-1, 1)
        cosine = cosine.masked_fill(~candidates, -1)
        cosine.diagonal(first).fill_(-1)
        rows.append(1 - cosine.max(1).values)
    return torch.cat(rows)


def _weights(scores: Tensor, valid: Tensor | None, method: str, seed: int) -> Tensor:
    if method == "topk":  # normalising would merge close scores
        return finite_scores(scores)
    if method == "random":
        return philox.uniform(scores.shape[0], seed, scores.device)
    return normalised_scores(scores, valid)


def _centred(keys: Tensor, valid: Tensor | None) -> Tensor:
    """Keys in float64 minus the mean of the valid tokens' finite keys."""
    counted = keys.double().norm(dim=-1, keepdim=True).isfinite()
    if valid is not None:
        counted = counted & valid[:, None]
    total = torch.where(counted, keys.double(), 0.0).sum(0)
    return keys.double() - total / counted.sum().clamp_min(1)


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
