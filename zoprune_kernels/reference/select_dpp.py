"""Greedy determinant maximisation, as docs/family.md defines it (Chen et al. 2018, algorithm 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from .greedy import BLOCKED, FREE, PICKED, candidate_classes, first_best, row, selection
from .normalise import finite_scores, unit_keys

# A token of which less than this share (of its squared length) lies outside the span of the
# selected tokens adds nothing.
DEPENDENT = 1e-5


@selection
def select_dpp(
    quality: Tensor,
    keys: Tensor,
    k: int,
    must_keep: Tensor | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """The largest conditional variance q^2 r, k times."""
    classes = candidate_classes(quality, must_keep, valid)
    q = finite_scores(quality)
    z = unit_keys(keys.double())  # [N, D]; in float32, rounding looks like volume
    # The rows of Chen et al.'s c divided by q, and r: what they leave of each unit key.
    columns = z.new_zeros(k, z.shape[0])
    residual = (z != 0).any(-1).to(z.dtype)
    picks = torch.empty(k, dtype=torch.int64, device=quality.device)
    for step in range(k):
        adds_nothing = (residual <= DEPENDENT) | (q <= 0)
        classes = classes.masked_fill(adds_nothing & (classes == FREE), BLOCKED)
        gain = torch.where(classes == FREE, q * residual.clamp_min(0).sqrt(), q)
        pick = first_best(classes, gain)
        picks[step] = pick
        classes = classes.index_fill(0, pick, PICKED)
        cosine = (z @ row(z, pick)).clamp(-1, 1)
        left = row(residual, pick)
        column = (cosine - row(columns.T, pick)[:step] @ columns[:step]) / left.sqrt()
        columns[step] = torch.where(left > DEPENDENT, column, 0.0)
        residual = residual - columns[step] ** 2
    return picks
