"""Token budgets per image, crop or frame, as docs/tokens.md defines them."""

from __future__ import annotations

import torch
from torch import Tensor

from .normalise import finite_scores

_BISECTIONS = 100


def budget(
    weights: Tensor,
    total: int,
    capacity: Tensor | None = None,
    *,
    rule: str = "proportional",
    temperature: float = 1.0,
    minimum: int = 0,
) -> Tensor:
    """Offsets int32 [B + 1] of counts that sum to ``total``, by Webster's method.

    count_b = clamp(round(scale * share_b), minimum, capacity_b) for the largest scale whose counts
    do not exceed the total; those next to step, lowest index first, take what is left.
    """
    share = shares(finite_scores(weights).double(), rule, temperature)
    low = torch.full_like(share, minimum)
    high = torch.full_like(share, total) if capacity is None else capacity.double()
    low = torch.minimum(low, high)

    def counts(scale: Tensor) -> Tensor:
        return torch.minimum(torch.maximum((scale * share + 0.5).floor(), low), high)

    smallest = share.min()
    scale_low, scale_high = torch.zeros_like(smallest), (total + 1) / smallest
    for _ in range(_BISECTIONS):
        middle = (scale_low + scale_high) / 2
        fits = counts(middle).sum() <= total
        scale_low = torch.where(fits, middle, scale_low)
        scale_high = torch.where(fits, scale_high, middle)
    count = counts(scale_low)
    step = torch.where(
        count < high, (count + 0.5) / share, torch.inf
    )  # the scale of its next token
    order = step.argsort(stable=True)
    rank = torch.empty_like(order).index_copy(
        0, order, torch.arange(len(order), device=order.device)
    )
    # As integers: a cumsum of floats on a GPU is open about its order, and raises where
    # deterministic algorithms are asked for.
    count = (count + (rank < total - count.sum())).long()
    return torch.cat([count.new_zeros(1), count.cumsum(0)]).to(torch.int32)


def shares(weights: Tensor, rule: str, temperature: float) -> Tensor:
    """Positive shares [B] that sum to one; equal where no weight is positive. NaN is the least."""
    weights = weights.nan_to_num(nan=-torch.finfo(torch.float32).max)
    if rule == "softmax":
        share = ((weights - weights.max()) / temperature).softmax(0)
    elif rule == "proportional":
        share = weights.clamp_min(0)
        share = torch.where(share.sum() > 0, share / share.sum(), 1 / len(weights))
    else:
        share = torch.full_like(weights, 1 / len(weights))
    return share.clamp_min(1e-12)  # a share of nothing still fills up last
