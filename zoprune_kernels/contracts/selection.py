"""Contracts of select and select_varlen."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import Checker, Shape
from ..rules import SelectRule


def select(
    scores: Tensor,
    keys: Tensor | None,
    k: int,
    must_keep: Tensor | None,
    valid: Tensor | None,
    rule: SelectRule,
) -> Shape:
    check = Checker("select")
    check.scores(scores)
    if keys is not None:
        check.keys(keys, scores.shape, scores, "scores")
    check.masks(must_keep, valid, scores.shape, scores, "scores")
    check.selection(rule, keys is not None)
    check.k(k, scores.shape[-1])
    return [*scores.shape[:-1], k]


def select_varlen(
    scores: Tensor,
    keys: Tensor | None,
    cu_tokens: Tensor,
    cu_keep: Tensor,
    total_keep: int,
    must_keep: Tensor | None,
    valid: Tensor | None,
    rule: SelectRule,
) -> Shape:
    check = Checker("select_varlen")
    check.scores(scores, packed=True)
    if keys is not None:
        check.keys(keys, scores.shape, scores, "scores")
    check.masks(must_keep, valid, scores.shape, scores, "scores")
    check.selection(rule, keys is not None)
    check.segments(cu_tokens, cu_keep, total_keep, scores, "scores")
    return [total_keep]


def check_values(
    op: str, k: int, must_keep: Tensor | None, valid: Tensor | None, device: torch.device
) -> None:
    """What the masks hold; only on the CPU, because reading a GPU's data would synchronise."""
    if device.type != "cpu":
        return
    rows = [
        None if mask is None else mask.reshape(-1, mask.shape[-1]) for mask in (must_keep, valid)
    ]
    images = max((row.shape[0] for row in rows if row is not None), default=0)
    Checker(op).mask_values(rows[0], rows[1], [k] * images)
