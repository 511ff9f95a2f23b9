"""What the ratios are against: plain PyTorch as a user would write it, in the model's own dtype.

``paper_sensitivity`` and ``authors_selection`` follow the paper (arXiv 2509.24837) and its
published code step by step. No baseline converts to a wider type, synchronises or copies
needlessly, and all run on as many threads as the operators do.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def projector(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """A VLM's projector, ``nn.Sequential(Linear, GELU, Linear)``: [..., d] -> [..., D]."""
    return F.linear(F.gelu(F.linear(x, w1, b1)), w2, b2)


def paper_sensitivity(
    x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, directions: Tensor, step: float
) -> Tensor:
    """The paper's score, in x's dtype [N]: two projector passes over all tokens per direction."""
    total = torch.zeros_like(x[:, 0])
    for u in directions.to(x.dtype):
        plus = projector(x + step * u, w1, b1, w2, b2)  # [N, D]
        minus = projector(x - step * u, w1, b1, w2, b2)
        total += (plus - minus).norm(dim=-1) / (2 * step)
    return total / directions.shape[0]


def published_sensitivity(
    x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, directions: Tensor, step: float
) -> Tensor:
    """The same score as the published code computes it: all m directions in one batch."""
    shift = step * directions.to(x.dtype)[:, None]  # [m, 1, d]
    plus = projector(x + shift, w1, b1, w2, b2)  # [m, N, D]
    minus = projector(x - shift, w1, b1, w2, b2)
    return ((plus - minus).norm(dim=-1) / (2 * step)).mean(dim=0)


# The paper's score in both obvious ways; ratios are against the one that is quicker on the machine.
PAPER_FORMS = {
    "paper, one by one": paper_sensitivity,
    "paper, one batch": published_sensitivity,
}


def authors_selection(scores: Tensor, keys: Tensor, k: int) -> Tensor:
    """The published selection loop (SADS; DivPrune's loop has the same form): picks [k].

    Every step gathers the distance rows of all picks so far and takes their minimum again.
    """
    weight = _normalised(scores)
    distance = _cosine_distances(keys)  # [N, N]
    picks = torch.empty(k, dtype=torch.int64, device=keys.device)
    for i in range(k):
        gain = weight
        free = torch.ones_like(weight, dtype=torch.bool)
        if i > 0:
            gain = distance.index_select(0, picks[:i]).min(dim=0).values * weight
            free[picks[:i]] = False
        picks[i] = gain.masked_fill(~free, float("-inf")).argmax()
    return picks


def running_minimum_selection(scores: Tensor, keys: Tensor, k: int) -> Tensor:
    """A better loop than the published one: it keeps the minimum distance, updated per pick."""
    weight = _normalised(scores)
    distance = _cosine_distances(keys)  # [N, N]
    nearest = torch.ones_like(weight)
    picks = torch.empty(k, dtype=torch.int64, device=keys.device)
    for i in range(k):
        picks[i] = (nearest * weight).argmax()
        pick = picks[i : i + 1]
        row = distance.index_select(0, pick)[0]
        nearest = row if i == 0 else torch.minimum(nearest, row)
        nearest.index_fill_(0, pick, float("-inf"))
        weight.index_fill_(0, pick, 1.0)  # -inf times a weight of zero would be NaN
    return picks


def _normalised(scores: Tensor) -> Tensor:
    return (scores - scores.min()) / (scores.max() - scores.min() + 1e-8)


def _cosine_distances(keys: Tensor) -> Tensor:
    unit = keys / keys.norm(dim=1, keepdim=True)
    return 1 - unit @ unit.T


def fold(w1: Tensor, w2: Tensor) -> Tensor:
    """The folded metric as one line of PyTorch in the weights' dtype, [H, H]."""
    return (w2.T @ w2) * (w1 @ w1.T) / w1.shape[1]


def sphere(num: int, dim: int) -> Tensor:
    """Unit directions from torch's own generator, [num, dim]."""
    u = torch.randn(num, dim)
    return u / u.norm(dim=-1, keepdim=True)


# A bare matrix product x [n, H] times weight [D, H] transposed, in each way that ATen offers.
GEMMS = {
    "GEMM, F.linear": F.linear,
    "GEMM, oneDNN": lambda x, weight: torch.ops.mkldnn._linear_pointwise(
        x, weight, None, "none", [], ""
    ),
}
