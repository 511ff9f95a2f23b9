"""Greedy facility location, as docs/family.md defines it (SCOPE, arXiv 2510.24214)."""

from __future__ import annotations

import torch
from torch import Tensor

from .greedy import BLOCKED, FREE, PICKED, candidate_classes, first_best, row, selection
from .normalise import finite_scores, unit_keys

# A token that raises the coverage by less than this share of the largest weight adds nothing.
NEGLIGIBLE = 2.0**-30


@selection
def select_coverage(
    scores: Tensor,
    keys: Tensor,
    k: int,
    weights: Tensor | None = None,
    must_keep: Tensor | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """The largest score times added coverage, k times."""
    classes = candidate_classes(scores, must_keep, valid)
    score = finite_scores(scores)
    z = unit_keys(keys).to(score.dtype)  # [N, D]
    weight = torch.ones_like(score)
    if weights is not None:
        weight = finite_scores(weights).to(score.dtype).clamp_min(0)
        weight = weight.masked_fill(weight.isnan(), 0)
    if valid is not None:
        weight = weight.masked_fill(~valid, 0)
    weight = weight / weight.max().clamp_min(torch.finfo(torch.float32).tiny)

    covered = torch.zeros_like(score)  # the largest cosine to a selected token, at least 0
    picks = torch.empty(k, dtype=torch.int64, device=scores.device)
    for step in range(k):
        added = _added_coverage(z, weight, covered)
        adds_nothing = (added <= NEGLIGIBLE) | (score <= 0)
        classes = classes.masked_fill(adds_nothing & (classes == FREE), BLOCKED)
        gain = torch.where(classes == FREE, score * added, score)
        pick = first_best(classes, gain)
        picks[step] = pick
        classes = classes.index_fill(0, pick, PICKED)
        covered = torch.maximum(covered, (z @ row(z, pick)).clamp(-1, 1))
    return picks


def _added_coverage(z: Tensor, weight: Tensor, covered: Tensor) -> Tensor:
    """sum_i w_i max(0, cos(i, j) - covered_i) of every token j, [N]; a tile of tokens at a time."""
    tiles = [
        weight @ ((z @ tile.T).clamp(-1, 1) - covered[:, None]).clamp_min(0)
        for tile in z.split(256)
    ]
    return torch.cat(tiles)
