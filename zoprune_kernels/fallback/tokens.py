"""What happens around a selection: merge, budget, compact and frame_change."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from ..contracts import tokens as contracts
from .selection import segments


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
        indices: int64 [..., k] kept positions, distinct.
        weights: [..., N] weight of each token, 1 by default.
        valid: bool [..., N]; padding is given to no one.
        rule: see the table.

    Returns:
        (merged [..., k, D] in tokens' dtype, float32 sizes [..., k]: the weight gathered in each).
    """
    contracts.merge(tokens, keys, indices, weights, valid, rule)
    contracts.check_indices("merge", indices, tokens.shape[-2])
    if tokens.dim() == 2:
        merged, sizes = reference.merge(tokens, keys, indices, weights, valid, rule=rule)
        return merged.to(tokens.dtype), sizes
    images = [
        reference.merge(
            tokens[b],
            keys[b],
            indices[b],
            None if weights is None else weights[b],
            None if valid is None else valid[b],
            rule=rule,
        )
        for b in range(tokens.shape[0])
    ]
    merged = torch.stack([image[0] for image in images]).to(tokens.dtype)
    return merged, torch.stack([image[1] for image in images])


def merge_varlen(
    tokens: Tensor,
    keys: Tensor,
    indices: Tensor,
    cu_tokens: Tensor,
    cu_keep: Tensor,
    weights: Tensor | None = None,
    valid: Tensor | None = None,
    *,
    rule: str = "mean",
) -> tuple[Tensor, Tensor]:
    """:func:`merge` for packed images; packing and positions as ``select_varlen`` has them.

    Returns:
        (merged [total_keep, D] in tokens' dtype, float32 sizes [total_keep]).
    """
    contracts.merge_varlen(tokens, keys, indices, cu_tokens, cu_keep, weights, valid, rule)
    images = segments("merge_varlen", tokens, cu_tokens, cu_keep, indices.shape[0])
    merged, sizes, first = [], [], 0
    for start, end, keep in images:
        local = indices[first : first + keep] - start
        first += keep
        if keep == 0:
            continue
        contracts.check_indices("merge_varlen", local, end - start)
        image = reference.merge(
            tokens[start:end],
            keys[start:end],
            local,
            None if weights is None else weights[start:end],
            None if valid is None else valid[start:end],
            rule=rule,
        )
        merged.append(image[0])
        sizes.append(image[1])
    return torch.cat(merged).to(tokens.dtype), torch.cat(sizes)


def merge_bipartite(
    tokens: Tensor, keys: Tensor, count: int, sizes: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """ToMe's bipartite matching (arXiv 2210.09461): merge the ``count`` most similar pairs.

    Tokens at even positions propose their most similar odd one; the best ``count`` proposals merge
    as means weighted by size.

    Args:
        tokens: [N, D] or [B, N, D]; float32, float16 or bfloat16.
        keys: [..., N, Dk].
        count: pairs to merge, 0 <= count <= N // 2.
        sizes: [..., N] how many tokens each already stands for, 1 by default.

    Returns:
        (merged [..., N - count, D] in tokens' dtype, float32 sizes [..., N - count],
        int64 positions [..., N - count] of the tokens that stay, ascending).
    """
    contracts.merge_bipartite(tokens, keys, count, sizes)
    if tokens.dim() == 2:
        merged, grown, positions = reference.merge_bipartite(tokens, keys, count, sizes)
        return merged.to(tokens.dtype), grown, positions
    images = [
        reference.merge_bipartite(tokens[b], keys[b], count, None if sizes is None else sizes[b])
        for b in range(tokens.shape[0])
    ]
    merged, grown, positions = (torch.stack(list(part)) for part in zip(*images, strict=True))
    return merged.to(tokens.dtype), grown, positions


def budget(
    weights: Tensor,
    total: int,
    capacity: Tensor | None = None,
    *,
    rule: str = "proportional",
    temperature: float = 1.0,
    minimum: int = 0,
) -> Tensor:
    """Share ``total`` tokens among images, crops or frames; the counts sum exactly to it.

    Args:
        weights: [B] importance of each; float32, float16 or bfloat16.
        total: number of tokens to share out.
        capacity: int32 [B] most that each can take; no limit by default.
        rule: ``equal``, ``proportional`` to the positive weights, or ``softmax`` of
            weights / temperature (VidCom2).
        temperature: of the softmax, > 0.
        minimum: least that each gets.

    Returns:
        int32 [B + 1] offsets: image b gets result[b + 1] - result[b]. This is ``cu_keep`` of the
        packed operators.
    """
    contracts.budget(weights, total, capacity, rule, temperature, minimum)
    contracts.check_capacity(capacity, total, minimum)
    return reference.budget(
        weights, total, capacity, rule=rule, temperature=temperature, minimum=minimum
    )


def compact(tensors: list[Tensor], indices: Tensor, dims: list[int]) -> list[Tensor]:
    """Keep the same tokens in everything a sequence carries, in one call.

    Args:
        tensors: of any dtype and rank: embeddings [B, N, D], ids and masks [B, N], three-row
            position ids [3, B, N], DeepStack features [N, D], ...
        indices: int64 [k] or [B, k] positions to keep.
        dims: the tokens' dimension of each tensor. With [B, k] the dimension before it must be
            the batch.

    Returns:
        The tensors with k tokens each.
    """
    contracts.compact(tensors, indices, dims)
    for tensor, dim in zip(tensors, dims, strict=True):
        contracts.check_indices("compact", indices, tensor.shape[dim])
    return reference.compact(tensors, indices, dims)


def frame_change(x: Tensor) -> Tensor:
    """How much each token differs from the co-located one of the frame before: 1 - cosine (EVS).

    Args:
        x: [T, P, D] or [B, T, P, D], T frames of P tokens; float32, float16 or bfloat16.

    Returns:
        float32 [..., T, P] in [0, 2]; 2 in the first frame, which has nothing before it.
    """
    contracts.frame_change(x)
    if x.dim() == 3:
        return reference.frame_change(x)
    return torch.stack([reference.frame_change(video) for video in x])
