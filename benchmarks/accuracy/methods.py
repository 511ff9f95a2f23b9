"""The ways to keep k of a picture's visual tokens that ``make accuracy`` compares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F
from zoprune.adapters import cdpruner

import zoprune_kernels as zk

DIRECTIONS, STEP = 64, 0.01  # the paper's


@dataclass(frozen=True)
class Projector:
    """The trained projector in float32, and its folded metric."""

    w1: Tensor  # [H, d]
    b1: Tensor  # [H]
    w2: Tensor  # [D, H]
    b2: Tensor  # [D]

    @classmethod
    def of(cls, module: torch.nn.Module) -> Projector:
        layers = (module.linear_1, module.linear_2)
        return cls(*(p.detach().float() for layer in layers for p in (layer.weight, layer.bias)))

    @property
    def weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.w1, self.b1, self.w2, self.b2

    @cached_property
    def metric(self) -> Tensor:
        return zk.fold_metric(self.w1, self.w2)

    def closed(self, x: Tensor) -> Tensor:
        return zk.expected_sensitivity(x, self.w1, self.b1, self.metric)

    def along(self, x: Tensor, m: int, seed: int, distribution: str = "sphere") -> Tensor:
        u = zk.directions(m, x.shape[-1], distribution=distribution, seed=seed)
        return zk.sensitivity(x, self.w1, self.b1, self.w2, u, step=STEP)

    def published(self, x: Tensor, seed: int, dtype: torch.dtype) -> Tensor:
        """The paper-literal score, all of it in ``dtype``, as the published code runs a model.

        Products add up in float32 and are rounded, as on a GPU; CPUs are slow at float16's own.
        """
        u = zk.directions(DIRECTIONS, x.shape[-1], seed=seed).to(dtype)
        weights = [w.to(dtype).float() for w in self.weights]

        def run(rows: Tensor) -> Tensor:
            hidden = F.linear(rows.float(), weights[0], weights[1]).to(dtype)
            return F.linear(F.gelu(hidden).float(), weights[2], weights[3]).to(dtype)

        x, total = x.to(dtype), torch.zeros(len(x))
        for some in u.split(8):
            shift = STEP * some[:, None]  # [8, 1, d]
            difference = run(x + shift) - run(x - shift)  # [8, N, D]
            total += (difference.float().norm(dim=-1).to(dtype) / (2 * STEP)).float().sum(0)
        return total / DIRECTIONS


class Picture:
    """What a method sees of one picture: what enters the projector, and what leaves it."""

    def __init__(self, projector: Projector, x: Tensor, index: int) -> None:
        self.projector, self.x, self.index = projector, x.float(), index  # x [576, d]
        hidden = torch.nn.functional.gelu(self.x @ projector.w1.T + projector.b1)
        self.tokens = hidden @ projector.w2.T + projector.b2  # [576, D]
        self.scores = lru_cache(None)(self.score)

    def score(self, estimator: str, seed: int) -> Tensor:
        name, _, dtype = estimator.partition(" ")
        if name == "closed":
            return self.projector.closed(self.x)
        if name == "paper":
            return self.projector.published(self.x, seed, getattr(torch, dtype))
        if name == "orthogonal":
            return self.projector.along(self.x, 8, seed, "orthogonal")
        return self.projector.along(self.x, DIRECTIONS, seed)


# (picture, k, seed, the question's word embeddings) -> indices [k], ascending
Pick = Callable[[Picture, int, int, Tensor | None], Tensor]


@dataclass(frozen=True)
class Method:
    """One row of the table."""

    name: str
    words: str
    pick: Pick
    chance: bool = False  # whether the seed matters
    merged: bool = False  # dropped tokens are averaged into the kept ones
    by_question: bool = False

    def keep(self, picture: Picture, k: int, seed: int, question: Tensor | None = None) -> Tensor:
        """Visual tokens [k, D]."""
        kept = self.pick(picture, k, seed, question)
        if not self.merged:
            return picture.tokens[kept]
        return zk.merge(picture.tokens, picture.tokens, kept)[0]


def scored(estimator: str = "closed", **options: object) -> Pick:
    """By an estimator's scores, with any selection."""
    return lambda p, k, seed, _: zk.select(p.scores(estimator, seed), p.tokens, k, **options)


def normalised(scores: Tensor) -> Tensor:
    return (scores - scores.min()) / (scores.max() - scores.min())


def by_norm(p: Picture, k: int, *_: object) -> Tensor:
    return p.tokens.norm(dim=-1).topk(k).indices.sort().values


def at_random(p: Picture, k: int, seed: int, _: Tensor | None) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * p.index + seed)
    return torch.randperm(len(p.x), generator=generator)[:k].sort().values


def by_relevance(p: Picture, k: int, seed: int, question: Tensor | None) -> Tensor:
    """CDPruner, with the question's word embeddings [n, D] in place of CLIP's text embeddings."""
    assert question is not None
    quality = cdpruner.relevance(p.tokens[None], question)
    return zk.select_dpp(quality[0], p.tokens, k)


def methods(tradeoff: float, max_similarity: float) -> list[Method]:
    """All rows; the two options are chosen on the development split."""
    constant = torch.ones(576)
    return [
        Method("closed", "closed form, SADS", scored()),
        Method("m64", "m = 64, SADS", scored("m64"), chance=True),
        Method("m8", "m = 8, orthogonal, SADS", scored("orthogonal"), chance=True),
        Method("fp16", "paper-literal in fp16, SADS", scored("paper float16"), chance=True),
        Method("bf16", "paper-literal in bf16, SADS", scored("paper bfloat16"), chance=True),
        Method("centre", "closed form, SADS, `centre`", scored(centre=True)),
        Method(
            "apart",
            f"closed form, SADS, `max_similarity` {max_similarity:g}",
            scored(max_similarity=max_similarity),
        ),
        Method("merged", "closed form, SADS, the rest merged", scored(), merged=True),
        Method(
            "centre merged",
            "closed form, SADS, `centre`, the rest merged",
            scored(centre=True),
            merged=True,
        ),
        Method("topk", "closed form, top-k", scored(method="topk")),
        Method(
            "mmr",
            f"closed form, MMR, `tradeoff` {tradeoff:g}",
            scored(method="mmr", tradeoff=tradeoff),
        ),
        Method(
            "dpp",
            "DPP, closed form as quality",
            lambda p, k, *_: zk.select_dpp(normalised(p.scores("closed", 0)), p.tokens, k),
        ),
        Method(
            "coverage",
            "coverage, closed form as saliency",
            lambda p, k, *_: zk.select_coverage(normalised(p.scores("closed", 0)), p.tokens, k),
        ),
        Method(
            "weighted coverage",
            "coverage, closed form as weights",
            lambda p, k, *_: zk.select_coverage(
                constant, p.tokens, k, normalised(p.scores("closed", 0))
            ),
        ),
        Method("maxmin", "max-min, first by score", scored(method="maxmin")),
        Method(
            "divprune",
            "DivPrune",
            lambda p, k, *_: zk.select(constant, p.tokens, k, method="maxmin", first="isolated"),
        ),
        Method("cdpruner", "CDPruner, by the question", by_relevance, by_question=True),
        Method("norm", "top-k by norm", by_norm),
        Method("random", "random", at_random, chance=True),
    ]
