"""Suppression of neighbours: select_suppress and select_suppress_varlen."""

from __future__ import annotations

from torch import Tensor

from .. import contracts, reference
from ..rules import Suppression
from .selection import by_segment, check_segment_masks, segments


def select_suppress(
    scores: Tensor,
    keys: Tensor | None,
    k: int,
    positions: Tensor | None = None,
    must_keep: Tensor | None = None,
    valid: Tensor | None = None,
    *,
    rule: str = "soft",
    sigma_space: float = 1.5,
    sigma_similarity: float = 0.05,
    radius: float = 5.0,
    strength: float = 1.0,
    threshold: float = 0.9,
    sort: bool = True,
) -> Tensor:
    """Pick the best token of each image, lower the scores of its neighbours, k times; exact.

    With c the cosine and r the distance on the patch grid between a token and the one just picked,
    and only where r <= ``radius`` (docs/family.md):

    ===========  ====================================================  ==========================
    rule         effect on the score s                                 as in
    ===========  ====================================================  ==========================
    soft         s - |s| exp(-r^2 / 2 sigma_space^2)                   AdaptPrune,
                 exp(-(1 - c)^2 / 2 sigma_similarity^2)                arXiv 2503.08019
    exponential  s - strength exp(-r^2 / 2 sigma_space^2)              ID-Selection,
                 exp(-(1 - c) / sigma_similarity)                      arXiv 2604.05601
    hard         picked only when no other is left, where              D2Pruner,
                 c > ``threshold``                                     arXiv 2512.19443
    ===========  ====================================================  ==========================

    Args:
        scores: [N] or [B, N]; float32, float16 or bfloat16. NaN ranks below everything.
        keys: [..., N, D]; None leaves the similarity out, which then needs positions.
        k: number of tokens to keep, 1 <= k <= N.
        positions: [..., N, 2 or 3] grid coordinates, in patches (with time or crop first, where
            there is one); float32, float16 or bfloat16. None leaves distance and radius out.
        must_keep: bool, shaped like scores: always returned, counted in k, already selected.
        valid: bool, shaped like scores: False marks padding, never picked.
        rule: see the table.
        sigma_space, radius: in patches, > 0; infinite radius for none.
        sigma_similarity: > 0, of 1 - cosine; ID-Selection's gamma is its inverse.
        strength: >= 0, what a copy of a picked token loses at the same place.
        threshold: in [-1, 1].
        sort: ascending positions; False returns pick order, any prefix of which is the selection
            for a smaller k.

    Returns:
        int64 indices [..., k].

    Raises:
        RuntimeError: a shape, dtype, device or value that the above does not allow, named.
    """
    options = Suppression(rule, sigma_space, sigma_similarity, radius, strength, threshold)
    contracts.select_suppress(scores, keys, k, positions, must_keep, valid, options)
    contracts.check_values("select_suppress", k, must_keep, valid, scores.device)
    return reference.select_suppress(
        scores, keys, k, positions, must_keep, valid, sort=sort, **vars(options)
    )


def select_suppress_varlen(
    scores: Tensor,
    keys: Tensor | None,
    cu_tokens: Tensor,
    cu_keep: Tensor,
    total_keep: int,
    positions: Tensor | None = None,
    must_keep: Tensor | None = None,
    valid: Tensor | None = None,
    *,
    rule: str = "soft",
    sigma_space: float = 1.5,
    sigma_similarity: float = 0.05,
    radius: float = 5.0,
    strength: float = 1.0,
    threshold: float = 0.9,
    sort: bool = True,
) -> Tensor:
    """:func:`select_suppress` for images of different sizes, packed one after the other.

    Args:
        scores: [T].
        keys: [T, D], or None.
        cu_tokens, cu_keep, total_keep: as in :func:`select_varlen`.
        positions: [T, 2 or 3], or None.
        must_keep, valid: bool [T].
        rule, sigma_space, sigma_similarity, radius, strength, threshold, sort: as in
            :func:`select_suppress`.

    Returns:
        int64 positions [total_keep] in the packed array, image after image.
    """
    options = Suppression(rule, sigma_space, sigma_similarity, radius, strength, threshold)
    packing = (cu_tokens, cu_keep, total_keep)
    contracts.select_suppress_varlen(scores, keys, *packing, positions, must_keep, valid, options)
    images = segments("select_suppress_varlen", scores, *packing)
    check_segment_masks("select_suppress_varlen", images, must_keep, valid)

    def select_image(
        keep: int,
        scores: Tensor,
        keys: Tensor | None,
        positions: Tensor | None,
        must_keep: Tensor | None,
        valid: Tensor | None,
    ) -> Tensor:
        return reference.select_suppress(
            scores, keys, keep, positions, must_keep, valid, sort=sort, **vars(options)
        )

    return by_segment(images, select_image, scores, keys, positions, must_keep, valid)
