"""Selections as pruning libraries write them: all N x N cosines, then a loop of argmax in Python.

Each is the loop of a published repository for one image, without its batch dimension and without
what the model does before it. They are what ``benchmarks.family`` compares with.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cdpruner(quality: Tensor, keys: Tensor, k: int) -> Tensor:
    """Greedy DPP as in Theia-4869/CDPruner, ``LlavaMetaForCausalLM.encode_images``: picks [k]."""
    unit = _unit(keys).float()
    kernel = quality[:, None] * (unit @ unit.T) * quality[None, :]  # [N, N]
    cis = torch.zeros(k, len(keys))
    di2s = kernel.diagonal().clone()
    picks = torch.empty(k, dtype=torch.int64)
    for i in range(k):
        j = di2s.argmax()
        picks[i] = j
        eis = (kernel[j] - cis[:i, j] @ cis[:i]) / di2s[j].sqrt()
        cis[i] = eis
        di2s -= eis.square()
        di2s[j] = -float("inf")
    return picks


def adaptprune(
    scores: Tensor,
    keys: Tensor,
    k: int,
    positions: Tensor,
    *,
    radius: float = 5.0,
    sigma_space: float = 1.5,
    sigma_similarity: float = 0.05,
) -> Tensor:
    """Soft suppression as in bzluan/AdaptPrune, ``adapt_nms_2d``: picks [k].

    Its loop would pick a token twice where all scores have fallen to zero; picked ones are masked.
    """
    unit = _unit(keys)
    scores = scores.clone()
    picks = torch.empty(k, dtype=torch.int64)
    for i in range(k):
        pick = scores.argmax()
        picks[i] = pick
        distance = (positions - positions[pick]).square().sum(-1).sqrt()
        near = distance <= radius
        space = torch.exp(-(distance**2) / (2 * sigma_space**2))
        cosine = torch.nn.functional.cosine_similarity(unit, unit[pick][None], dim=-1)
        similar = torch.exp(-((1 - cosine) ** 2) / (2 * sigma_similarity**2)).to(scores.dtype)
        scores[near] *= 1 - (space * similar)[near]
        scores[pick] = -float("inf")
    return picks


def exponential(
    scores: Tensor, keys: Tensor, k: int, *, sigma_similarity: float, strength: float
) -> Tensor:
    """Exponential subtraction with all cosines at hand: picks [k]."""
    cosine = cosines(keys)
    scores = scores.clone()
    picks = torch.empty(k, dtype=torch.int64)
    for i in range(k):
        pick = scores.argmax()
        picks[i] = pick
        scores -= strength * torch.exp((cosine[pick] - 1) / sigma_similarity).to(scores.dtype)
        scores[pick] = -float("inf")
    return picks


def hard_suppression(scores: Tensor, keys: Tensor, k: int, *, threshold: float) -> Tensor:
    """NMS with all cosines at hand; dropped tokens fill what is missing: picks [k]."""
    cosine = cosines(keys)
    dropped = torch.zeros(len(scores), dtype=torch.bool)
    free = scores.clone()
    picks = torch.empty(k, dtype=torch.int64)
    for i in range(k):
        alive = free.masked_fill(dropped, -float("inf"))
        pick = alive.argmax()
        if alive[pick] == -float("inf"):
            pick = free.argmax()
        picks[i] = pick
        free[pick] = -float("inf")
        dropped |= cosine[pick] > threshold
    return picks


def scope_steps(cosine: Tensor, scores: Tensor, k: int) -> Tensor:
    """The loop of facility location as in kinredon/SCOPE, ``SCOPE``, cosines [N, N]: picks [k]."""
    zero = torch.zeros(1, dtype=cosine.dtype)
    selected = torch.zeros(len(scores), dtype=torch.bool)
    cur_max = torch.zeros(len(scores), dtype=cosine.dtype)
    picks = torch.empty(k, dtype=torch.int64)
    for i in range(k):
        gains = torch.maximum(zero, cosine.masked_fill(selected[None], 0) - cur_max[:, None]).sum(0)
        gains = (gains * scores).masked_fill(selected, -float("inf"))
        best = gains.argmax()
        selected[best] = True
        picks[i] = best
        cur_max = torch.maximum(cur_max, cosine[best])
    return picks


def cosines(keys: Tensor) -> Tensor:
    """All cosines [N, N], which most of these loops begin with."""
    unit = _unit(keys)
    return unit @ unit.T


def _unit(keys: Tensor) -> Tensor:
    return keys / keys.norm(dim=-1, keepdim=True)
