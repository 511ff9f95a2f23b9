"""Facility location: select_coverage and select_coverage_varlen."""

from __future__ import annotations

from torch import Tensor

from .. import reference
from ..checks import Call, Output
from ._register import operator, varlen


def _checks(call: Call) -> Output:
    each = call.check.scores(call.scores, packed=call.packed)
    each.keys(call.keys)
    each.weights(call.weights)
    each.masks(call.must_keep, call.valid)
    return call.kept(call.scores, "scores")


@operator(_checks, values=Call.check_mask_values, hand_over=True)
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
        weights: w, shaped like scores, any of the three dtypes; ones where None. Negative and NaN
            weights count as 0, as does padding.
        k, must_keep, valid, sort: as in :func:`select`.

    Returns:
        int64 indices [..., k].

    Example:
        >>> keys = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
        >>> zoprune_kernels.select_coverage(torch.ones(3), keys, 2)
        tensor([1, 2])
    """
    return reference.select_coverage(scores, keys, k, weights, must_keep, valid, sort=sort)


select_coverage_varlen = varlen(
    select_coverage,
    """
    Example:
        >>> scores, keys = torch.tensor([0.9, 0.8, 0.5, 0.2]), torch.eye(4)
        >>> cu_tokens, cu_keep = torch.tensor([[0, 3, 4], [0, 2, 3]], dtype=torch.int32)
        >>> zoprune_kernels.select_coverage_varlen(scores, keys, cu_tokens, cu_keep, 3)
        tensor([0, 1, 3])
    """,
)
