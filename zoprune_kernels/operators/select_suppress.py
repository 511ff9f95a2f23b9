"""Suppression of neighbours: select_suppress and select_suppress_varlen."""

from __future__ import annotations

from torch import Tensor

from .. import reference
from ..checks import Call, Output
from ..methods import SuppressOptions
from ._register import operator, varlen


def _checks(call: Call) -> Output:
    check = call.check
    each = check.scores(call.scores, packed=call.packed)
    if call.keys is not None:
        each.keys(call.keys)
    each.positions(call.positions)
    if call.keys is None and call.positions is None:
        check.fail("keys", "a tensor where positions are None", "None")
    each.masks(call.must_keep, call.valid)
    SuppressOptions.of(call.arguments).check(check.fail)
    return call.kept(call.scores, "scores")


@operator(_checks, values=Call.check_mask_values, hand_over=True)
def select_suppress(
    scores: Tensor,
    keys: Tensor | None,
    k: int,
    positions: Tensor | None = None,
    must_keep: Tensor | None = None,
    valid: Tensor | None = None,
    *,
    rule: str = SuppressOptions.rule,
    sigma_space: float = SuppressOptions.sigma_space,
    sigma_similarity: float = SuppressOptions.sigma_similarity,
    radius: float = SuppressOptions.radius,
    strength: float = SuppressOptions.strength,
    threshold: float = SuppressOptions.threshold,
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
        positions: [..., N, 2 or 3] grid coordinates, in patches (with time or crop first, where
            there is one); float32, float16 or bfloat16. None leaves distance and radius out.
        rule: see the table.
        sigma_space, radius: in patches, > 0; infinite radius for none. Sigmas in [1e-18, 1e18].
        sigma_similarity: of 1 - cosine; ID-Selection's gamma is its inverse.
        strength: in [0, 1e18], what a copy of a picked token loses at the same place.
        threshold: in [-1, 1].
        k, must_keep, valid, sort: as in :func:`select`.

    Returns:
        int64 indices [..., k].

    Example:
        >>> scores = torch.tensor([0.9, 0.8, 0.5])
        >>> keys = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
        >>> zoprune_kernels.select_suppress(scores, keys, 2, rule="hard")
        tensor([0, 2])
    """
    options = vars(SuppressOptions.of(locals()))
    return reference.select_suppress(
        scores, keys, k, positions, must_keep, valid, sort=sort, **options
    )


select_suppress_varlen = varlen(
    select_suppress,
    """
    Example:
        >>> scores, keys = torch.tensor([0.9, 0.8, 0.5, 0.2]), torch.eye(4)
        >>> cu_tokens, cu_keep = torch.tensor([[0, 3, 4], [0, 2, 3]], dtype=torch.int32)
        >>> zoprune_kernels.select_suppress_varlen(scores, keys, cu_tokens, cu_keep, 3)
        tensor([0, 1, 3])
    """,
)
