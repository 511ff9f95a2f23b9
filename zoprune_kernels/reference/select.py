"""Plain greedy selection, as docs/selection.md defines it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .. import philox
from ..methods import SelectOptions, in_python
from .greedy import (
    BLOCKED,
    FREE,
    MUST_KEEP,
    PICKED,
    candidate_classes,
    first_best,
    row,
    selection,
)
from .normalise import finite_scores, normalised_scores, unit_keys


@selection
def select(
    scores: Tensor,
    keys: Tensor | None,
    k: int,
    must_keep: Tensor | None = None,
    valid: Tensor | None = None,
    *,
    seed: int = 0,
    **options: Any,
) -> Tensor:
    """The best remaining candidate, k times; ``options`` are those of :class:`SelectOptions`."""
    how = SelectOptions(**in_python(options))
    weight = _weights(scores, valid, how.method, seed)
    z = None if keys is None else unit_keys(_centred(keys, valid) if how.centre else keys)
    # The largest cosine to the selected tokens; nothing is selected yet.
    similarity = torch.full_like(weight, -math.inf)
    classes = candidate_classes(scores, must_keep, valid)
    kept = (classes == MUST_KEEP).sum()

    picks = torch.empty(k, dtype=torch.int64, device=scores.device)
    gain, shown = weight, similarity
    for step in range(k):
        by_score = kept + max(min(how.picks_by_score, k), 1)  # the picks until here go by weight
        by_score = torch.where((kept > 0) & (how.picks_by_score == 0), kept, by_score)
        update = (step < by_score) | ((step - by_score) % how.picks_per_step == 0)
        shown = torch.where(update, similarity, shown)
        if how.max_similarity < 1:
            free = (classes == FREE) | (classes == BLOCKED)
            too_close = shown > how.max_similarity
            classes = torch.where(free, torch.where(too_close, BLOCKED, FREE), classes)
        gain = torch.where(step < by_score, weight, _gain(weight, shown, how))
        if step == 0 and how.first == "isolated" and z is not None:
            gain = torch.where(kept > 0, gain, _isolation(z, classes == FREE))
        pick = first_best(classes, gain)
        picks[step] = pick
        classes = classes.index_fill(0, pick, PICKED)
        if z is not None:
            cosine = (z @ row(z, pick)).clamp(-1, 1).to(similarity.dtype)
            similarity = torch.maximum(similarity, cosine)
    return picks


def _gain(weight: Tensor, similarity: Tensor, how: SelectOptions) -> Tensor:
    if how.method == "sads":
        return weight * (1 - similarity)
    if how.method == "maxmin":
        return 1 - similarity
    if how.method == "mmr":
        return how.tradeoff * weight - (1 - how.tradeoff) * similarity
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
