"""Determinantal point processes: select_dpp and select_dpp_varlen."""

from __future__ import annotations

from torch import Tensor

from .. import reference
from ..checks import Call, Output
from ._register import operator, varlen


def _checks(call: Call) -> Output:
    call.check.scores(call.quality, packed=call.packed, name="quality")
    call.check.keys(call.keys, call.quality.shape, call.quality, "quality")
    call.check.masks(call.must_keep, call.valid, call.quality.shape, call.quality, "quality")
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
        k: number of tokens to keep, 1 <= k <= N.
        must_keep: bool, shaped like quality: always returned, counted in k, already selected.
        valid: bool, shaped like quality: False marks padding, never picked.
        sort: ascending indices; False returns pick order, any prefix of which is the selection
            for a smaller k.

    Returns:
        int64 indices [..., k]. Memory: N x k floats, never N x N.

    Raises:
        RuntimeError: a shape, dtype, device or value that the above does not allow, named.

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
    Returns:
        int64 indices [total_keep] into the packed array, image after image.

    Example:
        >>> quality, keys = torch.tensor([1.0, 0.9, 0.5, 0.2]), torch.eye(4)
        >>> cu_tokens, cu_keep = torch.tensor([[0, 3, 4], [0, 2, 3]], dtype=torch.int32)
        >>> zoprune_kernels.select_dpp_varlen(quality, keys, cu_tokens, cu_keep, 3)
        tensor([0, 1, 3])
    """,
)
