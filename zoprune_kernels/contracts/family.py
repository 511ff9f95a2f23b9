"""Contracts of select_dpp, select_suppress and select_coverage, each also for packed images."""

from __future__ import annotations

from torch import Tensor

from ..checks import Checker, Shape
from ..rules import Suppression


def select_dpp(
    quality: Tensor, keys: Tensor, k: int, must_keep: Tensor | None, valid: Tensor | None
) -> Shape:
    check = Checker("select_dpp")
    check.scores(quality, name="quality")
    check.keys(keys, quality.shape, quality, "quality")
    check.masks(must_keep, valid, quality.shape, quality, "quality")
    check.k(k, quality.shape[-1])
    return [*quality.shape[:-1], k]


def select_dpp_varlen(
    quality: Tensor,
    keys: Tensor,
    cu_tokens: Tensor,
    cu_keep: Tensor,
    total_keep: int,
    must_keep: Tensor | None,
    valid: Tensor | None,
) -> Shape:
    check = Checker("select_dpp_varlen")
    check.scores(quality, packed=True, name="quality")
    check.keys(keys, quality.shape, quality, "quality")
    check.masks(must_keep, valid, quality.shape, quality, "quality")
    check.segments(cu_tokens, cu_keep, total_keep, quality, "quality")
    return [total_keep]


def select_suppress(
    scores: Tensor,
    keys: Tensor | None,
    k: int,
    positions: Tensor | None,
    must_keep: Tensor | None,
    valid: Tensor | None,
    options: Suppression,
) -> Shape:
    check = Checker("select_suppress")
    check.scores(scores)
    _suppressed(check, scores, keys, positions, must_keep, valid, options)
    check.k(k, scores.shape[-1])
    return [*scores.shape[:-1], k]


def select_suppress_varlen(
    scores: Tensor,
    keys: Tensor | None,
    cu_tokens: Tensor,
    cu_keep: Tensor,
    total_keep: int,
    positions: Tensor | None,
    must_keep: Tensor | None,
    valid: Tensor | None,
    options: Suppression,
) -> Shape:
    check = Checker("select_suppress_varlen")
    check.scores(scores, packed=True)
    _suppressed(check, scores, keys, positions, must_keep, valid, options)
    check.segments(cu_tokens, cu_keep, total_keep, scores, "scores")
    return [total_keep]


def _suppressed(
    check: Checker,
    scores: Tensor,
    keys: Tensor | None,
    positions: Tensor | None,
    must_keep: Tensor | None,
    valid: Tensor | None,
    options: Suppression,
) -> None:
    if keys is not None:
        check.keys(keys, scores.shape, scores, "scores")
    if positions is not None:
        check.positions(positions, scores.shape, scores, "scores")
    if keys is None and positions is None:
        check.fail("keys", "a tensor where positions are None", "None")
    check.masks(must_keep, valid, scores.shape, scores, "scores")
    check.suppression(options)


def select_coverage(
    scores: Tensor,
    keys: Tensor,
    k: int,
    weights: Tensor | None,
    must_keep: Tensor | None,
    valid: Tensor | None,
) -> Shape:
    check = Checker("select_coverage")
    check.scores(scores)
    check.keys(keys, scores.shape, scores, "scores")
    check.weights(weights, scores.shape, scores, "scores")
    check.masks(must_keep, valid, scores.shape, scores, "scores")
    check.k(k, scores.shape[-1])
    return [*scores.shape[:-1], k]


def select_coverage_varlen(
    scores: Tensor,
    keys: Tensor,
    cu_tokens: Tensor,
    cu_keep: Tensor,
    total_keep: int,
    weights: Tensor | None,
    must_keep: Tensor | None,
    valid: Tensor | None,
) -> Shape:
    check = Checker("select_coverage_varlen")
    check.scores(scores, packed=True)
    check.keys(keys, scores.shape, scores, "scores")
    check.weights(weights, scores.shape, scores, "scores")
    check.masks(must_keep, valid, scores.shape, scores, "scores")
    check.segments(cu_tokens, cu_keep, total_keep, scores, "scores")
    return [total_keep]
