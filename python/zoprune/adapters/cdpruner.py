"""CDPruner (arXiv 2506.10967, Theia-4869/CDPruner): conditional diversity by a DPP."""

from __future__ import annotations

import torch
from torch import Tensor

import zoprune_kernels

from .common import check_count, check_tensors, cosine, flags_at


def relevance(image_embeds: Tensor, text_embeds: Tensor) -> Tensor:
    """How relevant each token is to the texts: minus the mean cosine, per image from ~0 to ~1.

    Args:
        image_embeds: [B, N, C], CLIP's image tokens in the space shared with text.
        text_embeds: [M, C], CLIP's texts.

    Returns:
        float32 [B, N], (r - min + 1e-6) / (max - min) of each image; ones where all r are equal.

    Raises:
        ValueError: an argument that the above does not allow, named.
    """
    check_tensors(
        "relevance", image_embeds=(image_embeds, "B N C"), text_embeds=(text_embeds, "M C")
    )
    r = -cosine(image_embeds, text_embeds).mean(-1)  # [B, N]
    low, high = r.amin(-1, keepdim=True), r.amax(-1, keepdim=True)
    return torch.where(high > low, (r - low + 1e-6) / (high - low), 1.0)


def select_index_masks(
    image_features: Tensor, image_embeds: Tensor, text_embeds: Tensor, visual_token_num: int
) -> Tensor:
    """What ``encode_images`` computes between the projector and its return: ``index_masks``.

    Greedy MAP of the DPP diag(q) S diag(q), q the relevance, S the cosines of the features.

    Args:
        image_features: [B, N, D], the projector's outputs.
        image_embeds, text_embeds: as in :func:`relevance`.
        visual_token_num: how many tokens each image keeps.

    Returns:
        bool [B, N], set for the kept tokens.

    Raises:
        ValueError: an argument that the above does not allow, named.
    """
    name = "select_index_masks"
    sizes = check_tensors(
        name,
        image_features=(image_features, "B N D"),
        image_embeds=(image_embeds, "B N C"),
        text_embeds=(text_embeds, "M C"),
    )
    check_count(name, "visual_token_num", visual_token_num, sizes["N"], "tokens")
    quality = relevance(image_embeds, text_embeds)
    kept = zoprune_kernels.select_dpp(quality, image_features, visual_token_num)  # [B, k]
    return flags_at(kept, sizes["N"])
