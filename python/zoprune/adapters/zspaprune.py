"""ZSPAPrune (arXiv 2510.17197): the most relevant to the prompt, then the least similar."""

from __future__ import annotations

from torch import Tensor

import zoprune_kernels

from .common import check_count, check_share, check_tensors, cosine


def zspaprune(
    visual_tokens: Tensor, prompt_tokens: Tensor, k: int, core_ratio: float = 0.6
) -> Tensor:
    """Keep the core that is closest to the prompt's mean embedding, then what it lacks most.

    max(1, floor(core_ratio * k)) tokens have the largest cosine to the mean of the prompt's tokens;
    each further one has the smallest maximum cosine to all that are kept.

    Args:
        visual_tokens: [N, D] or [B, N, D]; float32, float16 or bfloat16.
        prompt_tokens: [M, D] or [B, M, D], in the same space.
        k: how many tokens each image keeps.
        core_ratio: the core's share, in [0, 1].

    Returns:
        int64 indices [..., k], ascending.

    Raises:
        ValueError: an argument that the above does not allow, named.
    """
    name = "zspaprune"
    sizes = check_tensors(
        name, visual_tokens=(visual_tokens, "... N D"), prompt_tokens=(prompt_tokens, "... M D")
    )
    check_count(name, "k", k, sizes["N"], "tokens")
    check_share(name, "core_ratio", core_ratio)
    prompt = prompt_tokens.float().mean(-2, keepdim=True)
    relevance = cosine(visual_tokens, prompt)[..., 0]  # [..., N]
    core = max(1, int(core_ratio * k))
    return zoprune_kernels.select(relevance, visual_tokens, k, method="maxmin", picks_by_score=core)
