"""Contracts of directions, sensitivity, fold_metric and expected_sensitivity."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import DISTRIBUTIONS, FLOAT_DTYPES, Checker, Shape


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
