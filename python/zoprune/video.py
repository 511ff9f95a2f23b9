"""Selection of a video's tokens by how frames differ: EVS and VidCom2 (docs/tokens.md, "Videos").

Every function takes the projector's outputs as one [T, P, D] for each video: T frames of P tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

import zoprune_kernels

from .budgets import tokens_of
from .selection import Rule

RULES = ("evs", "vidcom2", "budget")
TEMPERATURE = 0.01  # of VidCom2's softmax over frames
WIDTHS = tuple(2.0**k for k in range(-3, 2))  # of its Gaussian kernels

Videos = Sequence[Tensor]


def choose(
    how: str,
    videos: Videos,
    keep: int | float,
    together: bool,
    rule: Rule,
    sensitivity: Callable[[], Tensor],
) -> tuple[Tensor, Tensor]:
    """Ascending indices of the tokens to keep of all videos, and the scores [N] they go by.

    ``keep`` is a count or a ratio of each video's tokens, or of all videos' if ``together``.
    ``rule`` and ``sensitivity`` pick where the method leaves it open.
    """
    videos = [v.float() if v.dtype == torch.float64 else v for v in videos]
    sizes = [video.shape[0] * video.shape[1] for video in videos]
    segments = [list(range(len(videos)))] if together else [[i] for i in range(len(videos))]
    counts = [tokens_of(keep, sum(sizes[i] for i in segment)) for segment in segments]
    if how == "evs":
        return _by_change(videos, segments, counts, rule, sensitivity)
    return _by_frame(how, videos, segments, counts, rule, sensitivity)


def _by_change(
    videos: Videos,
    segments: list[list[int]],
    counts: list[int],
    rule: Rule,
    sensitivity: Callable[[], Tensor],
) -> tuple[Tensor, Tensor]:
    """EVS: the first frames, then the tokens that differ most from those of the frame before.

    A budget below the first frames' tokens is spent on these, by ``rule``.
    """
    scores = torch.cat([zoprune_kernels.frame_change(video).flatten() for video in videos])
    device, start, picked = scores.device, 0, []
    for segment, count in zip(segments, counts, strict=True):
        first: list[int] = []  # tokens of the first frames, within the segment
        size = 0
        for frames, tokens in (videos[i].shape[:2] for i in segment):
            first += range(size, size + tokens)
            size += frames * tokens
        if count < len(first):
            among = torch.tensor(first, device=device) + start
            keys = torch.cat([videos[i].flatten(0, 1) for i in segment])[among - start]
            chosen = rule.pick(sensitivity()[among], keys, _packed([len(first)], [count], device))
            picked.append(among[chosen])
        else:
            changes = scores[start : start + size]
            picked.append(zoprune_kernels.select(changes, None, count, method="topk") + start)
        start += size
    return torch.cat(picked), scores


def _by_frame(
    how: str,
    videos: Videos,
    segments: list[list[int]],
    counts: list[int],
    rule: Rule,
    sensitivity: Callable[[], Tensor],
) -> tuple[Tensor, Tensor]:
    """VidCom2: budgets for the frames, then each frame's own tokens."""
    device = videos[0].device
    shares, typical = zip(*map(frame_shares, videos), strict=True)
    keeps = []
    for segment, count in zip(segments, counts, strict=True):
        tokens = torch.cat([torch.full((len(videos[i]),), videos[i].shape[1]) for i in segment])
        capacity = tokens.to(device, torch.int32)
        weights = torch.cat([shares[i] for i in segment]) * capacity
        least = min(1, count // len(tokens))
        keeps.append(zoprune_kernels.budget(weights, count, capacity, minimum=least).diff())
    kept = torch.cat(keeps)
    cu_keep = torch.nn.functional.pad(kept.cumsum(0), (1, 0)).to(torch.int32)
    per_frame = [video.shape[1] for video in videos for _ in range(video.shape[0])]
    packing = (_packed(per_frame, [], device)[0], cu_keep, sum(counts))
    if how == "vidcom2":
        scores = -torch.cat([t.flatten() for t in typical])
        return zoprune_kernels.select_varlen(scores, None, *packing, method="topk"), scores
    scores, keys = sensitivity(), torch.cat([video.flatten(0, 1) for video in videos])
    return rule.pick(scores, keys, packing), scores


def frame_shares(video: Tensor) -> tuple[Tensor, Tensor]:
    """VidCom2's shares [T] of the frames, 1 on average, and how typical each token is [T, P].

    Both from the half of the channels that vary least, each token scaled to unit length: its
    likeness to the mean of the video and to that of its frame, by Gaussian kernels of five widths.
    """
    flat = video.flatten(0, 1).float()
    least = flat.var(dim=0, correction=0).argsort(stable=True)[: max(flat.shape[1] // 2, 1)]
    unit = torch.nn.functional.normalize(video.float()[..., least.sort().values], dim=-1)
    of_video = _likeness(unit, unit.mean(dim=(0, 1), keepdim=True))
    of_frame = _likeness(unit, unit.mean(dim=1, keepdim=True))
    distinct = (-of_video.mean(dim=1) / TEMPERATURE).softmax(0)
    return 1 + distinct - distinct.mean(), of_video + of_frame


def _likeness(unit: Tensor, centre: Tensor) -> Tensor:
    distance = (unit - centre).square().sum(-1)
    return torch.stack([torch.exp(-distance / (2 * width)) for width in WIDTHS]).sum(0)


def _packed(
    sizes: list[int], counts: list[int], device: torch.device
) -> tuple[Tensor, Tensor, int]:
    cu = [torch.tensor([0, *n]).cumsum(0).to(device, torch.int32) for n in (sizes, counts)]
    return cu[0], cu[1], sum(counts)
