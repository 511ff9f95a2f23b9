"""Maximal marginal relevance (Carbonell and Goldstein 1998) with LangChain's signature."""

from __future__ import annotations

from torch import Tensor

import zoprune_kernels

from .common import check_count, check_share, check_tensors, cosine


def maximal_marginal_relevance(
    query_embedding: Tensor, embedding_list: Tensor, lambda_mult: float = 0.5, k: int = 4
) -> Tensor:
    """Pick what is most relevant to the query and least like what is picked.

    The first pick has the largest cosine q_i to the query, each next one the largest
    lambda q_i - (1 - lambda) max over the picked of the cosine to it.

    Reads one number from the device, the range of q: ``select(method="mmr")`` weighs scores that
    are normalised to [0, 1].

    Args:
        query_embedding: [D]; float32, float16 or bfloat16.
        embedding_list: [N, D].
        lambda_mult: in [0, 1], 1 for relevance alone.
        k: how many to pick; all N where there are fewer.

    Returns:
        int64 indices [min(k, N)] in the order of the picks.

    Raises:
        ValueError: an argument that the above does not allow, named.
    """
    name = "maximal_marginal_relevance"
    sizes = check_tensors(
        name, query_embedding=(query_embedding, "D"), embedding_list=(embedding_list, "N D")
    )
    check_share(name, "lambda_mult", lambda_mult)
    k = min(k, sizes["N"])
    check_count(name, "k", k, sizes["N"], "embeddings")
    relevance = cosine(embedding_list, query_embedding[None]).detach().flatten()  # [N]
    spread = lambda_mult * float(relevance.max() - relevance.min())
    tradeoff = spread / (spread + 1 - lambda_mult) if lambda_mult < 1 else 1.0
    return zoprune_kernels.select(
        relevance, embedding_list, k, method="mmr", tradeoff=tradeoff, sort=False
    )
