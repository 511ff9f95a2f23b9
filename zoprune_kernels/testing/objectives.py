"""Gains in float64 by the definitions of docs/selection.md and docs/family.md, for all images.

An objective holds what greedy selection knows after some picks. Shapes: B images, N tokens, of
which C ``among`` are compared; picks are given as indices into ``among``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .. import philox
from ..methods import SelectOptions, SuppressOptions

LARGEST = torch.finfo(torch.float32).max
DEPENDENT = 1e-5  # select_dpp: less than this of a squared length outside of the span is nothing
NEGLIGIBLE = 2.0**-30  # select_coverage: so is this share of the largest weight


class State(NamedTuple):
    """[B, C] each: tokens with a ``margin`` below zero come after all others, by ``blocked``."""

    gain: Tensor
    blocked: Tensor
    margin: Tensor


class Redundancy:
    """select: a gain of the weight and of the largest cosine to the picked."""

    relative, slack = False, 1e-6

    def __init__(
        self,
        scores: Tensor,
        keys: Tensor | None,
        valid: Tensor,
        kept: Tensor,
        among: Tensor,
        options: SelectOptions,
        seed: int = 0,
    ) -> None:
        scored = valid & ~scores.isnan()
        method, by_score = options.method, options.picks_by_score
        self.method, self.tradeoff = method, options.tradeoff
        self.isolated_first = options.first == "isolated" and keys is not None
        self.every = options.picks_per_step
        if method == "topk":  # normalising would merge close scores
            weight = torch.where(scored, finite(scores), 0.0)
        elif method == "random":
            weight = philox.uniform(scores.shape[1], seed, scores.device).double()
            weight = weight.expand_as(scores)
        else:
            weight = normalised(scores, scored)
        if keys is None:
            keys = scores.new_zeros(*scores.shape, 1)
        self.all_z = unit(centred(keys, valid) if options.centre else keys)
        self.z, self.weight, self.among = self.all_z[:, among], weight[:, among], among
        # Compared as the operator does it, in fp32
        limit = float(torch.tensor(options.max_similarity, dtype=torch.float32))
        self.limit = limit if limit < 1 else math.inf
        self.candidates = scored & ~kept
        self.num_kept = kept.sum(1, keepdim=True)
        self.seeds = self.num_kept + max(by_score, 1)  # the picks until here go by weight
        if by_score == 0:
            self.seeds = torch.where(self.num_kept > 0, self.num_kept, self.seeds)
        self.nearest = torch.full_like(self.weight, -math.inf)
        self.known = self.nearest  # as of the last update of the gains

    def state(self, step: int) -> State:
        update = (step < self.seeds) | ((step - self.seeds) % self.every == 0)
        self.known = torch.where(update, self.nearest, self.known)
        gain = torch.where(step < self.seeds, self.weight, self.gain())
        if step == 0 and self.isolated_first:
            gain = torch.where(self.num_kept > 0, self.weight, self.isolation())
        return State(gain, gain, self.limit - self.known)

    def gain(self) -> Tensor:
        if self.method == "mmr":
            return self.tradeoff * self.weight - (1 - self.tradeoff) * self.known
        if self.method in ("topk", "random"):
            return self.weight
        return self.weight * (1 - self.known) if self.method == "sads" else 1 - self.known

    def isolation(self) -> Tensor:
        """1 - the cosine to the nearest other candidate."""
        cosine = (self.z @ self.all_z.mT).clamp(-1, 1)  # [B, C, N]
        cosine = torch.where(self.candidates[:, None, :], cosine, -1.0)
        cosine[:, torch.arange(len(self.among)), self.among] = -1.0
        return 1 - cosine.amax(2)

    def pick(self, rows: Tensor, pick: Tensor) -> None:
        cosine = (self.z @ self.z[rows, pick][:, :, None])[:, :, 0].clamp(-1, 1)
        self.nearest = torch.maximum(self.nearest, cosine)


class Suppression:
    """select_suppress: the score, which each pick lowers nearby."""

    relative, slack = True, 1e-6

    def __init__(
        self,
        scores: Tensor,
        keys: Tensor | None,
        positions: Tensor | None,
        among: Tensor,
        options: SuppressOptions,
    ) -> None:
        self.score = finite(scores)[:, among]
        self.z = None if keys is None else unit(keys)[:, among]
        self.positions = None if positions is None else positions.double()[:, among]
        self.options = options
        self.margin = torch.full_like(self.score, math.inf)

    def state(self, step: int) -> State:
        return State(self.score, self.score, self.margin)

    def pick(self, rows: Tensor, pick: Tensor) -> None:
        options, radius2 = self.options, self.options.radius * self.options.radius
        cosine, distance2 = torch.ones_like(self.score), torch.zeros_like(self.score)
        if self.z is not None:
            cosine = (self.z @ self.z[rows, pick][:, :, None])[:, :, 0].clamp(-1, 1)
        if self.positions is not None:
            distance2 = (self.positions - self.positions[rows, pick][:, None]).square().sum(-1)
        if options.rule == "hard":
            away = torch.where(distance2 <= radius2, -math.inf, distance2 - radius2)
            if self.z is not None:  # at the threshold is not above it
                away = torch.maximum(away, options.threshold - cosine)
            self.margin = torch.minimum(self.margin, away.nan_to_num(nan=math.inf))
            return
        closeness = torch.exp(-distance2 / (2 * options.sigma_space**2))
        if options.rule == "soft":
            closeness = closeness * torch.exp(
                -((1 - cosine) ** 2) / (2 * options.sigma_similarity**2)
            )
            lowered = self.score - closeness * self.score.abs()
        else:
            closeness = closeness * torch.exp(-(1 - cosine) / options.sigma_similarity)
            lowered = self.score - options.strength * closeness
        near = (distance2 <= radius2) & (closeness > 0)
        self.score = torch.where(near, lowered, self.score)


class Volume:
    """select_dpp: the squared quality times what orthogonal projection leaves of the unit key."""

    relative, slack = True, 0.9 * DEPENDENT

    def __init__(self, quality: Tensor, keys: Tensor, among: Tensor) -> None:
        self.quality = finite(quality)[:, among]
        self.rest = unit(keys)[:, among]

    def state(self, step: int) -> State:
        residual = self.rest.square().sum(-1)
        margin = torch.where(self.quality > 0, residual - DEPENDENT, -math.inf)
        return State(self.quality**2 * residual, self.quality, margin)

    def pick(self, rows: Tensor, pick: Tensor) -> None:
        direction = self.rest[rows, pick]
        length = direction.norm(dim=-1, keepdim=True)
        direction = torch.where(length**2 > DEPENDENT, direction / length, 0.0)[:, :, None]
        for _ in range(2):  # the second time takes what rounding left of the first
            self.rest = self.rest - (self.rest @ direction) @ direction.mT


class Coverage:
    """select_coverage: the score times what the token adds to the objective."""

    relative, slack = True, 1e-5

    def __init__(
        self,
        scores: Tensor,
        keys: Tensor,
        weights: Tensor | None,
        valid: Tensor,
        among: Tensor,
    ) -> None:
        self.score = finite(scores)[:, among]
        z = unit(keys)
        self.cosine = (z @ z[:, among].mT).clamp(-1, 1)  # [B, N, C]
        weight = torch.ones_like(scores, dtype=torch.float64)
        if weights is not None:
            weight = finite(weights).nan_to_num(nan=0.0).clamp_min(0)
        weight = torch.where(valid, weight, 0.0)
        largest = weight.amax(1, keepdim=True)
        self.weight = weight / largest.where(largest > 0, largest.new_ones(()))
        self.covered = torch.zeros_like(self.weight)

    def state(self, step: int) -> State:
        more = (self.cosine - self.covered[:, :, None]).clamp_min(0)
        added = (self.weight[:, None] @ more)[:, 0]
        margin = torch.where(self.score > 0, added - NEGLIGIBLE, -math.inf)
        return State(self.score * added, self.score, margin)

    def pick(self, rows: Tensor, pick: Tensor) -> None:
        self.covered = torch.maximum(self.covered, self.cosine[rows, :, pick])


def finite(scores: Tensor) -> Tensor:
    """Scores in float64, infinities as the largest finite float32; NaN stays."""
    return scores.double().clamp(-LARGEST, LARGEST)


def normalised(scores: Tensor, usable: Tensor) -> Tensor:
    """w [B, N] over the usable tokens, ones where all are equal."""
    s = finite(scores)
    low = torch.where(usable, s, math.inf).amin(1, keepdim=True)
    high = torch.where(usable, s, -math.inf).amax(1, keepdim=True)
    weight = torch.where(high > low, (s - low) / (high - low + 1e-8), 1.0)
    return torch.where(usable, weight, 0.0)


def unit(keys: Tensor) -> Tensor:
    """Keys [B, N, D] of length one; those without a finite, positive length are zero."""
    length = keys.double().norm(dim=-1, keepdim=True)
    return torch.where((length > 0) & length.isfinite(), keys.double() / length, 0.0)


def centred(keys: Tensor, valid: Tensor) -> Tensor:
    """Keys minus the mean of the valid tokens' finite keys."""
    counted = keys.double().norm(dim=-1).isfinite() & valid
    total = torch.where(counted[..., None], keys.double(), 0.0).sum(1, keepdim=True)
    return keys.double() - total / counted.sum(1).clamp_min(1)[:, None, None]
