"""Contracts of the ``*_and_select`` operators."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..checks import DISTRIBUTIONS, Checker, Shape
from ..rules import PruneRule


def _pruning(
    op: str,
    packed: bool,
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
    rule: PruneRule,
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
    check.pruning_rule(rule, x)
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
    check = _pruning(op, False, x, w1, b1, w2, b2, *arguments)
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
    check = _pruning(op, True, x, w1, b1, w2, b2, *arguments)
    check.segments(cu_tokens, cu_keep, total_keep, x, "x")
    return [total_keep, w2.shape[0]], [total_keep], [x.shape[0]]
