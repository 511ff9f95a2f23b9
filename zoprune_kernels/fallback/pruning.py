"""Scoring, selection and projection in one call: the ``*_and_select`` operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import contracts, fallback, philox, reference
from ..rules import PruneRule
from .scoring import per_image, warn_if_linear
from .selection import check_segment_masks, segments, select_segments


def score_and_select(
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
    method: str = "sads",
    max_similarity: float = 1.0,
    sort: bool = True,
    tradeoff: float = 0.5,
    first: str = "score",
    num_seed: int = 0,
    centre: bool = False,
    picks_per_step: int = 1,
    rule: str = "soft",
    sigma_space: float = 1.5,
    sigma_similarity: float = 0.05,
    radius: float = 5.0,
    strength: float = 1.0,
    threshold: float = 0.9,
) -> tuple[Tensor, Tensor]:
    """Score every token and keep k of each image, in one call.

    With ``metric`` the scores are :func:`expected_sensitivity`, else :func:`sensitivity` over the
    given directions or over ``num_directions`` drawn from (distribution, seed). The keys default to
    the projector's outputs. Other arguments as in :func:`sensitivity` and :func:`select`.

    ``method`` may also be "dpp", with the scores as quality, "suppress", with ``positions``,
    ``rule`` and the options after it, or "coverage", with ``weights``: as in :func:`select_dpp`,
    :func:`select_suppress` and :func:`select_coverage`, exact and with the same picks.

    Returns:
        (int64 indices [..., k], float32 scores [..., N]).
    """
    return _score_and_select("score_and_select", **locals())


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
) -> tuple[Tensor, Tensor]:
    projector = (x, w1, b1, w2, b2)
    sampling = (num_directions, step, distribution)
    rule = PruneRule.of(positions, weights, **options)
    contracts.score_and_select(
        op, *projector, k, directions, metric, keys, must_keep, valid, *sampling, activation, rule
    )
    contracts.check_values(op, k, must_keep, valid, x.device)
    warn_if_linear(activation)
    score = _scorer(w1, b1, w2, directions, metric, *sampling, seed, activation)
    scores = per_image(score, x)
    if keys is None and rule.select.needs_keys:
        keys = project(*projector, activation)
    masks = (must_keep, valid)
    if rule.method == "random":  # ``select`` has no seed
        options = {"sort": sort, "seed": seed, **vars(rule.select)}
        return reference.select(scores, keys, k, *masks, **options), scores
    return rule.pick(fallback, scores, keys, (k,), *masks, sort=sort), scores


def project_and_select(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    k: int,
    *arguments: Tensor | None,
    activation: str = "gelu",
    **options: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`score_and_select`, with the projector's outputs for the kept tokens.

    Takes the arguments of :func:`score_and_select`.

    Returns:
        (tokens [..., k, D] in x's dtype, int64 indices [..., k], float32 scores [..., N]).
    """
    indices, scores = _score_and_select(
        "project_and_select",
        x,
        w1,
        b1,
        w2,
        b2,
        k,
        *arguments,
        activation=activation,
        **options,
    )
    kept = x.take_along_dim(indices[..., None], dim=-2)  # [..., k, d]
    return project(kept, w1, b1, w2, b2, activation), indices, scores


def score_and_select_varlen(
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
    method: str = "sads",
    max_similarity: float = 1.0,
    sort: bool = True,
    tradeoff: float = 0.5,
    first: str = "score",
    num_seed: int = 0,
    centre: bool = False,
    picks_per_step: int = 1,
    rule: str = "soft",
    sigma_space: float = 1.5,
    sigma_similarity: float = 0.05,
    radius: float = 5.0,
    strength: float = 1.0,
    threshold: float = 0.9,
) -> tuple[Tensor, Tensor]:
    """:func:`score_and_select` for packed images; packing as in :func:`select_varlen`.

    Returns:
        (int64 positions [total_keep] in the packed array, float32 scores [T]).
    """
    return _score_and_select_varlen("score_and_select_varlen", **locals())


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
) -> tuple[Tensor, Tensor]:
    projector = (x, w1, b1, w2, b2)
    sampling = (num_directions, step, distribution)
    rule = PruneRule.of(positions, weights, **options)
    packing = (cu_tokens, cu_keep, total_keep)
    masks = (must_keep, valid)
    contracts.score_and_select_varlen(
        op, *projector, *packing, directions, metric, keys, *masks, *sampling, activation, rule
    )
    images = segments(op, x, *packing)
    check_segment_masks(op, images, *masks)
    warn_if_linear(activation)
    score = _scorer(w1, b1, w2, directions, metric, *sampling, seed, activation)
    tokens = [x[start:end] for start, end, _ in images if end > start]
    scores = torch.cat([score(image) for image in tokens])
    if keys is None and rule.select.needs_keys:
        keys = torch.cat([project(image, w1, b1, w2, b2, activation) for image in tokens])
    if rule.method == "random":  # ``select_varlen`` has no seed
        return select_segments(images, scores, keys, *masks, rule.select, sort, seed), scores
    return rule.pick(fallback, scores, keys, packing, *masks, sort=sort), scores


def project_and_select_varlen(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    cu_tokens: Tensor,
    cu_keep: Tensor,
    total_keep: int,
    *arguments: Tensor | None,
    activation: str = "gelu",
    **options: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`score_and_select_varlen`, with the projector's outputs for the kept tokens.

    Takes the arguments of :func:`score_and_select_varlen`.

    Returns:
        (tokens [total_keep, D] in x's dtype, int64 positions [total_keep], float32 scores [T]).
    """
    indices, scores = _score_and_select_varlen(
        "project_and_select_varlen",
        x,
        w1,
        b1,
        w2,
        b2,
        cu_tokens,
        cu_keep,
        total_keep,
        *arguments,
        activation=activation,
        **options,
    )
    return project(x[indices], w1, b1, w2, b2, activation), indices, scores


def project(
    x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None, activation: str
) -> Tensor:
    """The projector's outputs in x's dtype, as the model computes them."""
    return per_image(
        lambda image: reference.project(image, w1, b1, w2, b2, activation).to(x.dtype), x
    )


def _scorer(
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    directions: Tensor | None,
    metric: Tensor | None,
    num_directions: int,
    step: float,
    distribution: str,
    seed: int,
    activation: str,
) -> Callable[[Tensor], Tensor]:
    """The scores of one image [N, d] -> [N]: closed form with a metric, else over directions."""
    if metric is not None:
        return lambda image: reference.expected_sensitivity(
            image, w1, b1, metric, activation=activation
        )
    if directions is None:
        drawn = philox.directions(num_directions, w1.shape[1], distribution, seed, w1.device)
        directions = drawn.float()
    return lambda image: reference.sensitivity(
        image, w1, b1, w2, directions, step=step, activation=activation
    )
