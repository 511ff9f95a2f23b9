"""The selection family's operators, the loops they are compared with, and checks of their results.

A line in ``OPERATORS`` adds an operator or variant, one in ``LOOPS`` what it is compared with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

import zoprune_kernels as zk
from zoprune_kernels import reference
from zoprune_kernels.testing import (
    Check,
    certify_coverage,
    certify_dpp,
    certify_select,
    certify_suppress,
)

from .. import baselines as published
from ..case import Case, Run
from . import baselines

# Steps of a loop that are timed where all k take minutes; each step takes the same time.
FEW_STEPS, FEW_STEPS_FROM = 8, 1000  # tokens
CHECKED_PICKS, CHECKED_RIVALS = 8, 256
# fp32 and fp64 may give a token whose two nearest are equally near to different ones.
DIFFERENT_ROWS = 0.01
SEGMENTS = 16


@dataclass(frozen=True)
class Tokens:
    """One image: scores [N] in [0, 1], keys [N, D], positions [N, 2], kept [k]."""

    scores: Tensor
    keys: Tensor
    positions: Tensor
    kept: Tensor

    def to(self, device: str) -> Tokens:
        tensors = self.scores, self.keys, self.positions, self.kept
        return Tokens(*(tensor.to(device) for tensor in tensors))

    @property
    def k(self) -> int:
        return len(self.kept)

    @cached_property
    def cosines(self) -> Tensor:
        """All cosines [N, N], which a loop reads whose steps alone are timed."""
        return baselines.cosines(self.keys)

    @cached_property
    def native_scores(self) -> Tensor:
        """Scores in the keys' dtype, as loops in a model have them."""
        return self.scores.to(self.keys.dtype)

    @property
    def timed_steps(self) -> int:
        """How many of k equal steps of a slow loop are timed."""
        return self.k if len(self.scores) < FEW_STEPS_FROM else min(FEW_STEPS, self.k)


FIRST = {"steps": CHECKED_PICKS, "rivals": CHECKED_RIVALS}


def selecting(**options: Any) -> Callable[[Tokens, Tensor], list[Check]]:
    """The first picks against random other tokens."""
    return lambda x, got: [certify_select(got, x.scores, x.keys, **FIRST, **options)]


def suppressing(
    use_positions: bool = False, **options: Any
) -> Callable[[Tokens, Tensor], list[Check]]:
    return lambda x, got: [
        certify_suppress(
            got, x.scores, x.keys, x.positions if use_positions else None, **FIRST, **options
        )
    ]


def determinant(x: Tokens, got: Tensor) -> list[Check]:
    return [certify_dpp(got, x.scores, x.keys, **FIRST)]


def coverage(x: Tokens, got: Tensor) -> list[Check]:
    return [certify_coverage(got, x.scores, x.keys, **FIRST)]


def merged_tokens(x: Tokens, result: tuple[Tensor, Tensor]) -> list[Check]:
    """Merged tokens against those of fp64 similarities."""
    want = baselines.visionzip_merge(x.keys.double(), x.keys.double(), x.kept)
    error = (result[0].double() - want).norm(dim=1) / want.norm(dim=1)
    different = error > (1e-5 if x.keys.dtype == torch.float32 else 1e-2)
    return [Check("share of merged tokens", float(different.double().mean()), DIFFERENT_ROWS)]


def merged_pairs(x: Tokens, result: tuple[Tensor, Tensor, Tensor]) -> list[Check]:
    """Whether the most similar pairs merged, and the sum of all tokens stayed."""
    merged, sizes, left = result
    z = reference.unit_keys(x.keys.double())
    best = (z[::2] @ z[1::2].T).amax(1)
    stays = torch.isin(torch.arange(0, len(z), 2), left)
    total = x.keys.double().sum(0)
    change = (sizes.double() @ merged.double() - total).norm() / total.norm()
    return [
        Check("pairs", float(best[stays].max() - best[~stays].min()), 1e-6),
        Check("sum of tokens", float(change), 1e-4 if x.keys.dtype == torch.float32 else 1e-2),
    ]


def same_as_loop(x: Tokens, picks: Tensor) -> list[Check]:
    return [Check("picks", float((picks != segmented_loop(x)).sum()), 0)]


def suppressed(use_positions: bool, **options: Any) -> Run[Tokens]:
    return lambda x: zk.select_suppress(
        x.scores, x.keys, x.k, x.positions if use_positions else None, sort=False, **options
    )


def segments(x: Tokens) -> tuple[int, int]:
    """Tokens of a segment, and how many of them are kept."""
    return len(x.scores) // SEGMENTS, x.k // SEGMENTS


def segmented(x: Tokens) -> Tensor:
    edges = torch.arange(SEGMENTS + 1, dtype=torch.int32)
    tokens, keep = segments(x)
    return zk.select_varlen(
        x.scores, None, tokens * edges, keep * edges, keep * SEGMENTS, method="topk"
    )


def segmented_loop(x: Tokens) -> Tensor:
    tokens, keep = segments(x)
    return baselines.segmented_topk(x.scores, [tokens] * SEGMENTS, [keep] * SEGMENTS)


TRADEOFF = 0.5
NMS = {"threshold": 0.8}
NARROW, WIDE = ({"sigma_similarity": sigma, "strength": 1.0} for sigma in (0.05, 0.3))


def loop(function: Callable[..., Tensor], **options: Any) -> Run[Tokens]:
    """``function(scores, keys, k)``, all of it."""
    return lambda x: function(x.native_scores, x.keys, x.k, **options)


LOOPS: dict[str, Run[Tokens]] = {
    "authors_selection": loop(published.authors_selection),
    "divprune": lambda x: baselines.divprune(x.keys, x.k),
    "mmr": loop(baselines.mmr, tradeoff=TRADEOFF),
    "adaptprune": lambda x: baselines.adaptprune(
        x.native_scores, x.keys, x.timed_steps, x.positions
    ),
    "sigma 0.05": loop(baselines.exponential, **NARROW),
    "sigma 0.3": loop(baselines.exponential, **WIDE),
    "hard_suppression": loop(baselines.hard_suppression, **NMS),
    "cosines": lambda x: baselines.cosines(x.keys),
    "scope": lambda x: baselines.scope_steps(x.cosines, x.native_scores, x.timed_steps),
    "cdpruner": loop(baselines.cdpruner),
    "visionzip": lambda x: baselines.visionzip_merge(x.keys, x.keys, x.kept),
    "tome's own": lambda x: baselines.tome_merge(x.keys, x.keys, len(x.keys) // 4),
    "segmented": segmented_loop,
}
IN_STEPS = {"adaptprune", "scope"}  # these do ``timed_steps`` of k equal steps


def operator(
    op: str,
    variant: str,
    goal: float | None,
    opponent: str,
    run: Run[Tokens],
    loops: list[str],
    check: Callable[[Tokens, Any], list[Check]],
) -> Case[Tokens]:
    return Case(op, variant, run, check, {"loop": [(name, 1.0) for name in loops]}, goal, opponent)


def scaled(case: Case[Tokens], x: Tokens) -> Case[Tokens]:
    """The case for tokens where only some steps of its loop are timed: they take equal times."""
    if x.timed_steps == x.k or not case.baselines & IN_STEPS:
        return case
    factor = x.k / x.timed_steps
    terms = [(name, factor if name in IN_STEPS else 1.0) for name, _ in case.against["loop"]]
    return replace(case, against={"loop": terms}, noted={"steps_measured": x.timed_steps})


OPERATORS = [
    operator(
        "select",
        "sads",
        10,
        "ZOO-Prune's loop",
        lambda x: zk.select(x.scores, x.keys, x.k, sort=False),
        ["authors_selection"],
        selecting(),
    ),
    operator(
        "select",
        "maxmin",
        10,
        "ZOO-Prune's loop",
        lambda x: zk.select(x.scores, x.keys, x.k, method="maxmin", sort=False),
        ["authors_selection"],
        selecting(method="maxmin"),
    ),
    operator(
        "select",
        "maxmin, isolated first pick",
        None,
        "DivPrune as published",
        lambda x: zk.select(x.scores, x.keys, x.k, method="maxmin", first="isolated", sort=False),
        ["divprune"],
        selecting(method="maxmin", first="isolated"),
    ),
    operator(
        "select",
        "mmr",
        10,
        "a loop of MMR",
        lambda x: zk.select(x.scores, x.keys, x.k, method="mmr", tradeoff=TRADEOFF, sort=False),
        ["mmr"],
        selecting(method="mmr", tradeoff=TRADEOFF),
    ),
    operator(
        "select_suppress",
        "soft",
        10,
        "AdaptPrune's loop",
        suppressed(True),
        ["adaptprune"],
        suppressing(True),
    ),
    operator(
        "select_suppress",
        "exponential",
        10,
        "a loop over stored cosines",
        suppressed(False, rule="exponential", **NARROW),
        ["sigma 0.05"],
        suppressing(rule="exponential", **NARROW),
    ),
    operator(
        "select_suppress",
        "exponential, wide sigma",
        None,
        "a loop over stored cosines",
        suppressed(False, rule="exponential", **WIDE),
        ["sigma 0.3"],
        suppressing(rule="exponential", **WIDE),
    ),
    operator(
        "select_suppress",
        "hard",
        10,
        "a loop over stored cosines",
        suppressed(False, rule="hard", **NMS),
        ["hard_suppression"],
        suppressing(rule="hard", **NMS),
    ),
    operator(
        "select_coverage",
        "ones as weights",
        10,
        "SCOPE's loop",
        lambda x: zk.select_coverage(x.scores, x.keys, x.k, sort=False),
        ["cosines", "scope"],
        coverage,
    ),
    operator(
        "select_dpp",
        "scores as quality",
        5,
        "CDPruner's loop",
        lambda x: zk.select_dpp(x.scores, x.keys, x.k, sort=False),
        ["cdpruner"],
        determinant,
    ),
    operator(
        "merge",
        "residual",
        3,
        "VisionZip's one-hot product",
        lambda x: torch.ops.zoprune.merge(x.keys, x.keys, x.kept, rule="residual"),
        ["visionzip"],
        merged_tokens,
    ),
    operator(
        "merge_bipartite",
        "a quarter of the tokens",
        None,
        "ToMe's own functions",
        lambda x: torch.ops.zoprune.merge_bipartite(x.keys, x.keys, len(x.keys) // 4),
        ["tome's own"],
        merged_pairs,
    ),
    operator(
        "select_varlen",
        f"topk, {SEGMENTS} segments",
        None,
        "a loop of torch.topk",
        segmented,
        ["segmented"],
        same_as_loop,
    ),
]
