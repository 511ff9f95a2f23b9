"""Merging the most similar pairs of tokens, as docs/tokens.md defines it (ToMe)."""

from __future__ import annotations

import torch
from torch import Tensor

from .merge import added_at, first_argmax
from .normalise import unit_keys


def merge_bipartite(
    tokens: Tensor, keys: Tensor, count: int, sizes: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """ToMe: the ``count`` most similar pairs (even, odd) of one image's tokens [N, D] merge.

    Returns merged [N - count, D], sizes [N - count] and the indices [N - count] that stay.
    """
    t = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
    size = torch.ones_like(t[:, 0]) if sizes is None else sizes.to(t.dtype)
    index = torch.arange(len(t), device=t.device)
    if count == 0:
        return t, size, index
    z = unit_keys(keys)
    cosine = (z[0::2] @ z[1::2].T).clamp(-1, 1)  # [ceil(N / 2), floor(N / 2)]
    partner = first_argmax(cosine)
    order = cosine.amax(-1).argsort(descending=True, stable=True)
    source = order[:count].sort().values
    stays = torch.ones_like(size, dtype=torch.bool).index_fill(0, 2 * source, False)
    target = 2 * partner[source] + 1
    total = added_at(size, target, size[2 * source])
    weighted = size[:, None] * t
    merged = added_at(weighted, target, weighted[2 * source]) / total[:, None]
    left = torch.where(stays, index, len(t)).sort().values[: len(t) - count]
    grown = total > size
    merged = torch.where(grown[:, None], merged, t)  # what did not grow stays to the last bit
    return merged[left], total[left], left
