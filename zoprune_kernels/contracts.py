"""What each operator requires of its arguments and returns: checks first, then output shapes.

The fake kernels and the PyTorch fallback share these functions; the native library makes the same
checks in csrc/bindings. Each takes the operator's arguments and returns its outputs' shapes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .checks import DISTRIBUTIONS, FLOAT_DTYPES, Checker

Shape = list[int]


def directions(num: int, dim: int, distribution: str, dtype: torch.dtype | None) -> Shape:
    check = Checker("directions")
    for name, value in (("num", num), ("dim", dim)):
        if value < 1:
            check.fail(name, "an integer >= 1", value)
    check.one_of("distribution", distribution, DISTRIBUTIONS)
    if dtype is not None and dtype not in FLOAT_DTYPES:
        check.fail("dtype", "float32, float16 or bfloat16", str(dtype).removeprefix("torch."))
    return [num, dim]


def sensitivity(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    directions: Tensor,
    step: float,
    activation: str,
) -> Shape:
    check = Checker("sensitivity")
    check.tokens(x)
    check.linear(x, w1, b1, w2, None)
    check.directions(directions, x)
    check.step(step)
    check.activation(activation)
    return list(x.shape[:-1])


def fold_metric(w1: Tensor, w2: Tensor, directions: Tensor | None) -> Shape:
    check = Checker("fold_metric")
    check.shape("w1", w1, ["H", "d"], "a linear layer's weight")
    check.float_dtype("w1", w1)
    check.device("w1", w1, w1, "w1")
    check.shape("w2", w2, ["D", w1.shape[0]], "H is w1's first dimension")
    check.dtype("w2", w2, w1.dtype, " (that of w1)")
    check.device("w2", w2, w1, "w1")
    if directions is not None:
        check.shape("directions", directions, ["m", w1.shape[1]], "d is w1's last dimension")
        check.float_dtype("directions", directions)
        check.device("directions", directions, w1, "w1")
    return [w1.shape[0], w1.shape[0]]


def metric_dtype(weights: torch.dtype) -> torch.dtype:
    """The folded metric is kept in the weights' precision; its entries underflow in float16."""
    return torch.bfloat16 if weights == torch.float16 else weights


def expected_sensitivity(
    x: Tensor, w1: Tensor, b1: Tensor | None, metric: Tensor, activation: str
) -> Shape:
    check = Checker("expected_sensitivity")
    check.tokens(x)
    check.linear(x, w1, b1, None, None)
    check.metric(metric, x, w1)
    check.activation(activation)
    return list(x.shape[:-1])


def select(
    scores: Tensor,
    keys: Tensor | None,
    k: int,
    must_keep: Tensor | None,
    valid: Tensor | None,
    method: str,
    max_similarity: float,
) -> Shape:
    check = Checker("select")
    check.scores(scores)
    if keys is not None:
        check.keys(keys, scores.shape, scores, "scores")
    check.masks(must_keep, valid, scores.shape, scores, "scores")
    check.selection(method, max_similarity, keys is not None)
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
    method: str,
    max_similarity: float,
) -> Shape:
    check = Checker("select_varlen")
    check.scores(scores, packed=True)
    if keys is not None:
        check.keys(keys, scores.shape, scores, "scores")
    check.masks(must_keep, valid, scores.shape, scores, "scores")
    check.selection(method, max_similarity, keys is not None)
    check.segments(cu_tokens, cu_keep, total_keep, scores, "scores")
    return [total_keep]


def _pruning(
    op: str,
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    directions: Tensor | None,
    metric: Tensor | None,
    keys: Tensor | None,
    must_keep: Tensor | None,
    valid: Tensor | None,
    num_directions: int,
    step: float,
    distribution: str,
    activation: str,
    method: str,
    max_similarity: float,
    packed: bool,
) -> Checker:
    """The arguments that every ``*_and_select`` operator has in common."""
    check = Checker(op)
    check.tokens(x, packed=packed)
    check.linear(x, w1, b1, w2, b2)
    if directions is not None:
        check.directions(directions, x)
    if metric is not None:
        check.metric(metric, x, w1)
    if directions is not None and metric is not None:
        check.fail("metric", "None when directions are given", "a tensor")
    if keys is not None:
        check.keys(keys, x.shape[:-1], x, "x")
    check.masks(must_keep, valid, x.shape[:-1], x, "x")
    if num_directions < 1:
        check.fail("num_directions", "an integer >= 1", num_directions)
    check.step(step)
    check.one_of("distribution", distribution, DISTRIBUTIONS)
    check.activation(activation)
    # Keys default to the projector's outputs, so a selection always has them.
    check.selection(method, max_similarity, True)
    return check


def score_and_select(
    op: str,
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    k: int,
    *arguments: Any,
) -> tuple[Shape, Shape, Shape]:
    """Shapes of (tokens, indices, scores), also for ``project_and_select``."""
    check = _pruning(op, x, w1, b1, w2, b2, *arguments, packed=False)
    check.k(k, x.shape[-2])
    kept = [*x.shape[:-2], k]
    return [*kept, w2.shape[0]], kept, list(x.shape[:-1])


def score_and_select_varlen(
    op: str,
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    cu_tokens: Tensor,
    cu_keep: Tensor,
    total_keep: int,
    *arguments: Any,
) -> tuple[Shape, Shape, Shape]:
    """Shapes of (tokens, indices, scores), also for ``project_and_select_varlen``."""
    check = _pruning(op, x, w1, b1, w2, b2, *arguments, packed=True)
    check.segments(cu_tokens, cu_keep, total_keep, x, "x")
    return [total_keep, w2.shape[0]], [total_keep], [x.shape[0]]


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
