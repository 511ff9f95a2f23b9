"""GreedyPrune's objective (arXiv 2506.13166): semantic saliency and visual diversity together."""

from __future__ import annotations

from torch import Tensor

import zoprune_kernels

from .common import check_count, check_share, check_tensors


def greedyprune(
    visual_features: Tensor, saliency: Tensor, k: int, saliency_weight: float = 0.5
) -> Tensor:
    """Greedily pick tokens that are salient and far from those picked.

    The next pick has the largest c w + (1 - c) (1 - r), with w the saliency normalised to [0, 1], r
    the largest cosine to a picked token and c the weight; the first has the largest saliency.

    Args:
        visual_features: [N, D] or [B, N, D]; float32, float16 or bfloat16.
        saliency: [N] or [B, N], such as attention from the text or the cosine to it.
        k: how many tokens each image keeps.
        saliency_weight: c in [0, 1].

    Returns:
        int64 indices [..., k], ascending.

    Raises:
        ValueError: an argument that the above does not allow, named.
    """
    name = "greedyprune"
    sizes = check_tensors(
        name, visual_features=(visual_features, "... N D"), saliency=(saliency, "... N")
    )
    check_count(name, "k", k, sizes["N"], "tokens")
    check_share(name, "saliency_weight", saliency_weight)
    return zoprune_kernels.select(
        saliency, visual_features, k, method="mmr", tradeoff=saliency_weight
    )
