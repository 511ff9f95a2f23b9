"""Determinantal point processes: select_dpp and select_dpp_varlen."""

from __future__ import annotations

from torch import Tensor

from .. import contracts, reference
from .selection import by_segment, check_segment_masks, segments


def select_dpp(
    quality: Tensor,
    keys: Tensor,
    k: int,
    must_keep: Tensor | None = None,
    valid: Tensor | None = None,
    *,
    sort: bool = True,
) -> Tensor:
    """Pick k tokens of each image that span the largest volume: greedy MAP of a DPP.

    The kernel is L = diag(q) S diag(q), q the quality and S the keys' cosines; each pick is the
    token that raises det L of the picked the most (CDPruner, arXiv 2506.10967; Chen et al.,
    NeurIPS 2018, algorithm 1). Exact: the picks of plain greedy, ties to the lowest index.

    Args:
        quality: [N] or [B, N]; float32, float16 or bfloat16, at least 0. A token of quality 0 or
            less, or of which less than 1e-5 lies outside the span of those picked (as a share of
            its squared length), is picked after all others, by quality. NaN ranks below those.
        keys: [..., N, D] vectors whose cosine is the similarity; a zero key spans nothing.
        k: number of tokens to keep, 1 <= k <= N.
        must_keep: bool, shaped like quality: always returned, counted in k, already selected.
        valid: bool, shaped like quality: False marks padding, never picked.
        sort: ascending positions; False returns pick order, any prefix of which is the selection
            for a smaller k.

    Returns:
        int64 indices [..., k]. Memory: N x k floats, never N x N.

    Raises:
        RuntimeError: a shape, dtype, device or value that the above does not allow, named.
    """
    contracts.select_dpp(quality, keys, k, must_keep, valid)
    contracts.check_values("select_dpp", k, must_keep, valid, quality.device)
    return reference.select_dpp(quality, keys, k, must_keep, valid, sort=sort)


def select_dpp_varlen(
    quality: Tensor,
    keys: Tensor,
    cu_tokens: Tensor,
    cu_keep: Tensor,
    total_keep: int,
    must_keep: Tensor | None = None,
    valid: Tensor | None = None,
    *,
    sort: bool = True,
) -> Tensor:
    """:func:`select_dpp` for images of different sizes, packed one after the other.

    Args:
        quality: [T].
        keys: [T, D].
        cu_tokens, cu_keep, total_keep: as in :func:`select_varlen`.
        must_keep, valid: bool [T].
        sort: as in :func:`select_dpp`.

    Returns:
        int64 positions [total_keep] in the packed array, image after image.
    """
    contracts.select_dpp_varlen(quality, keys, cu_tokens, cu_keep, total_keep, must_keep, valid)
    images = segments("select_dpp_varlen", quality, cu_tokens, cu_keep, total_keep)
    check_segment_masks("select_dpp_varlen", images, must_keep, valid)

    def select_image(
        keep: int, quality: Tensor, keys: Tensor, must_keep: Tensor | None, valid: Tensor | None
    ) -> Tensor:
        return reference.select_dpp(quality, keys, keep, must_keep, valid, sort=sort)

    return by_segment(images, select_image, quality, keys, must_keep, valid)
