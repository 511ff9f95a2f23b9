"""The PyTorch fallback of every operator: its checks, then the reference, one image at a time.

Registered for all devices; native kernels take over where they exist. One image at a time, because
a matrix product's last bits depend on its shape and an image's result must not depend on its batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import contracts, philox, reference
from .checks import Checker, needs_keys

LINEAR_PROJECTOR_WARNING = (
    "zoprune: the projector is linear (activation='identity'): every token has the same "
    "sensitivity; selecting by diversity only"
)


def directions(
    num: int,
    dim: int,
    *,
    distribution: str = "sphere",
    seed: int = 0,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
) -> Tensor:
    contracts.directions(num, dim, distribution, dtype)
    device = torch.device("cpu") if device is None else device
    return philox.directions(num, dim, distribution, seed, device).to(dtype or torch.float32)


def sensitivity(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    directions: Tensor,
    *,
    step: float = 0.01,
    activation: str = "gelu",
) -> Tensor:
    contracts.sensitivity(x, w1, b1, w2, directions, step, activation)
    warn_if_linear(activation)
    return _per_image(
        lambda image: reference.sensitivity(
            image, w1, b1, w2, directions, step=step, activation=activation
        ),
        x,
    )


def fold_metric(w1: Tensor, w2: Tensor, directions: Tensor | None = None) -> Tensor:
    contracts.fold_metric(w1, w2, directions)
    return reference.fold_metric(w1, w2, directions).to(contracts.metric_dtype(w1.dtype))


def expected_sensitivity(
    x: Tensor, w1: Tensor, b1: Tensor | None, metric: Tensor, *, activation: str = "gelu"
) -> Tensor:
    contracts.expected_sensitivity(x, w1, b1, metric, activation)
    warn_if_linear(activation)
    return _per_image(
        lambda image: reference.expected_sensitivity(image, w1, b1, metric, activation=activation),
        x,
    )


def select(
    scores: Tensor,
    keys: Tensor | None,
    k: int,
    must_keep: Tensor | None = None,
    valid: Tensor | None = None,
    *,
    method: str = "sads",
    max_similarity: float = 1.0,
    sort: bool = True,
) -> Tensor:
    contracts.select(scores, keys, k, must_keep, valid, method, max_similarity)
    contracts.check_values("select", k, must_keep, valid, scores.device)
    return reference.select(
        scores, keys, k, must_keep, valid, method=method, max_similarity=max_similarity, sort=sort
    )


def select_varlen(
    scores: Tensor,
    keys: Tensor | None,
    cu_tokens: Tensor,
    cu_keep: Tensor,
    total_keep: int,
    must_keep: Tensor | None = None,
    valid: Tensor | None = None,
    *,
    method: str = "sads",
    max_similarity: float = 1.0,
    sort: bool = True,
) -> Tensor:
    contracts.select_varlen(
        scores, keys, cu_tokens, cu_keep, total_keep, must_keep, valid, method, max_similarity
    )
    segments = _segments("select_varlen", scores, cu_tokens, cu_keep, total_keep)
    _check_segment_masks("select_varlen", segments, must_keep, valid)
    return _select_segments(
        segments, scores, keys, must_keep, valid, method, max_similarity, sort, seed=0
    )


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
    *,
    num_directions: int = 64,
    step: float = 0.01,
    distribution: str = "sphere",
    seed: int = 0,
    activation: str = "gelu",
    method: str = "sads",
    max_similarity: float = 1.0,
    sort: bool = True,
    op: str = "score_and_select",
) -> tuple[Tensor, Tensor]:
    projector = (x, w1, b1, w2, b2)
    sampling = (num_directions, step, distribution)
    rule = (method, max_similarity)
    contracts.score_and_select(
        op, *projector, k, directions, metric, keys, must_keep, valid, *sampling, activation, *rule
    )
    contracts.check_values(op, k, must_keep, valid, x.device)
    warn_if_linear(activation)
    score = _scorer(w1, b1, w2, directions, metric, *sampling, seed, activation)
    scores = _per_image(score, x)
    if keys is None and needs_keys(*rule):
        keys = project(*projector, activation)
    indices = reference.select(
        scores,
        keys,
        k,
        must_keep,
        valid,
        method=method,
        max_similarity=max_similarity,
        sort=sort,
        seed=seed,
    )
    return indices, scores


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
    indices, scores = score_and_select(
        x,
        w1,
        b1,
        w2,
        b2,
        k,
        *arguments,
        activation=activation,
        op="project_and_select",
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
    *,
    num_directions: int = 64,
    step: float = 0.01,
    distribution: str = "sphere",
    seed: int = 0,
    activation: str = "gelu",
    method: str = "sads",
    max_similarity: float = 1.0,
    sort: bool = True,
    op: str = "score_and_select_varlen",
) -> tuple[Tensor, Tensor]:
    projector = (x, w1, b1, w2, b2)
    sampling = (num_directions, step, distribution)
    rule = (method, max_similarity)
    packing = (cu_tokens, cu_keep, total_keep)
    masks = (must_keep, valid)
    contracts.score_and_select_varlen(
        op, *projector, *packing, directions, metric, keys, *masks, *sampling, activation, *rule
    )
    segments = _segments(op, x, *packing)
    _check_segment_masks(op, segments, *masks)
    warn_if_linear(activation)
    score = _scorer(w1, b1, w2, directions, metric, *sampling, seed, activation)
    images = [x[start:end] for start, end, _ in segments]
    scores = torch.cat([score(image) for image in images if len(image)])
    if keys is None and needs_keys(*rule):
        keys = torch.cat(
            [project(image, w1, b1, w2, b2, activation) for image in images if len(image)]
        )
    return _select_segments(segments, scores, keys, *masks, *rule, sort, seed), scores


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
    indices, scores = score_and_select_varlen(
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
        op="project_and_select_varlen",
        **options,
    )
    return project(x[indices], w1, b1, w2, b2, activation), indices, scores


def project(
    x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None, activation: str
) -> Tensor:
    """The projector's outputs in x's dtype, as the model computes them."""
    return _per_image(
        lambda image: reference.project(image, w1, b1, w2, b2, activation).to(x.dtype), x
    )


def warn_if_linear(activation: str) -> None:
    global _linear_warned
    if activation == "identity" and not _linear_warned:
        _linear_warned = True
        warnings.warn(LINEAR_PROJECTOR_WARNING, stacklevel=2)


_linear_warned = False


def _per_image(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if x.dim() == 2:
        return function(x)
    return torch.stack([function(image) for image in x])


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


# -- packed images --------------------------------------------------------------------------------


def _segments(
    op: str, packed: Tensor, cu_tokens: Tensor, cu_keep: Tensor, total_keep: int
) -> list[tuple[int, int, int]]:
    """(start, end, keep) of each image. Reads the offsets, so it synchronises on a GPU."""
    offsets, kept = cu_tokens.tolist(), cu_keep.tolist()
    Checker(op).segment_values(offsets, kept, packed.shape[0], total_keep)
    return [(offsets[i], offsets[i + 1], kept[i + 1] - kept[i]) for i in range(len(offsets) - 1)]


def _check_segment_masks(
    op: str,
    segments: list[tuple[int, int, int]],
    must_keep: Tensor | None,
    valid: Tensor | None,
) -> None:
    for image, (start, end, keep) in enumerate(segments):
        rows = [None if mask is None else mask[None, start:end] for mask in (must_keep, valid)]
        if rows[0] is not None or rows[1] is not None:
            Checker(op).mask_values(rows[0], rows[1], [keep], image)


def _select_segments(
    segments: list[tuple[int, int, int]],
    scores: Tensor,
    keys: Tensor | None,
    must_keep: Tensor | None,
    valid: Tensor | None,
    method: str,
    max_similarity: float,
    sort: bool,
    seed: int,
) -> Tensor:
    """Positions [total_keep] in the packed array, image after image."""
    picks = [
        start
        + reference.select(
            scores[start:end],
            None if keys is None else keys[start:end],
            keep,
            None if must_keep is None else must_keep[start:end],
            None if valid is None else valid[start:end],
            method=method,
            max_similarity=max_similarity,
            sort=sort,
            seed=seed,
        )
        for start, end, keep in segments
        if keep
    ]
    return torch.cat(picks)
