"""Giving dropped tokens to kept ones, as docs/tokens.md defines it."""

from __future__ import annotations

import torch
from torch import Tensor

from .normalise import unit_keys


def merge(
    tokens: Tensor,
    keys: Tensor,
    indices: Tensor,
    weights: Tensor | None = None,
    valid: Tensor | None = None,
    *,
    rule: str = "mean",
) -> tuple[Tensor, Tensor]:
    """Tokens [N, D] of one image to the kept ones [k]: merged [k, D] and sizes [k]."""
    t = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
    w = torch.ones_like(t[:, 0]) if weights is None else weights.to(t.dtype)
    number = torch.arange(len(indices), device=t.device)
    dropped = torch.ones_like(w, dtype=torch.bool).index_fill(0, indices, False)
    if valid is not None:
        dropped = dropped & valid
    owner = nearest_kept(keys, indices).index_copy(0, indices, number)
    given = torch.where(dropped, w, 0.0)  # [N] what dropped tokens weigh
    gift = torch.where(dropped[:, None], w[:, None] * t, 0.0)  # padding may hold NaN
    gathered = added_at(torch.zeros_like(t[: len(indices)]), owner, gift)
    weight = added_at(given.new_zeros(len(indices)), owner, given)
    kept, kept_weight = t[indices], w[indices]
    if rule == "residual":
        merged = kept + gathered / torch.where(weight > 0, weight, 1.0)[:, None]
    else:
        merged = kept_weight[:, None] * kept + gathered
        if rule == "mean":
            total = weight + kept_weight
            merged = torch.where((total > 0)[:, None], merged / total[:, None], kept)
    return merged, weight + kept_weight


def nearest_kept(keys: Tensor, indices: Tensor) -> Tensor:
    """Which of ``indices`` is each token's most similar kept token's; ties to the first."""
    z = unit_keys(keys)
    return first_argmax((z @ z[indices].T).clamp(-1, 1))


def added_at(rows: Tensor, index: Tensor, added: Tensor) -> Tensor:
    """rows.index_add(0, index, added), in one order of summation also on a GPU."""
    if rows.device.type == "cpu":
        return rows.index_add(0, index, added)
    return rows.index_put((index,), added, accumulate=True)  # sorts; index_add would race


def first_argmax(rows: Tensor) -> Tensor:
    """argmax of each row [N, k]; the lowest index of equal values, which argmax leaves open."""
    index = torch.arange(rows.shape[-1], device=rows.device)
    best = rows == rows.amax(-1, keepdim=True)
    return torch.where(best, index, rows.shape[-1]).amin(-1)
