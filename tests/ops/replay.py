"""A greedy certificate: replays picks in float64 and says how far each was from the best one.

Independent of the package's reference: all images at once, by the definition in docs/selection.md.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from zoprune_kernels import philox

P = ParamSpec("P")
R = TypeVar("R")
LARGEST = torch.finfo(torch.float32).max


@dataclass
class Replay:
    """What plain greedy selection would have done after the same earlier picks."""

    regret: float  # largest gain that a pick missed; infinite for a pick from the wrong class
    exact: bool  # every pick is the very token that exact arithmetic picks


def weights(scores: Tensor, usable: Tensor) -> Tensor:
    """w [B, N] over the usable tokens, as the definition has it."""
    s = scores.double().clamp(-LARGEST, LARGEST)
    low = torch.where(usable, s, math.inf).amin(1, keepdim=True)
    high = torch.where(usable, s, -math.inf).amax(1, keepdim=True)
    w = torch.where(high > low, (s - low) / (high - low + 1e-8), 1.0)
    return torch.where(usable, w, 0.0)


def unit(keys: Tensor) -> Tensor:
    """Keys [B, N, D] of length one; those without a finite, positive length are zero."""
    length = keys.double().norm(dim=-1, keepdim=True)
    return torch.where((length > 0) & length.isfinite(), keys.double() / length, 0.0)


def centred(keys: Tensor, valid: Tensor) -> Tensor:
    """Keys minus the mean of the valid tokens' finite keys."""
    counted = keys.double().norm(dim=-1).isfinite() & valid
    total = torch.where(counted[..., None], keys.double(), 0.0).sum(1, keepdim=True)
    return keys.double() - total / counted.sum(1).clamp_min(1)[:, None, None]


def gain_of(rule: dict[str, Any], w: Tensor, r: Tensor) -> Tensor:
    method = rule.get("method", "sads")
    if method == "mmr":
        tradeoff = rule.get("tradeoff", 0.5)
        return tradeoff * w - (1 - tradeoff) * r
    if method in ("topk", "random"):
        return w
    return w * (1 - r) if method == "sads" else 1 - r


def one_thread(function: Callable[P, R]) -> Callable[P, R]:
    """Run with one thread: the tensors are small, and waking threads costs more than they save."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return function(*args, **kwargs)
        finally:
            torch.set_num_threads(threads)

    return run


@one_thread
def replay(
    scores: Tensor,
    keys: Tensor | None,
    picks: Tensor,
    must_keep: Tensor | None = None,
    valid: Tensor | None = None,
    tolerance: float = 1e-6,
    **rule: Any,
) -> Replay:
    """Replay picks [B, k], in pick order, of scores [B, N] and keys [B, N, D].

    A cosine within ``tolerance`` of ``max_similarity`` may count as either side of it.
    """
    images, tokens = scores.shape
    left = torch.ones_like(scores, dtype=torch.bool) if valid is None else valid.clone()
    scored = left & ~scores.isnan()
    w = weights(scores, scored)
    if rule.get("method") == "topk":
        w = torch.where(scored, scores.double().clamp(-LARGEST, LARGEST), 0.0)
    if rule.get("method") == "random":
        w = philox.uniform(tokens, 0, scores.device).double().expand_as(w)
    if keys is None:
        keys = torch.zeros(images, tokens, 1)
    z = unit(centred(keys, left) if rule.get("centre") else keys)
    cosines = (z @ z.mT).clamp(-1, 1)  # [B, N, N]
    r = known = torch.full_like(w, -math.inf)  # `known`: as of the last update of the gains
    kept = torch.zeros_like(left) if must_keep is None else must_keep.clone()
    regret, exact = torch.zeros(images).double(), True
    row, index = torch.arange(images), torch.arange(tokens).expand(images, tokens)
    limit = rule.get("max_similarity", 1.0)
    limit = math.inf if limit >= 1 else float(torch.tensor(limit, dtype=torch.float32))
    num_kept = kept.sum(1, keepdim=True)
    seeds = num_kept + max(rule.get("num_seed", 0), 1)  # the picks until here go by weight
    if rule.get("num_seed", 0) == 0:
        seeds = torch.where(num_kept > 0, num_kept, seeds)
    for step in range(picks.shape[1]):
        pick = picks[:, step]
        assert bool(left[row, pick].all()), "a token was picked twice, or is not valid"
        update = (step < seeds) | ((step - seeds) % rule.get("picks_per_step", 1) == 0)
        known = torch.where(update, r, known)
        gain = torch.where(step < seeds, w, gain_of(rule, w, known))
        if step == 0 and rule.get("first") == "isolated":
            others = torch.where((left & scored)[:, None, :], cosines, -1.0)
            nearest = others.masked_fill(torch.eye(tokens, dtype=torch.bool), -1.0).amax(2)
            gain = torch.where(num_kept > 0, w, 1 - nearest)
        # what exact arithmetic picks: best class, then highest gain, then lowest index
        rank = 1 + scored.int() + (scored & (known <= limit)).int()  # NaN, blocked, free
        rank = torch.where(left, torch.where(kept, 4, rank), 0)
        top = rank == rank.amax(1, keepdim=True)
        compared = torch.where((rank == 2) | (rank == 3), gain, 0.0)
        highest = torch.where(top, compared, -math.inf).amax(1, keepdim=True)
        best = torch.where(top & (compared == highest), index, tokens).amin(1)
        exact &= bool((pick == best).all())
        # how far the pick is from it, where rounding may have decided the class
        free = left & scored & (known <= limit - tolerance)
        blocked = left & scored & (known > limit + tolerance)
        pool = torch.where(free.any(1, keepdim=True), free, blocked)
        missed = torch.where(pool, gain, -math.inf).amax(1) - gain[row, pick]
        wrong = (blocked[row, pick] & free.any(1)) | ~scored[row, pick]
        by_gain = (rank[row, best] == 2) | (rank[row, best] == 3)
        missed = torch.where(wrong, math.inf, missed)
        missed = torch.where(by_gain, missed, torch.where(pick == best, 0.0, math.inf))
        regret = torch.maximum(regret, missed)
        left[row, pick] = False
        kept[row, pick] = False
        r = torch.maximum(r, cosines[row, pick])
    return Replay(float(regret.max()), exact)
