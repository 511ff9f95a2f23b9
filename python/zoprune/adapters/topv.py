"""TopV (arXiv 2503.18278): importance as a contribution to the layer's output, by Sinkhorn."""

from __future__ import annotations

import torch
from torch import Tensor

import zoprune_kernels

from .common import check_count, check_tensors, fail, flags_at, indices_of


def visual_aware_cost(
    source: Tensor,
    target: Tensor,
    grid: tuple[int, int],
    *,
    feature_weight: float = 1.0,
    distance_weight: float = 1.0,
    centre_weight: float = 0.01,
    sigma: float = 10.0,
) -> Tensor:
    """What it costs token i to stand for token j: features, relative and central distance.

    The weighted sum of ||s_i - t_j||^2, 1 - exp(-rho_ij^2 / 2 sigma^2) and the distance of i from
    the grid's centre, each scaled to [0, 1] within the image.

    Args:
        source: [N, D] or [B, N, D], the visual tokens entering the layer.
        target: like source, the same tokens leaving it.
        grid: rows and columns of patches; N is their product.
        feature_weight, distance_weight, centre_weight: of the three terms.
        sigma: in patches.

    Returns:
        float32 [..., N, N].

    Raises:
        ValueError: an argument that the above does not allow, named.
    """
    name = "visual_aware_cost"
    sizes = check_tensors(name, source=(source, "... N D"), target=(target, "... N D"))
    rows, columns = grid
    if rows * columns != sizes["N"]:
        fail(name, "grid", f"rows and columns of {sizes['N']} tokens", grid)
    if not sigma > 0:
        fail(name, "sigma", "a number > 0", sigma)
    s, t = source.float(), target.float()
    squares = s.square().sum(-1)[..., :, None] + t.square().sum(-1)[..., None, :]
    features = _unit_range(squares - 2 * s @ t.transpose(-1, -2))
    axes = (torch.arange(n, device=source.device) for n in (rows, columns))
    place = torch.cartesian_prod(*axes).view(-1, 2).float()  # [N, 2]
    distance = torch.cdist(place, place)  # [N, N]
    near = _unit_range(1 - torch.exp(-distance.square() / (2 * sigma**2)))
    centre = (place.amax(0) / 2)[None]
    outside = _unit_range(torch.cdist(place, centre))  # [N, 1]
    return feature_weight * features + distance_weight * near + centre_weight * outside


def contributions(cost: Tensor, *, epsilon: float = 0.1, iterations: int = 3) -> Tensor:
    """The transport plan [..., N, N] after some Sinkhorn iterations between uniform marginals.

    The targets are scaled last, so each column sums to 1 / N and a row to what its source
    contributes.

    Args:
        cost: [..., N, N].
        epsilon: entropic regularisation, > 0, in units of the cost.
        iterations: >= 1. The more, the more uniform the rows become.

    Raises:
        ValueError: an argument that the above does not allow, named.
    """
    name = "contributions"
    check_tensors(name, cost=(cost, "... N N"))
    if not epsilon > 0:
        fail(name, "epsilon", "a number > 0", epsilon)
    if iterations < 1:
        fail(name, "iterations", "an integer >= 1", iterations)
    plan = -cost.float() / epsilon  # logarithms, which cannot underflow
    for _ in range(iterations):
        plan = plan - plan.logsumexp(-1, keepdim=True)
        plan = plan - plan.logsumexp(-2, keepdim=True)
    return plan.exp() / cost.shape[-1]


def topv(
    source: Tensor,
    target: Tensor,
    k: int,
    grid: tuple[int, int],
    *,
    recover_every: int = 0,
    epsilon: float = 0.1,
    iterations: int = 3,
    **weights: float,
) -> Tensor:
    """Keep the k tokens that contribute most, and every ``recover_every``-th of the others.

    Args:
        source, target, grid, weights: as in :func:`visual_aware_cost`.
        k: how many tokens each image keeps by their contribution.
        recover_every: 0 for none; else the first of the pruned tokens and every so-many-th after
            it are kept, too.
        epsilon, iterations: as in :func:`contributions`.

    Returns:
        int64 indices [..., k + recovered], ascending; recovered = ceil((N - k) / recover_every).
        Memory: N x N floats for each image.

    Raises:
        ValueError: an argument that the above does not allow, named.
    """
    name = "topv"
    tokens = check_tensors(name, source=(source, "... N D"), target=(target, "... N D"))["N"]
    check_count(name, "k", k, tokens, "tokens")
    if recover_every < 0:
        fail(name, "recover_every", "an integer >= 0", recover_every)
    cost = visual_aware_cost(source, target, grid, **weights)
    importance = contributions(cost, epsilon=epsilon, iterations=iterations).sum(-1)  # [..., N]
    kept = zoprune_kernels.select(importance, None, k, method="topk")
    if recover_every:
        pruned = indices_of(~flags_at(kept, tokens), tokens - k)
        kept = torch.cat([kept, pruned[..., ::recover_every]], dim=-1).sort(-1).values
    return kept


def _unit_range(x: Tensor) -> Tensor:
    """The matrices x [..., N, M] scaled to [0, 1]; 0 where all entries are equal."""
    low, high = x.amin((-2, -1), keepdim=True), x.amax((-2, -1), keepdim=True)
    return torch.where(high > low, (x - low) / (high - low), 0.0)
