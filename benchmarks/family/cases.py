"""The selection family's operators, the loops they are compared with, and checks of their results.

A line in ``OPERATORS`` adds an operator or variant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

import zoprune_kernels as zk
from zoprune_kernels import reference

from .. import baselines
from ..verify import Check
from . import baselines as family_baselines

# Steps of a loop that are timed where all k take minutes; each step takes the same time.
FEW_STEPS, FEW_STEPS_FROM = 8, 1000  # tokens
CHECKED_PICKS, CHECKED_RIVALS = 8, 256
GAIN_TOLERANCE = 1e-4
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

    @property
    def k(self) -> int:
        return len(self.kept)

    @property
    def native_scores(self) -> Tensor:
        """Scores in the keys' dtype, as loops in a model have them."""
        return self.scores.to(self.keys.dtype)

    @property
    def timed_steps(self) -> int:
        """How many of k equal steps of a slow loop are timed."""
        return self.k if len(self.scores) < FEW_STEPS_FROM else min(FEW_STEPS, self.k)


class Part(NamedTuple):
    """What a loop does, or ``timed_steps`` of its k steps."""

    name: str
    run: Callable[[Tokens], Any]
    in_steps: bool = False

    def factor(self, x: Tokens) -> float:
        return x.k / x.timed_steps if self.in_steps else 1.0


@dataclass(frozen=True)
class Operator:
    """What is called, the parts of the loop it is against, and a check of its result."""

    op: str
    variant: str
    goal: float | None
    against: str
    run: Callable[[Tokens], Any]
    loop: list[Part]
    check: Callable[[Tokens, Any], list[Check]]

    def scaled(self, x: Tokens) -> bool:
        """Whether the loop's time is that of a few steps, scaled."""
        return any(part.factor(x) > 1 for part in self.loop)


def first_picks(
    gains: Callable[[Tokens, Tensor, Tensor], Tensor], x: Tokens, picks: Tensor
) -> list[Check]:
    """The first picks against random other tokens, by their gains in fp64.

    ``gains(x, picked, candidates)`` are those of candidates after some picks.
    """
    shortfall = 0.0 if picks.unique().numel() == x.k else float("inf")
    others = torch.randperm(len(x.scores), generator=torch.Generator().manual_seed(0))
    others = others[~torch.isin(others, picks)][:CHECKED_RIVALS]
    for step, pick in enumerate(picks[:CHECKED_PICKS]):
        found = gains(x, picks[:step], torch.cat([pick[None], others]))
        best = found.max()
        shortfall = max(shortfall, float((best - found[0]) / best.abs()))
    return [Check(f"first {CHECKED_PICKS} picks", shortfall, GAIN_TOLERANCE)]


def unit(x: Tokens, rows: Tensor) -> Tensor:
    return reference.unit_keys(x.keys[rows].double())


def largest_cosine(x: Tokens, picked: Tensor, candidates: Tensor) -> Tensor:
    return (unit(x, candidates) @ unit(x, picked).T).max(dim=1).values


def sads_gains(x: Tokens, picked: Tensor, candidates: Tensor) -> Tensor:
    weight = reference.normalised_scores(x.scores.double())[candidates]
    return weight * (1 - largest_cosine(x, picked, candidates)) if len(picked) else weight


def mmr_gains(x: Tokens, picked: Tensor, candidates: Tensor) -> Tensor:
    weight = reference.normalised_scores(x.scores.double())[candidates]
    if not len(picked):
        return weight
    return TRADEOFF * weight - (1 - TRADEOFF) * largest_cosine(x, picked, candidates)


def maxmin_gains(x: Tokens, picked: Tensor, candidates: Tensor) -> Tensor:
    if not len(picked):
        return x.scores[candidates].double()
    return 1 - largest_cosine(x, picked, candidates)


def dpp_gains(x: Tokens, picked: Tensor, candidates: Tensor) -> Tensor:
    z = unit(x, candidates)
    basis = torch.linalg.qr(unit(x, picked).T).Q
    rest = 1 - (z @ basis).square().sum(1) if len(picked) else torch.ones(len(z)).double()
    return x.scores[candidates].double() ** 2 * rest


def soft_gains(x: Tokens, picked: Tensor, candidates: Tensor) -> Tensor:
    cosine = unit(x, candidates) @ unit(x, picked).T
    distance = torch.cdist(x.positions[candidates].double(), x.positions[picked].double())
    close = torch.exp(-(distance**2) / (2 * 1.5**2) - (1 - cosine) ** 2 / (2 * 0.05**2))
    close = torch.where(distance <= 5, close, 0.0)
    return x.scores[candidates].double() * (1 - close).prod(dim=1)


def exponential_gains(
    sigma_similarity: float, x: Tokens, picked: Tensor, candidates: Tensor
) -> Tensor:
    cosine = unit(x, candidates) @ unit(x, picked).T
    return x.scores[candidates].double() - torch.exp((cosine - 1) / sigma_similarity).sum(dim=1)


def hard_gains(x: Tokens, picked: Tensor, candidates: Tensor) -> Tensor:
    gains = x.scores[candidates].double()
    if not len(picked):
        return gains
    return torch.where(largest_cosine(x, picked, candidates) > 0.8, 0.0, gains)


def coverage_gains(x: Tokens, picked: Tensor, candidates: Tensor) -> Tensor:
    z = reference.unit_keys(x.keys.double())
    covered = (z @ z[picked].T).amax(1).clamp_min(0) if len(picked) else torch.zeros(len(z))
    added = (z @ z[candidates].T - covered[:, None]).clamp_min(0).sum(0)
    return x.scores[candidates].double() * added


def merged_tokens(x: Tokens, result: tuple[Tensor, Tensor]) -> list[Check]:
    """Merged tokens against those of fp64 similarities."""
    want = family_baselines.visionzip_merge(x.keys.double(), x.keys.double(), x.kept)
    error = (result[0].double() - want).norm(dim=1) / want.norm(dim=1)
    different = error > (1e-5 if x.keys.dtype == torch.float32 else 1e-2)
    return [Check("share of merged tokens", float(different.double().mean()), DIFFERENT_ROWS)]


def merged_pairs(x: Tokens, result: tuple[Tensor, Tensor, Tensor]) -> list[Check]:
    """Whether the most similar pairs merged, and the sum of all tokens stayed."""
    merged, sizes, positions = result
    z = reference.unit_keys(x.keys.double())
    best = (z[::2] @ z[1::2].T).amax(1)
    stays = torch.isin(torch.arange(0, len(z), 2), positions)
    total = x.keys.double().sum(0)
    change = (sizes.double() @ merged.double() - total).norm() / total.norm()
    return [
        Check("pairs", float(best[stays].max() - best[~stays].min()), 1e-6),
        Check("sum of tokens", float(change), 1e-4 if x.keys.dtype == torch.float32 else 1e-2),
    ]


def same_as_loop(x: Tokens, picks: Tensor) -> list[Check]:
    return [Check("picks", float((picks != segmented_loop(x)).sum()), 0)]


def selected(method: str) -> Callable[[Tokens], Tensor]:
    return lambda x: zk.select(x.scores, x.keys, x.k, method=method, sort=False)


def suppressed(use_positions: bool, **options: Any) -> Callable[[Tokens], Tensor]:
    return lambda x: zk.select_suppress(
        x.scores, x.keys, x.k, x.positions if use_positions else None, sort=False, **options
    )


def loop(function: Callable[..., Tensor], **options: Any) -> list[Part]:
    """``function(scores, keys, k)``, all of it."""
    return [
        Part(function.__name__, lambda x: function(x.native_scores, x.keys, x.k, **options)),
    ]


def soft_steps(x: Tokens) -> Tensor:
    return family_baselines.adaptprune(x.native_scores, x.keys, x.timed_steps, x.positions)


stored: dict[int, Tensor] = {}


def scope_steps(x: Tokens) -> Tensor:
    """The loop alone: ``cosines`` computes what it reads, and is timed by itself."""
    if id(x) not in stored:
        stored.clear()
        stored[id(x)] = family_baselines.cosines(x.keys)
    return family_baselines.scope_steps(stored[id(x)], x.native_scores, x.timed_steps)


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
    return family_baselines.segmented_topk(x.scores, [tokens] * SEGMENTS, [keep] * SEGMENTS)


TRADEOFF = 0.5
NMS = {"threshold": 0.8}


def exponential(variant: str, goal: float | None, sigma_similarity: float) -> Operator:
    options = {"sigma_similarity": sigma_similarity, "strength": 1.0}
    return Operator(
        "select_suppress",
        variant,
        goal,
        "a loop over stored cosines",
        suppressed(False, rule="exponential", **options),
        [Part(f"sigma {sigma_similarity}", loop(family_baselines.exponential, **options)[0].run)],
        partial(first_picks, partial(exponential_gains, sigma_similarity)),
    )


OPERATORS = [
    Operator(
        "select",
        "sads",
        10,
        "ZOO-Prune's loop",
        selected("sads"),
        loop(baselines.authors_selection),
        partial(first_picks, sads_gains),
    ),
    Operator(
        "select",
        "maxmin",
        10,
        "ZOO-Prune's loop",
        selected("maxmin"),
        loop(baselines.authors_selection),
        partial(first_picks, maxmin_gains),
    ),
    Operator(
        "select",
        "mmr",
        10,
        "a loop of MMR",
        lambda x: zk.select(x.scores, x.keys, x.k, method="mmr", tradeoff=TRADEOFF, sort=False),
        loop(family_baselines.mmr, tradeoff=TRADEOFF),
        partial(first_picks, mmr_gains),
    ),
    Operator(
        "select_suppress",
        "soft",
        10,
        "AdaptPrune's loop",
        suppressed(True),
        [Part("adaptprune", soft_steps, in_steps=True)],
        partial(first_picks, soft_gains),
    ),
    exponential("exponential", 10, 0.05),
    exponential("exponential, wide sigma", None, 0.3),
    Operator(
        "select_suppress",
        "hard",
        10,
        "a loop over stored cosines",
        suppressed(False, rule="hard", **NMS),
        loop(family_baselines.hard_suppression, **NMS),
        partial(first_picks, hard_gains),
    ),
    Operator(
        "select_coverage",
        "ones as weights",
        10,
        "SCOPE's loop",
        lambda x: zk.select_coverage(x.scores, x.keys, x.k, sort=False),
        [
            Part("cosines", lambda x: family_baselines.cosines(x.keys)),
            Part("scope", scope_steps, in_steps=True),
        ],
        partial(first_picks, coverage_gains),
    ),
    Operator(
        "select_dpp",
        "scores as quality",
        5,
        "CDPruner's loop",
        lambda x: zk.select_dpp(x.scores, x.keys, x.k, sort=False),
        loop(family_baselines.cdpruner),
        partial(first_picks, dpp_gains),
    ),
    Operator(
        "merge",
        "residual",
        3,
        "VisionZip's one-hot product",
        lambda x: torch.ops.zoprune.merge(x.keys, x.keys, x.kept, rule="residual"),
        [Part("visionzip", lambda x: family_baselines.visionzip_merge(x.keys, x.keys, x.kept))],
        merged_tokens,
    ),
    Operator(
        "merge_bipartite",
        "a quarter of the tokens",
        None,
        "ToMe's functions",
        lambda x: torch.ops.zoprune.merge_bipartite(x.keys, x.keys, len(x.keys) // 4),
        [
            Part(
                "tome",
                lambda x: family_baselines.bipartite_merge(x.keys, x.keys, len(x.keys) // 4),
            )
        ],
        merged_pairs,
    ),
    Operator(
        "select_varlen",
        f"topk, {SEGMENTS} segments",
        None,
        "a loop of torch.topk",
        segmented,
        [Part("segmented", segmented_loop)],
        same_as_loop,
    ),
]
