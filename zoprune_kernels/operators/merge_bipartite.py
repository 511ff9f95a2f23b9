"""Merging the most similar pairs of tokens: merge_bipartite."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from ..checks import Call, Output
from ..reference.images import by_image
from ._register import operator


def _checks(call: Call) -> tuple[Output, Output, Output]:
    check, tokens = call.check, call.tokens
    each = check.merging(tokens, call.keys)
    number = tokens.shape[-2]
    if not 0 <= call.count <= number // 2:
        check.fail("count", f"0 <= count <= {number // 2} (half the tokens)", call.count)
    if call.sizes is not None:
        each.one("sizes", call.sizes)
    shape = [*tokens.shape[:-2], number - call.count]
    return (
        Output([*shape, tokens.shape[-1]], tokens.dtype, tokens.device),
        Output(shape, torch.float32, tokens.device),
        Output(shape, torch.int64, tokens.device),
    )


# The last are indices; the schema, once published, calls them positions.
@operator(_checks, returns=("merged", "sizes", "positions"))
def merge_bipartite(
    tokens: Tensor, keys: Tensor, count: int, sizes: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """ToMe's bipartite matching (arXiv 2210.09461): merge the ``count`` most similar pairs.

    Tokens at even indices propose their most similar odd one; the best ``count`` proposals merge
    as means weighted by size.

    Args:
        tokens: [N, D] or [B, N, D]; float32, float16 or bfloat16.
        keys: [..., N, Dk].
        count: pairs to merge, 0 <= count <= N // 2.
        sizes: [..., N] how many tokens each already stands for, 1 by default.

    Returns:
        (merged [..., N - count, D] in tokens' dtype, float32 sizes [..., N - count],
        int64 indices [..., N - count] of the tokens that stay, ascending).

    Example:
        >>> tokens = torch.tensor([[2.0, 0.0], [4.0, 0.0], [0.0, 1.0], [-3.0, 0.0]])
        >>> zoprune_kernels.merge_bipartite(tokens, tokens, 1)
        (tensor([[ 3.,  0.],
                [ 0.,  1.],
                [-3.,  0.]]), tensor([2., 1., 1.]), tensor([1, 2, 3]))
    """
    merged, grown, stays = by_image(reference.merge_bipartite, 2, tokens, keys, count, sizes)
    return merged.to(tokens.dtype), grown, stays
