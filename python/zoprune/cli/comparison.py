"""Scores and selects one photograph's tokens three ways: the paper's algorithm and ours."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from zoprune_kernels import reference
from zoprune_kernels.methods import Selection

from .standins import StandIn

STEP = 0.01  # h, in the descriptor's units

Result = TypeVar("Result")


@dataclass
class Outcome:
    """What one method returned, and how long it took."""

    name: str
    indices: Tensor  # [k] int64, ascending
    scores: Tensor  # [N] float32
    seconds: float


@dataclass
class Agreement:
    """How two methods' results agree on one image."""

    same: int  # tokens that both keep
    spearman: float  # rank correlation of the scores, in [-1, 1]


def paper_literal(
    x: Tensor,
    projector: StandIn,
    directions: Tensor,
    keep: int,
    *,
    method: str = "sads",
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[Tensor, Tensor]:
    """The paper's algorithm as it is written, in plain PyTorch and x's dtype.

    x [N, d], directions [m, d]; returns indices [k] and scores [N]. S_i is the mean over j of
    ||f(x_i + h u_j) - f(x_i - h u_j)|| / 2h (arXiv 2509.24837, eq. 3-4): 2 m runs of the projector.
    ``progress`` is called with the number of directions done.
    """
    total = torch.zeros(x.shape[0])
    for done, u in enumerate(directions, start=1):
        difference = projector(x + STEP * u) - projector(x - STEP * u)  # [N, D]
        total += difference.float().norm(dim=-1) / (2 * STEP)
        progress(done)
    scores = total / directions.shape[0]
    selection = Selection({"method": method})
    seeded = {"seed": seed} if method == "random" else {}
    select = getattr(reference, selection.method.operator)
    return select(scores, projector(x), keep, **selection.arguments, **seeded), scores


def timed(name: str, call: Callable[[], tuple[Tensor, Tensor]], repeats: int = 1) -> Outcome:
    """Run ``call``, which returns (indices, scores), and take the median time of its runs."""
    seconds = []
    for _ in range(repeats):
        (indices, scores), elapsed = stopwatch(call)
        seconds.append(elapsed)
    return Outcome(name, indices, scores, sorted(seconds)[repeats // 2])


def stopwatch(call: Callable[[], Result]) -> tuple[Result, float]:
    """What ``call`` returns, and the seconds it took."""
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def agreement(outcome: Outcome, truth: Outcome) -> Agreement:
    same = int(torch.isin(outcome.indices, truth.indices).sum())
    return Agreement(same, spearman(outcome.scores, truth.scores))


def spearman(a: Tensor, b: Tensor) -> float:
    """Rank correlation of two score vectors [N]; NaN when one of them is constant."""
    ranks = torch.stack([_ranks(a), _ranks(b)])
    return float(torch.corrcoef(ranks)[0, 1])


def _ranks(scores: Tensor) -> Tensor:
    """Ranks in float64, equal scores sharing their mean rank."""
    _, group, size = scores.unique(return_inverse=True, return_counts=True)
    return (size.cumsum(0) - (size - 1) / 2)[group].double()
