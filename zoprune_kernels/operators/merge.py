"""Giving dropped tokens to kept ones: merge and merge_varlen."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from ..checks import Call, Output
from ..reference.images import by_image
from ._register import operator, varlen

_RULES = ("mean", "sum", "residual")


def _checks(call: Call) -> tuple[Output, Output]:
    check, tokens, indices = call.check, call.tokens, call.indices
    if call.packed:
        check.shape("tokens", tokens, ["T", "D"], "images one after the other")
    each = check.merging(tokens, call.keys)
    lead = [] if call.packed else list(tokens.shape[:-2])
    where = "in the packed array" if call.packed else "of each image of tokens"
    check.shape("indices", indices, [*lead, "k"], f"kept positions {where}")
    check.dtype("indices", indices, torch.int64)
    check.device("indices", indices, tokens, "tokens")
    if call.packed:
        check.segments(call.cu_tokens, call.cu_keep, indices.shape[0], tokens, "tokens")
    if call.weights is not None:
        each.one("weights", call.weights)
    each.masks(None, call.valid)
    check.one_of("rule", call.rule, _RULES)
    count = tokens.shape[-2]
    if indices.shape[-1] > count:
        check.fail(
            "indices", f"at most {count} positions (the number of tokens)", indices.shape[-1]
        )
    shape = [*indices.shape]
    return (
        Output([*shape, tokens.shape[-1]], tokens.dtype, tokens.device),
        Output(shape, torch.float32, tokens.device),
    )


def _values(call: Call) -> None:
    if not call.packed:
        call.check_indices(call.indices, call.tokens.shape[-2], distinct=True)
        return
    done = 0
    for start, end, keep in call.images:
        indices = call.indices[done : done + keep] - start
        call.check_indices(indices, end - start, distinct=True)
        done += keep


@operator(_checks, values=_values, returns=("merged", "sizes"))
def merge(
    tokens: Tensor,
    keys: Tensor,
    indices: Tensor,
    weights: Tensor | None = None,
    valid: Tensor | None = None,
    *,
    rule: str = "mean",
) -> tuple[Tensor, Tensor]:
    """Give each dropped token to the kept token of the highest cosine; ties to the first kept.

    ========  =====================================================================
    rule      merged token of a kept token t with dropped ones t_i of weights w_i
    ========  =====================================================================
    mean      (w t + sum w_i t_i) / (w + sum w_i)  (SparseVLM, SwiftVLM)
    sum       w t + sum w_i t_i
    residual  t + sum w_i t_i / sum w_i  (VisionZip's contextual tokens)
    ========  =====================================================================

    Args:
        tokens: [N, D] or [B, N, D]; float32, float16 or bfloat16.
        keys: [..., N, Dk] vectors whose cosine is the similarity.
        indices: int64 [..., k] of the kept tokens, distinct.
        weights: [..., N] weight of each token, 1 by default.
        valid: bool [..., N]; padding is given to no one.
        rule: see the table.

    Returns:
        (merged [..., k, D] in tokens' dtype, float32 sizes [..., k]: the weight gathered in each).

    Example:
        >>> tokens = torch.tensor([[2.0, 0.0], [4.0, 0.0], [0.0, 1.0]])
        >>> zoprune_kernels.merge(tokens, tokens, torch.tensor([0, 2]))
        (tensor([[3., 0.],
                [0., 1.]]), tensor([2., 1.]))
    """
    images = (tokens, keys, indices, weights, valid)
    merged, sizes = by_image(reference.merge, 2, *images, rule=rule)
    return merged.to(tokens.dtype), sizes


merge_varlen = varlen(
    merge,
    """
    Returns:
        (merged [total_keep, D] in tokens' dtype, float32 sizes [total_keep]).

    Example:
        >>> tokens = torch.tensor([[2.0, 0.0], [4.0, 0.0], [0.0, 1.0]])
        >>> cu_tokens, cu_keep = torch.tensor([[0, 2, 3], [0, 1, 2]], dtype=torch.int32)
        >>> kept = torch.tensor([0, 2])
        >>> zoprune_kernels.merge_varlen(tokens, tokens, kept, cu_tokens, cu_keep)
        (tensor([[3., 0.],
                [0., 1.]]), tensor([2., 1.]))
    """,
)
