"""Selections as pruning libraries write them: all N x N cosines, then a loop of argmax in Python.

Each is the loop of a published repository for one image, without its batch dimension and without
what the model does before it, or the plainest form where none is named. They are what
``benchmarks.family`` compares with.
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


def divprune(keys: Tensor, k: int) -> Tensor:
    """Max-min as in vbdi/divprune, ``DivPrune``: picks [k], first the most isolated token."""
    unit = keys / keys.norm(dim=1, keepdim=True)
    distance = 1.0 - torch.mm(unit, unit.t())  # [N, N]
    picks = torch.empty(k, dtype=torch.long)
    for i in range(k):
        if i == 0:
            scores = torch.topk(distance, 2, dim=0, largest=False).values[1, :]
        else:
            rows = torch.index_select(distance, 0, torch.index_select(picks, 0, torch.arange(i)))
            scores = torch.min(rows, dim=0).values
        picks[i] = torch.argmax(scores)
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


def mmr(scores: Tensor, keys: Tensor, k: int, *, tradeoff: float) -> Tensor:
    """Maximal marginal relevance, each step comparing with all picks as DivPrune's does: [k]."""
    cosine = cosines(keys)
    weight = (scores - scores.min()) / (scores.max() - scores.min() + 1e-8)
    free = torch.ones(len(scores), dtype=torch.bool)
    picks = torch.empty(k, dtype=torch.int64)
    for i in range(k):
        gain = weight
        if i > 0:
            nearest = cosine.index_select(0, picks[:i]).max(dim=0).values
            gain = tradeoff * weight - (1 - tradeoff) * nearest
        picks[i] = gain.masked_fill(~free, -float("inf")).argmax()
        free[picks[i]] = False
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


def visionzip_merge(tokens: Tensor, keys: Tensor, kept: Tensor) -> Tensor:
    """Contextual tokens as in dvlab-research/VisionZip, ``CLIPVisionTower_VisionZip_forward``.

    Dropped tokens are averaged into the nearest kept one by a one-hot matrix: merged [k, D].
    """
    unit = _unit(keys)
    dropped = torch.ones(len(keys), dtype=torch.bool)
    dropped[kept] = False
    similarity = unit[dropped] @ unit[kept].T  # [N - k, k]
    assigned = torch.zeros(similarity.shape, dtype=tokens.dtype)
    assigned.scatter_(1, similarity.argmax(dim=1)[:, None], 1)
    counts = assigned.sum(dim=0).clamp(min=1)[:, None]
    return tokens[kept] + assigned.T @ tokens[dropped] / counts


def tome_merge(tokens: Tensor, keys: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """``bipartite_soft_matching`` and ``merge_wavg`` of facebookresearch/ToMe, step by step.

    Merged tokens [N - count, D], those of even indices that stay first, and their sizes. Without
    a class token those that stay are in the order of their similarity.
    """
    metric = keys[None] / keys[None].norm(dim=-1, keepdim=True)
    a, b = metric[..., ::2, :], metric[..., 1::2, :]
    node_max, node_idx = (a @ b.transpose(-1, -2)).max(dim=-1)
    edge_idx = node_max.argsort(dim=-1, descending=True)[..., None]
    unm_idx, src_idx = edge_idx[..., count:, :], edge_idx[..., :count, :]
    dst_idx = node_idx[..., None].gather(dim=-2, index=src_idx)

    def merge(x: Tensor) -> Tensor:
        src, dst = x[..., ::2, :], x[..., 1::2, :]
        n, t1, c = src.shape
        unm = src.gather(dim=-2, index=unm_idx.expand(n, t1 - count, c))
        src = src.gather(dim=-2, index=src_idx.expand(n, count, c))
        dst = dst.scatter_reduce(-2, dst_idx.expand(n, count, c), src, reduce="sum")
        return torch.cat([unm, dst], dim=1)

    x, size = tokens[None], torch.ones_like(tokens[None, :, :1])
    x, size = merge(x * size), merge(size)
    return (x / size)[0], size[0]


def segmented_topk(scores: Tensor, counts: list[int], keep: list[int]) -> Tensor:
    """The best tokens of each segment of packed scores, ascending, one segment at a time."""
    picks, first = [], 0
    for count, k in zip(counts, keep, strict=True):
        picks.append(first + scores[first : first + count].topk(k).indices.sort().values)
        first += count
    return torch.cat(picks)


def cosines(keys: Tensor) -> Tensor:
    """All cosines [N, N], which most of these loops begin with."""
    unit = _unit(keys)
    return unit @ unit.T


def _unit(keys: Tensor) -> Tensor:
    return keys / keys.norm(dim=-1, keepdim=True)
