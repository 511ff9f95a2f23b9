"""VisionZip (arXiv 2412.04467, dvlab-research/VisionZip): dominant and contextual tokens."""

from __future__ import annotations

import torch
from torch import Tensor

import zoprune_kernels

from .common import check_count, check_tensors, fail, flags_at, indices_of


def dominant_indices(attn_weights: Tensor, dominant_num: int) -> Tensor:
    """``all_indices``: CLS, then the tokens that it attends to most, over all heads.

    Args:
        attn_weights: [B, heads, L, L], the attention of the encoder's last layer but one; CLS is
            token 0.
        dominant_num: how many tokens beside CLS.

    Returns:
        int64 [B, 1 + dominant_num], 0 first, then by falling attention.

    Raises:
        ValueError: an argument that the above does not allow, named.
    """
    name = "dominant_indices"
    sizes = check_tensors(name, attn_weights=(attn_weights, "B heads L L"))
    check_count(name, "dominant_num", dominant_num, sizes["L"] - 1, "tokens beside CLS")
    attention = attn_weights[:, :, 0, 1:].sum(1, dtype=torch.float32)  # [B, L - 1]
    picks = zoprune_kernels.select(attention, None, dominant_num, method="topk", sort=False)
    return torch.cat([torch.zeros_like(picks[:, :1]), picks + 1], dim=1)


def contextual_tokens(
    hidden_states: Tensor, metric: Tensor, all_indices: Tensor, contextual_num: int
) -> Tensor:
    """The other tokens, merged into evenly spaced ones of them that have the most similar key.

    Args:
        hidden_states: [B, L, C].
        metric: [B, L, Dk], the keys of the same layer, averaged over heads.
        all_indices: int64 [B, 1 + dominant_num] of :func:`dominant_indices`, not merged.
        contextual_num: how many tokens to merge into.

    Returns:
        [B, contextual_num, C] in hidden_states' dtype: target + mean of the tokens given to it.

    Raises:
        ValueError, RuntimeError: an argument that the above does not allow, named.
    """
    name = "contextual_tokens"
    sizes = check_tensors(name, hidden_states=(hidden_states, "B L C"), metric=(metric, "B L Dk"))
    if all_indices.dim() != 2 or all_indices.shape[0] != sizes["B"]:
        fail(name, "all_indices", f"shape [{sizes['B']}, k]", list(all_indices.shape))
    if all_indices.dtype != torch.int64:
        fail(name, "all_indices", "dtype torch.int64", all_indices.dtype)
    others = sizes["L"] - all_indices.shape[1]
    check_count(name, "contextual_num", contextual_num, others, "tokens that are not dominant")
    rest = ~flags_at(all_indices, sizes["L"])
    targets = indices_of(rest, others)[:, :: others // contextual_num][:, :contextual_num]
    merged, _ = zoprune_kernels.merge(
        hidden_states, metric, targets.contiguous(), valid=rest, rule="residual"
    )
    return merged


def visionzip(
    hidden_states: Tensor,
    attn_weights: Tensor,
    metric: Tensor,
    dominant_num: int,
    contextual_num: int,
) -> tuple[Tensor, Tensor]:
    """What ``CLIPVisionTower_VisionZip.forward`` computes from the encoder's outputs.

    Args:
        hidden_states, metric: as in :func:`contextual_tokens`.
        attn_weights, dominant_num: as in :func:`dominant_indices`.
        contextual_num: as in :func:`contextual_tokens`.

    Returns:
        (hidden_states_save [B, 1 + dominant_num + contextual_num, C]: CLS and the dominant tokens
        in the image's order, then the contextual ones; all_indices int64 [B, 1 + dominant_num]).
    """
    check_tensors(
        "visionzip",
        hidden_states=(hidden_states, "B L C"),
        attn_weights=(attn_weights, "B heads L L"),
        metric=(metric, "B L Dk"),
    )
    all_indices = dominant_indices(attn_weights, dominant_num)
    contextual = contextual_tokens(hidden_states, metric, all_indices, contextual_num)
    (dominant,) = zoprune_kernels.compact([hidden_states], all_indices.sort(-1).values, [1])
    return torch.cat([dominant, contextual], dim=1), all_indices
