"""Facility location: select_coverage and select_coverage_varlen."""

from __future__ import annotations

from torch import Tensor

from .. import contracts, reference
from .selection import by_segment, check_segment_masks, segments


def select_coverage(
    scores: Tensor,
    keys: Tensor,
    k: int,
    weights: Tensor | None = None,
    must_keep: Tensor | None = None,
    valid: Tensor | None = None,
    *,
    sort: bool = True,
) -> Tensor:
    """Pick k tokens of each image that resemble all of them best: greedy facility location.

    With cov_i the largest cosine of token i to one already picked, 0 at first, the next pick j has
    the highest s_j sum_i w_i max(0, cos(i, j) - cov_i). Scores of one give the plain objective
    sum_i w_i max_{j picked} cos(i, j); saliency as scores and no weights give SCOPE
    (arXiv 2510.24214). Exact: the picks of plain greedy, ties to the lowest index.

    Args:
        scores: s, [N] or [B, N]; float32, float16 or bfloat16, at least 0. A token of score 0 or
            less, or that raises the coverage by less than 2^-30 of the largest weight, is picked
            after all others, by score. NaN ranks below those.
        keys: [..., N, D] vectors whose cosine is the similarity; a zero key covers nothing.
        k: number of tokens to keep, 1 <= k <= N.
        weights: w, shaped like scores, any of the three dtypes; ones where None. Negative and NaN
            weights count as 0.
        must_keep: bool, shaped like scores: always returned, counted in k, already selected.
        valid: bool, shaped like scores: False marks padding, neither picked nor covered.
        sort: ascending positions; False returns pick order, any prefix of which is the selection
            for a smaller k.

    Returns:
        int64 indices [..., k].

    Raises:
        RuntimeError: a shape, dtype, device or value that the above does not allow, named.
    """
    contracts.select_coverage(scores, keys, k, weights, must_keep, valid)
    contracts.check_values("select_coverage", k, must_keep, valid, scores.device)
    return reference.select_coverage(scores, keys, k, weights, must_keep, valid, sort=sort)


def select_coverage_varlen(
    scores: Tensor,
    keys: Tensor,
    cu_tokens: Tensor,
    cu_keep: Tensor,
    total_keep: int,
    weights: Tensor | None = None,
    must_keep: Tensor | None = None,
    valid: Tensor | None = None,
    *,
    sort: bool = True,
) -> Tensor:
    """:func:`select_coverage` for images of different sizes, packed one after the other.

    Args:
        scores: [T].
        keys: [T, D].
        cu_tokens, cu_keep, total_keep: as in :func:`select_varlen`.
        weights: [T], or None.
        must_keep, valid: bool [T].
        sort: as in :func:`select_coverage`.

    Returns:
        int64 positions [total_keep] in the packed array, image after image.
    """
    packing = (cu_tokens, cu_keep, total_keep)
    contracts.select_coverage_varlen(scores, keys, *packing, weights, must_keep, valid)
    images = segments("select_coverage_varlen", scores, *packing)
    check_segment_masks("select_coverage_varlen", images, must_keep, valid)

    def select_image(
        keep: int,
        scores: Tensor,
        keys: Tensor,
        weights: Tensor | None,
        must_keep: Tensor | None,
        valid: Tensor | None,
    ) -> Tensor:
        return reference.select_coverage(scores, keys, keep, weights, must_keep, valid, sort=sort)

    return by_segment(images, select_image, scores, keys, weights, must_keep, valid)
