"""Determinantal point processes: select_dpp and select_dpp_varlen."""

from __future__ import annotations

from torch import Tensor

from .. import reference
from ..checks import Call, Output
from ._register import operator, varlen


def _checks(call: Call) -> Output:
    each = call.check.scores(call.quality, packed=call.packed, name="quality")
    each.keys(call.keys)
    each.masks(call.must_keep, call.valid)
    return call.kept(call.quality, "quality")


@operator(_checks, values=Call.check_mask_values, hand_over=True)
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
        k, must_keep, valid, sort: as in :func:`select`.

    Returns:
        int64 indices [..., k]. Memory: N x k floats, never N x N.

    Example:
        >>> quality = torch.tensor([1.0, 0.9, 0.5])
        >>> keys = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
        >>> zoprune_kernels.select_dpp(quality, keys, 2)
        tensor([0, 2])
    """
    return reference.select_dpp(quality, keys, k, must_keep, valid, sort=sort)


select_dpp_varlen = varlen(
    select_dpp,
    """
    Example:
        >>> quality, keys = torch.tensor([1.0, 0.9, 0.5, 0.2]), torch.eye(4)
        >>> cu_tokens, cu_keep = torch.tensor([[0, 3, 4], [0, 2, 3]], dtype=torch.int32)
        >>> zoprune_kernels.select_dpp_varlen(quality, keys, cu_tokens, cu_keep, 3)
        tensor([0, 1, 3])
    """,
)
