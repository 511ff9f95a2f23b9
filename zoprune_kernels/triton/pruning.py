"""Scoring, selection and projection in one call on a GPU: the ``*_and_select`` operators."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import backend, contracts, fallback, reference
from ..fallback.scoring import warn_if_linear
from ..fallback.selection import segments, select_segments
from ..rules import PruneRule
from . import scoring
from .directions import directions as random_directions
from .scoring import Projector


class Pruned(NamedTuple):
    """z: the projector's outputs of all tokens [T, D], where the selection compared them."""

    indices: Tensor
    scores: Tensor
    z: Tensor | None
    projector: Projector


def score_and_select(*arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
    return _score_and_select("score_and_select", *arguments, **options)[:2]


def project_and_select(x: Tensor, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    pruned = _score_and_select("project_and_select", x, *arguments, **options)
    picked = pruned.indices[..., None]  # [..., k, 1]
    if pruned.z is not None:
        tokens = pruned.z.view(*x.shape[:-1], -1).take_along_dim(picked, -2)
    else:
        kept = x.take_along_dim(picked, -2).flatten(0, -2)
        tokens = scoring.project(kept, pruned.projector).view(*pruned.indices.shape, -1)
    return tokens, pruned.indices, pruned.scores


def score_and_select_varlen(*arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
    return _score_and_select_varlen("score_and_select_varlen", *arguments, **options)[:2]


def project_and_select_varlen(
    x: Tensor, *arguments: Any, **options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    pruned = _score_and_select_varlen("project_and_select_varlen", x, *arguments, **options)
    if pruned.z is not None:
        tokens = pruned.z[pruned.indices]
    else:
        tokens = scoring.project(x[pruned.indices], pruned.projector)
    return tokens, pruned.indices, pruned.scores


def _score_and_select(
    op: str,
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    k: int,
    directions: Tensor | None = None,
    metric: Tensor | None = None,
    keys: Tensor | None = None,
    must_keep: Tensor | None = None,
    valid: Tensor | None = None,
    positions: Tensor | None = None,
    weights: Tensor | None = None,
    *,
    num_directions: int = 64,
    step: float = 0.01,
    distribution: str = "sphere",
    seed: int = 0,
    activation: str = "gelu",
    sort: bool = True,
    **options: Any,
) -> Pruned:
    layers = (w1, b1, w2, b2)
    masks = (must_keep, valid)
    sampling = (num_directions, step, distribution)
    rule = PruneRule.of(positions, weights, **options)
    contracts.score_and_select(
        op, x, *layers, k, directions, metric, keys, *masks, *sampling, activation, rule
    )
    projector = Projector(*layers, activation)
    wants_keys = keys is None and rule.select.needs_keys
    flat, z = _score(x.flatten(0, -2), projector, directions, metric, *sampling, seed, wants_keys)
    scores = flat.view(x.shape[:-1])
    if z is not None:
        keys = z.view(*x.shape[:-1], -1)
    if _seeded(rule, seed):
        options = {"sort": sort, "seed": seed, **vars(rule.select)}
        indices = reference.select(scores, keys, k, *masks, **options)
    else:
        indices = rule.pick(_operators(), scores, keys, (k,), *masks, sort=sort)
    return Pruned(indices, scores, z, projector)


def _score_and_select_varlen(
    op: str,
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    cu_tokens: Tensor,
    cu_keep: Tensor,
    total_keep: int,
    directions: Tensor | None = None,
    metric: Tensor | None = None,
    keys: Tensor | None = None,
    must_keep: Tensor | None = None,
    valid: Tensor | None = None,
    positions: Tensor | None = None,
    weights: Tensor | None = None,
    *,
    num_directions: int = 64,
    step: float = 0.01,
    distribution: str = "sphere",
    seed: int = 0,
    activation: str = "gelu",
    sort: bool = True,
    **options: Any,
) -> Pruned:
    layers = (w1, b1, w2, b2)
    packing = (cu_tokens, cu_keep, total_keep)
    masks = (must_keep, valid)
    sampling = (num_directions, step, distribution)
    rule = PruneRule.of(positions, weights, **options)
    contracts.score_and_select_varlen(
        op, x, *layers, *packing, directions, metric, keys, *masks, *sampling, activation, rule
    )
    projector = Projector(*layers, activation)
    wants_keys = keys is None and rule.select.needs_keys
    scores, z = _score(x, projector, directions, metric, *sampling, seed, wants_keys)
    keys = z if z is not None else keys
    if _seeded(rule, seed):
        images = segments(op, x, *packing)
        indices = select_segments(images, scores, keys, *masks, rule.select, sort, seed)
    else:
        indices = rule.pick(_operators(), scores, keys, packing, *masks, sort=sort)
    return Pruned(indices, scores, z, projector)


def _score(
    x: Tensor,
    projector: Projector,
    directions: Tensor | None,
    metric: Tensor | None,
    num_directions: int,
    step: float,
    distribution: str,
    seed: int,
    outputs: bool,
) -> scoring.Scored:
    """Of tokens x [T, d]: closed form with a metric, else over directions, given or drawn."""
    warn_if_linear(projector.activation)
    if metric is not None:
        return scoring.closed_form(x, projector, metric, outputs)
    if directions is None:
        directions = random_directions(
            num_directions, x.shape[1], distribution, seed, torch.float32, x.device
        )
    return scoring.directional(x, projector, directions, step, outputs)


def _seeded(rule: PruneRule, seed: int) -> bool:
    """Whether the picks depend on the seed, which ``zoprune::select`` does not take."""
    return rule.method == "random" and seed != 0


def _operators() -> Any:
    """Where the selections are: Triton has none of its own."""
    return fallback if backend.requested == "triton" else torch.ops.zoprune
