"""Shortening a prompt: every tensor that has one entry per column loses the same entries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shortening:
    """Which columns of a prompt [B, L] remain, and where: rows are padded to one length L'."""

    keep: Tensor  # [B, L] bool, False where a visual token is dropped
    columns: Tensor  # [B, L'] int64, the original column of each position
    real: Tensor  # [B, L'] bool, False for padding that fills up a row
    padded: bool  # whether there is any
    changed: bool  # whether there is anything that differs from the full prompt

    @classmethod
    def of(cls, keep: Tensor, mask: Tensor | None, fixed: Tensor | None = None) -> Shortening:
        """Drop the columns of [B, L] that are not flagged.

        A row that loses more than another is filled up, and one that loses less gives up padding
        in exchange: on the side where ``mask`` [B, L] says that rows are padded (without one, on
        the left, as generation needs). Masked columns elsewhere, and ``fixed`` ones, stay.
        """
        lost = (~keep).sum(1)
        lead = trail = torch.zeros_like(keep)
        right = torch.zeros((), dtype=torch.bool, device=keep.device)
        if mask is not None:
            masked = mask == 0
            right = (masked[:, -1] & ~masked[:, 0]).any()
            idle = masked & keep if fixed is None else masked & keep & ~fixed
            lead = idle.cumprod(1).bool()
            trail = idle.flip(1).cumprod(1).flip(1).bool()
        needed = (keep & ~lead & ~trail).sum(1)  # [B]
        left = keep.shape[1] - lost
        length = torch.maximum(needed.max(), left.min())
        most, fewest, width, padded_right = torch.stack(
            [lost.max(), left.min(), length, right.long()]
        ).tolist()
        side = (trail, lead) if padded_right else (lead, trail)
        stays = keep & ~_excess(*side, (left - width).clamp_min(0), bool(padded_right))
        count = stays.sum(1, keepdim=True)
        position = torch.arange(width, device=keep.device)
        if padded_right:
            columns = (~stays).int().argsort(dim=1, stable=True)[:, :width]
            real = position < count
        else:
            columns = stays.int().argsort(dim=1, stable=True)[:, keep.shape[1] - width :]
            real = position >= width - count
        return cls(keep, columns, real, fewest < width, most > 0)

    @classmethod
    def full(cls, like: Tensor, length: int) -> Shortening:
        """All of ``length`` columns, in as many rows as [B, ..]."""
        columns = torch.arange(length, device=like.device).expand(like.shape[0], -1)
        every = torch.ones_like(columns, dtype=torch.bool)
        return cls(every, columns, every, False, False)

    def followed_by(self, other: Shortening) -> Shortening:
        """The columns of this prompt, and then those of the other."""
        columns = torch.cat([self.columns, other.columns + self.keep.shape[1]], dim=1)
        return Shortening(
            torch.cat([self.keep, other.keep], dim=1),
            columns,
            torch.cat([self.real, other.real], dim=1),
            self.padded or other.padded,
            self.changed or other.changed,
        )

    def extended(self, count: int) -> Shortening:
        """The same with so many columns more, all kept."""
        return self.followed_by(Shortening.full(self.keep, count)) if count else self

    def repeated(self, times: int) -> Shortening:
        """Each row so many times."""
        keep, columns, real = (
            t.repeat_interleave(times, 0) for t in (self.keep, self.columns, self.real)
        )
        return Shortening(keep, columns, real, self.padded, self.changed)

    def apply(self, tensor: Tensor, padding: float) -> Tensor:
        """Gather the last dimension: [B, L] or [R, B, L] -> the same with L'."""
        columns = self.columns.expand(*tensor.shape[:-1], -1)
        return tensor.gather(-1, columns).masked_fill(~self.real, padding)

    def apply_rows(self, tensor: Tensor) -> Tensor:
        """[B, L, D] -> [B, L', D], zero for padding."""
        rows = tensor.take_along_dim(self.columns[..., None], dim=1)
        return rows.masked_fill(~self.real[..., None], 0)

    def spread(self, tensor: Tensor) -> Tensor:
        """[B, L', D] -> [B, L, D]: a dropped column gets what the kept one before it has."""
        places = self.places.cummax(1).values.clamp_min(0)
        return tensor.take_along_dim(places[..., None], dim=1)

    @property
    def places(self) -> Tensor:
        """Where each column [B, L] went, -1 for those that are gone."""
        position = torch.arange(self.columns.shape[1], device=self.columns.device)
        places = torch.full_like(self.keep, -1, dtype=torch.long)
        # padding repeats dropped columns: real ones are written last, by a maximum
        values = position.expand_as(self.columns).masked_fill(~self.real, -1)
        return places.scatter_reduce(1, self.columns, values, "amax")

    def compact(self, position_ids: Tensor) -> Tensor:
        """Positions [B, L] without gaps: a token moves back by what its sample lost before it.

        Samples packed in a row begin where positions do not go on from the column before.
        """
        gone = self.lost_before
        first = torch.zeros_like(position_ids, dtype=torch.bool)
        first[:, 0] = True
        first[:, 1:] = position_ids.diff(dim=1) != 1
        start = torch.where(first, torch.arange(first.shape[1], device=gone.device), 0)
        before = gone.gather(1, start.cummax(1).values)  # [B, L], lost before the sample
        return self.apply(position_ids - gone + before, 0)

    @property
    def lost_before(self) -> Tensor:
        """How many columns were dropped before each of [B, L]."""
        dropped = (~self.keep).long()
        return dropped.cumsum(1) - dropped


def _excess(first: Tensor, second: Tensor, count: Tensor, right: bool) -> Tensor:
    """Flags [B, L] of ``count`` [B] columns of padding, of the first kind as far as they go."""
    count = count[:, None]
    order = (first.flip(1) if right else first).cumsum(1)
    order = order.flip(1) if right else order
    taken = first & (order <= count)
    rest = count - first.sum(1, keepdim=True).clamp(max=count)
    other = (second if right else second.flip(1)).cumsum(1)
    other = other if right else other.flip(1)
    return taken | (second & ~first & (other <= rest))


def is_packed(position_ids: Tensor) -> bool:
    """Whether rows of [B, L] hold several samples, each with positions of its own."""
    text = position_ids if position_ids.dim() < 3 else position_ids[0]
    return bool((text.diff(dim=-1) < 0).any())
