"""Comparisons shared by the tests of select_dpp, select_suppress and select_coverage."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from zoprune_kernels.testing import clustered

SIZES = [(1, 1), (63, 20), (577, 64), (1000, 90)]
NAN, INF = math.nan, math.inf


def same_in_every_layout(one: Callable[..., Tensor], packed: Callable[..., Tensor]) -> None:
    """Batched and packed images give the picks of single images, bitwise.

    ``one(scores, keys, k, **masks)`` selects from [N] or [B, N], ``packed(scores, keys, cu_tokens,
    cu_keep, total_keep, **masks)`` from [T].
    """
    scores, keys = torch.rand(3, 63), torch.stack([clustered(63, 40) for _ in range(3)])
    valid = torch.rand(3, 63) < 0.8
    masks = {"valid": valid, "must_keep": valid & (torch.rand(3, 63) < 0.05)}
    single = [one(scores[b], keys[b], 17, **_row(masks, b)) for b in range(3)]
    assert torch.equal(one(scores, keys, 17, **masks), torch.stack(single))

    sizes, keep = [63, 5, 40], [17, 0, 9]
    cu_tokens = torch.tensor([0, *sizes]).cumsum(0).int()
    cu_keep = torch.tensor([0, *keep]).cumsum(0).int()
    parts = [slice(0, n) for n in sizes]
    tokens = [torch.cat([t[b][part] for b, part in enumerate(parts)]) for t in (scores, keys)]
    expected = [
        int(cu_tokens[b]) + one(scores[b][part], keys[b][part], keep[b])
        for b, part in enumerate(parts)
        if keep[b]
    ]
    assert torch.equal(packed(*tokens, cu_tokens, cu_keep, 26), torch.cat(expected))


def _row(masks: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    return {name: mask[row] for name, mask in masks.items()}


def check_candidate_order(select: Callable[..., Tensor]) -> None:
    """must_keep first, then by gain, then NaN; infinities are scores; padding is never picked."""
    keys = torch.eye(7)
    scores = torch.tensor([NAN, 0.5, INF, 0.1, 0.7, NAN, 0.6])
    must_keep = torch.tensor([False, False, False, True, False, True, False])
    valid = torch.tensor([True, True, True, True, True, True, False])
    picks = select(scores, keys, 6, must_keep=must_keep, valid=valid, sort=False)
    assert picks.tolist() == [3, 5, 2, 4, 1, 0]
    picks = select(scores, keys, 4, must_keep=must_keep, valid=valid)
    assert picks.tolist() == [2, 3, 4, 5]


def check_scale_free(select: Callable[..., Tensor]) -> None:
    """Neither tiny, nor huge, nor zero, nor infinite keys disturb the others' cosines."""
    scores, keys = torch.rand(63), clustered(63, 40)
    scale = torch.tensor([1e-30, 1.0, 1e30]).repeat(21)[:, None]
    picks = select(scores, keys, 20, sort=False)
    assert torch.equal(select(scores, keys * scale, 20, sort=False), picks)
    keys[5], keys[6, 3], keys[7, 3] = 0, INF, NAN
    zeroed = keys.clone()
    zeroed[5:8] = 0
    assert torch.equal(select(scores, keys, 20), select(scores, zeroed, 20))
