"""Scores and keys as every selection compares them."""

from __future__ import annotations

import math

import torch
from torch import Tensor


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
